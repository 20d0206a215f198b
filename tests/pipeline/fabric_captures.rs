//! Captures of fabrics as they come: several in one call, cut, of ends that contradict each other, of hosts that lost something.

use gonogo::judge::fabric::findings;
use gonogo::topology::ib::{Fabric, parse_netdiscover, parse_queryerrors};

fn taken(texts: &[&str]) -> Fabric {
    let mut out = Fabric::default();
    for (i, text) in texts.iter().enumerate() {
        assert!(out.take(&format!("file{i}"), text), "of no tool: {text:.200}");
    }
    out
}

/// `CODE severity subject: evidence`.
fn shown(f: &Fabric) -> Vec<String> {
    findings(f).iter().map(|f| format!("{} {} {}: {}", f.code, f.severity.name(), f.subject, f.evidence)).collect()
}

fn found(texts: &[&str]) -> Vec<String> {
    shown(&taken(texts))
}

/// One switch with hosts, each link at a rate of its own, as switch and host print it.
fn star(switch: u64, name: &str, rates: &[(&str, &str)]) -> String {
    let mut of_switch =
        format!("devid=0xd2f0\nSwitch\t40 \"S-{switch:016x}\"\t\t# \"{name}\" enhanced port 0 lid 100 lmc 0\n");
    let mut of_hosts = String::new();
    for (i, (there, here)) in rates.iter().enumerate() {
        let (port, guid) = (i + 1, (switch << 8) + i as u64 + 1);
        let host = format!("{name}-host{port} mlx5_0");
        of_switch += &format!("[{port}]\t\"H-{guid:016x}\"[1]({guid:x})\t\t# \"{host}\" lid {port} {there}\n");
        of_hosts += &format!(
            "\ndevid=0x101b\nCa\t1 \"H-{guid:016x}\"\t\t# \"{host}\"\n[1]({guid:x}) \t\"S-{switch:016x}\"[{port}]\t\t# lid {port} lmc 0 \"{name}\" lid 100 {here}\n"
        );
    }
    of_switch + &of_hosts
}

const GOOD: (&str, &str) = ("4xHDR", "4xHDR");

/// The fault of the first fabric is told whatever comes after it; the same fabric later replaces it, and that is said.
#[test]
fn fabrics_apart_are_judged_apart() {
    let bad = star(0x200, "a", &[GOOD, ("1xHDR", "1xHDR"), GOOD]);
    let (mended, other) = (star(0x200, "a", &[GOOD; 3]), star(0x300, "b", &[GOOD; 3]));
    let named = "FAB-001 fail cable a-host2 mlx5_0 port 1 - a port 2: it runs at 1xHDR";
    for texts in [[bad.as_str(), &other], [&other, &bad]] {
        let f = taken(&texts);
        // Each gave the same LIDs, which is no fault.
        assert_eq!(shown(&f), [named]);
        assert_eq!((f.subnets().count(), f.outdated.len()), (2, 0));
    }
    let f = taken(&[&bad, &other, &mended]);
    assert_eq!(shown(&f), [""; 0]);
    assert_eq!(f.outdated, [("file0".to_owned(), "file2".to_owned())]);
    // A LID that both gave names nobody.
    let counters = "# Port counters: Lid 1 port 1\nSymbolErrorCounter:....99\n";
    let found = found(&[&mended, &other, counters]);
    assert!(found.len() == 1 && found[0].contains("cable LID 1 port 1 - unknown"), "{found:?}");
}

/// Nodes of one GUID are told where they have one name, too, and where only one of them is described.
#[test]
fn a_port_that_two_claim_is_of_two_nodes() {
    let text = star(0x200, "a", &[GOOD; 3]);
    let doubled = text.replace("0000000000020002", "0000000000020001").replace("a-host2", "a-host1");
    let found = found(&[&doubled]);
    let said = "0x0000000000020001: a port 1 and a port 2 say that a-host1 mlx5_0 port 1 is at their other end";
    assert!(found.iter().any(|f| f.starts_with("FAB-012 fail") && f.contains(said)), "{found:?}");
}

/// One lane, and SDR between devices that can do more, are what a link falls back to: a fault where all are so, and among two.
#[test]
fn what_links_fall_back_to_is_no_design() {
    for n in [1, 2, 7] {
        let narrow = found(&[&star(0x200, "a", &vec![("1xHDR", "1xHDR"); n])]);
        assert_eq!(narrow.len(), n, "{narrow:?}");
        assert!(narrow.iter().all(|f| f.starts_with("FAB-001 fail cable a-host")), "{narrow:?}");
        let slow = found(&[&star(0x200, "a", &vec![("4xSDR", "4xSDR"); n])]);
        assert_eq!(slow.len(), n, "{slow:?}");
        assert!(slow.iter().all(|f| f.starts_with("FAB-002 fail cable a-host")), "{slow:?}");
    }
    // Many are told in one.
    let many = found(&[&star(0x200, "a", &[("1xHDR", "1xHDR"); 40])]);
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(many[0].starts_with("FAB-001 fail this run: 40 links run at 1xHDR: the first are a-host1"), "{many:?}");
    // Among links that are ten times as fast it needs no model.
    let untold = star(0x200, "a", &[GOOD, GOOD, ("4xSDR", "4xSDR"), GOOD, GOOD]);
    let untold: String = untold.lines().filter(|l| !l.starts_with("devid=")).map(|l| format!("{l}\n")).collect();
    assert_eq!(found(&[&untold]), ["FAB-002 fail cable a-host3 mlx5_0 port 1 - a port 3: it runs at 4xSDR"]);
    // A device as old as SDR, or one that nobody knows here, is left alone.
    let old = star(0x200, "a", &[("4xSDR", "4xSDR"); 2]).replace("devid=0x101b", "devid=0x5a44");
    assert_eq!(found(&[&old]), [""; 0]);
    // Half of a splitter cable is two lanes by design: said once.
    let mut split = vec![GOOD; 26];
    split.extend([("2xHDR", "2xHDR"); 6]);
    let split = found(&[&star(0x200, "a", &split)]);
    assert_eq!(split.len(), 1, "{split:?}");
    assert!(split[0].starts_with("FAB-001 warn this run: 6 links run at 2xHDR"), "{split:?}");
}

#[test]
fn an_adapter_alone_shows_what_it_fell_back_to() {
    let ibstat = |model: &str, rate: &str| {
        found(&[&format!(
            "CA 'mlx5_0'\n\tCA type: {model}\n\tPort 1:\n\t\tState: Active\n\t\tPhysical state: LinkUp\n\t\tRate: {rate}\n\t\tLink layer: InfiniBand\n"
        )])
    };
    let slow = ibstat("MT4123", "10");
    assert_eq!(
        slow,
        ["FAB-002 fail cable file0: mlx5_0 port 1 - unknown: its rate is 10 Gb/s: SDR, or one lane at QDR"]
    );
    assert!(ibstat("MT4123", "2.5")[0].starts_with("FAB-002 fail"));
    assert!(ibstat("MT4123", "50")[0].starts_with("FAB-002 warn"));
    assert_eq!((ibstat("MT4123", "100"), ibstat("MT4099", "10")), (vec![], vec![]));
}

/// The lower rate of the two that the ends of a cable print counts.
#[test]
fn ends_that_contradict_each_other_are_told() {
    for ends in [("1xHDR", "4xHDR"), ("4xHDR", "1xHDR")] {
        let found = found(&[&star(0x200, "a", &[GOOD, ends, GOOD, GOOD])]);
        let named = "FAB-001 fail cable a-host2 mlx5_0 port 1 - a port 2: it runs at 1xHDR; its other end says 4xHDR";
        assert_eq!(found, [named]);
    }
    // Without anything to compare with, the better end is the measure.
    let alone = found(&[&star(0x200, "a", &[("4xEDR", "4xHDR")])]);
    assert_eq!(
        alone,
        ["FAB-002 warn cable a-host1 mlx5_0 port 1 - a port 1: it runs at 4xEDR; its other end says 4xHDR"]
    );
}

/// iblinkinfo of one switch with hosts, both ends of each link.
fn link_info(links: &[(&str, &str)]) -> String {
    let mut of_switch = "Switch: 0x0000000000000200 a:\n".to_owned();
    let mut of_hosts = String::new();
    for (i, (link, could)) in links.iter().enumerate() {
        let (port, lid) = (i + 1, i + 2);
        of_switch += &format!(
            "   1   {port}[  ] ==( {link} Active/  LinkUp)==>   {lid}    1[  ] \"host{port} mlx5_0\" ({could})\n"
        );
        of_hosts += &format!(
            "CA: host{port} mlx5_0:\n   0x{:016x}  {lid}    1[  ] ==( {link} Active/  LinkUp)==>    1    {port}[  ] \"a\" ({could})\n",
            0x1000 + i
        );
    }
    of_switch + &of_hosts
}

/// What most links could be is told once; what one lane could be, always.
#[test]
fn what_most_links_could_be_is_told() {
    const FULL: (&str, &str) = ("4X 53.125 Gbps", " ");
    let (narrow, slow) = (("1X 53.125 Gbps", "Could be 4X"), ("4X 25.78125 Gbps", "Could be 53.125 Gbps"));
    for n in [1, 2, 4] {
        let found = found(&[&link_info(&vec![narrow; n])]);
        assert_eq!(found.len(), n, "{found:?}");
        assert!(found.iter().all(|f| f.starts_with("FAB-001 fail cable a port ")), "{found:?}");
    }
    let many = found(&[&link_info(&[vec![narrow; 17], vec![FULL; 40]].concat())]);
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(
        many[0].starts_with("FAB-001 fail this run: 34 of 114 ports run at 1xHDR: the first are a port 1 - host1"),
        "{many:?}"
    );
    let all = found(&[&link_info(&[slow; 4])]);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("FAB-002 warn this run: 8 of 8 ports run at 4xEDR"), "{all:?}");
    // Silicon has twelve lanes, and no cable has.
    assert_eq!(found(&[&link_info(&[("4X 53.125 Gbps", "Could be 12X"); 4])]), [""; 0]);
}

/// A link that goes down time and again, and one whose counter cannot show the next time.
#[test]
fn links_that_went_down_often_are_told() {
    let down =
        |n: u64| found(&[&format!("Errors for 0x200 \"a\"\n   GUID 0x200 port 4: [LinkDownedCounter == {n}]\n")]);
    assert_eq!(down(40), [""; 0]);
    let named = "FAB-005 warn cable a port 4 - unknown: a port 4: LinkDownedCounter";
    assert_eq!(down(120), [format!("{named} 120, since the counters were last cleared")]);
    let stuck = down(255);
    assert!(stuck.len() == 2 && stuck[0].starts_with(named), "{stuck:?}");
    assert_eq!(stuck[1], "FAB-016 warn this run: a port 4: LinkDownedCounter 255");
}

/// A packet that was dropped is no fault; eleven without an earlier reading, or one since it, are told.
#[test]
fn a_few_drops_are_ordinary() {
    let drops = |n: u64| format!("Errors for 0x200 \"a\"\n   GUID 0x200 port 4: [PortXmitDiscards == {n}]\n");
    assert_eq!(found(&[&drops(1)]), [""; 0]);
    assert!(found(&[&drops(11)])[0].starts_with("FAB-006 warn"));
    let mut f = taken(&[&drops(12)]);
    f.before = Some(parse_queryerrors(&drops(11)).value);
    assert!(shown(&f)[0].contains("PortXmitDiscards 1, since the earlier reading"), "{:?}", shown(&f));
}

/// ibqueryerrors tells GUIDs and perfquery LIDs: a topology says which is which, and without one nothing is said to have moved.
#[test]
fn an_earlier_reading_of_another_tool_is_matched_by_the_topology() {
    let (by_guid, by_lid) = (
        "Errors for 0x200 \"a\"\n   GUID 0x200 port 2: [SymbolErrorCounter == 500]\n",
        "# Port counters: Lid 100 port 2\nSymbolErrorCounter:....500\n",
    );
    let net = star(0x200, "a", &[GOOD; 3]);
    for (now, before) in [(by_guid, by_lid), (by_lid, by_guid)] {
        let mut f = taken(&[&net, now]);
        f.before = Some(parse_queryerrors(before).value);
        assert_eq!(shown(&f), [""; 0]);
        f.before = Some(parse_queryerrors(&before.replace("500", "499")).value);
        let named = "FAB-005 fail cable a-host2 mlx5_0 port 1 - a port 2: a port 2: SymbolErrorCounter 1, since the earlier reading";
        assert_eq!(shown(&f), [named]);
        let mut f = taken(&[now]);
        f.before = Some(parse_queryerrors(before).value);
        let found = shown(&f);
        assert!(found.iter().any(|f| f.starts_with("FAB-015 warn this run: 1 port cannot be compared")), "{found:?}");
        assert!(found.iter().any(|f| f.starts_with("FAB-005 warn") && f.contains("last cleared")), "{found:?}");
    }
}

/// Where no port was read nothing is proven; where something was, what is left out is told beside it.
#[test]
fn what_says_nothing_of_any_port_is_no_pass() {
    let sum = "# Port counters: Lid 3 port 255\nPortSelect:....255\nSymbolErrorCounter:....65535\n";
    let unlisted = "## Summary: 38 nodes checked, 3 bad nodes found\n##          272 ports checked, 7 ports have errors beyond threshold\n";
    let cut = "Errors for 0x200 \"a\"\n   GUID 0x200 port 4: [SymbolErrorCounter ==";
    for text in [sum, unlisted, cut] {
        let alone = found(&[text]);
        assert!(!alone.is_empty() && alone.iter().all(|f| f.starts_with("FAB-015 hold this run: ")), "{alone:?}");
        let beside = found(&[&star(0x200, "a", &[GOOD; 3]), text]);
        assert!(!beside.is_empty() && beside.iter().all(|f| f.starts_with("FAB-015 warn this run: ")), "{beside:?}");
    }
    // That none is beyond its threshold is an answer.
    assert_eq!(found(&[&unlisted.replace(", 7 ports", ", 0 ports")]), [""; 0]);
    // Each file's own first line that was not understood.
    let net = star(0x200, "a", &[GOOD; 3]) + "nonsense\n";
    assert_eq!(found(&[&net, cut]).len(), 3);
    let cut = link_info(&[("4X 53.125 Gbps", " "); 2]) + "     ";
    assert_eq!(found(&[&cut]), ["FAB-015 warn this run: file0: it ends within a line"]);
}

/// `--expect`: a cable that nobody expected is told, and so is a topology to be expected of which only a part was read.
#[test]
fn what_is_not_expected_is_told() {
    let good = star(0x200, "a", &[GOOD; 3]);
    let loops = good.replacen("[1]\t", "[20]\t\"S-0000000000000200\"[21]\t\t# \"a\" lid 100 4xHDR\n[21]\t\"S-0000000000000200\"[20]\t\t# \"a\" lid 100 4xHDR\n[1]\t", 1);
    let expecting = |now: &str, expected: &str| {
        let mut f = taken(&[now]);
        f.expected = Some(parse_netdiscover(expected).value);
        shown(&f)
    };
    assert_eq!(expecting(&good, &good), [""; 0]);
    assert_eq!(expecting(&loops, &good), ["FAB-008 warn cable a port 20 - a port 21: this cable is not expected"]);
    let more = star(0x200, "a", &[GOOD; 5]);
    let found = expecting(&more, &good);
    assert!(
        found.len() == 1 && found[0].starts_with("FAB-008 warn this run: 2 cables of nodes that are new"),
        "{found:?}"
    );
    let cut: String = good.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n");
    let found = expecting(&more, &cut);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("FAB-015 warn this run: of the expected topology 2 nodes are pointed at"),
        "{found:?}"
    );
}

/// Hosts with a device at each of four leaves, `at` telling the leaf of one.
fn railed(at: &dyn Fn(u64, u64) -> Option<u64>) -> String {
    let (mut leaves, mut hosts) = (vec![String::new(); 4], String::new());
    for host in 0..8 {
        for device in 0..4 {
            let (Some(leaf), guid) = (at(host, device), 0x1000 + host * 16 + device) else { continue };
            let port = 1 + host + if leaf == device { 0 } else { 10 + 8 * device };
            leaves[leaf as usize] +=
                &format!("[{port}]\t\"H-{guid:016x}\"[1]({guid:x})\t\t# \"n{host} mlx5_{device}\" lid {guid} 4xNDR\n");
            hosts += &format!(
                "\ndevid=0x1021\nCa\t1 \"H-{guid:016x}\"\t\t# \"n{host} mlx5_{device}\"\n[1]({guid:x}) \t\"S-{:016x}\"[{port}]\t\t# lid {guid} lmc 0 \"leaf{leaf}\" lid 9 4xNDR\n",
                0x200 + leaf
            );
        }
    }
    let leaf = |(i, ports): (usize, &String)| {
        format!(
            "devid=0xd2f2\nSwitch\t64 \"S-{:016x}\"\t\t# \"leaf{i}\" enhanced port 0 lid {} lmc 0\n{ports}\n",
            0x200 + i,
            10 + i
        )
    };
    leaves.iter().enumerate().map(leaf).collect::<String>() + &hosts
}

#[test]
fn a_rail_that_is_lost_or_elsewhere_is_named() {
    assert_eq!(found(&[&railed(&|_, device| Some(device))]), [""; 0]);
    let lost = found(&[&railed(&|host, device| (host != 2 || device != 1).then_some(device))]);
    assert_eq!(lost, ["FAB-003 warn cable n2 mlx5_1 port 1 - nothing: it is not in the fabric: n2 has 3 of 4 ports"]);
    let moved = found(&[&railed(&|host, device| Some(if host == 2 && device == 1 { 0 } else { device }))]);
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert!(moved[0].starts_with(
        "FAB-009 fail cable n2 mlx5_1 port 1 - leaf0 port 21: mlx5_1 hangs at a leaf where the others are mlx5_0"
    ));
    // One that counts its devices in another way has all of them elsewhere.
    assert_eq!(found(&[&railed(&|host, device| Some(if host == 2 { (device + 1) % 4 } else { device }))]), [""; 0]);
    // A storage node has one by design.
    assert_eq!(found(&[&railed(&|host, device| (host != 2 || device == 0).then_some(device))]), [""; 0]);
}

/// A manager's host at each of two spines: four leaves are left, and they are held against each other.
#[test]
fn a_host_at_a_spine_makes_no_leaf_of_it() {
    let mut text = String::new();
    let switch = |guid: u64, name: &str| {
        format!("devid=0xd2f0\nSwitch\t40 \"S-{guid:016x}\"\t\t# \"{name}\" enhanced port 0 lid {guid} lmc 0\n")
    };
    for leaf in 0..4u64 {
        text += &switch(0x200 + leaf, &format!("leaf{leaf}"));
        for host in 0..2 {
            text += &format!(
                "[{}]\t\"H-{:016x}\"[1]\t\t# \"n{leaf}{host} mlx5_0\" lid 9 4xHDR\n",
                host + 1,
                0x1000 + 2 * leaf + host
            );
        }
        for up in 0..4u64 {
            // The last leaf lost one.
            if (leaf, up) != (3, 3) {
                text += &format!(
                    "[{}]\t\"S-{:016x}\"[{}]\t\t# \"spine\" lid 9 4xHDR\n",
                    30 + up,
                    0x300 + up / 2,
                    2 * leaf + up % 2 + 1
                );
            }
        }
    }
    for spine in 0..2 {
        text += &switch(0x300 + spine, &format!("spine{spine}"));
        text += &format!("[39]\t\"H-{:016x}\"[1]\t\t# \"ufm{spine} mlx5_0\" lid 9 4xHDR\n", 0x2000 + spine);
    }
    for guid in (0x1000..0x1008).chain(0x2000..0x2002) {
        text += &format!("devid=0x101b\nCa\t1 \"H-{guid:016x}\"\t\t# \"n{guid} mlx5_0\"\n");
    }
    let found = found(&[&text]);
    assert!(found.len() == 1 && found[0].starts_with("FAB-004 warn switch leaf3: 3 uplinks"), "{found:?}");
}

/// What stands in one file is read whole: several tools one after the other, nodes line by line, links beside their errors.
#[test]
fn captures_as_people_send_them_are_read() {
    let net = star(0x200, "a", &[GOOD; 3]);
    let links = link_info(&[("1X 53.125 Gbps", "Could be 4X"), ("4X 53.125 Gbps", " ")]);
    let counters = "Errors for 0x200 \"a\"\n   GUID 0x200 port 3: [SymbolErrorCounter == 500]\n";
    let stat = "CA 'mlx5_0'\n\tCA type: MT4123\n\tPort 1:\n\t\tState: Initializing\n\t\tPhysical state: LinkUp\n";
    let all = taken(&[&format!("{net}\n{links}{counters}\n{stat}")]);
    assert_eq!(all.skipped, []);
    let mut codes: Vec<String> = shown(&all).iter().map(|f| f[..12].to_owned()).collect();
    codes.dedup();
    assert_eq!(codes, ["FAB-001 fail", "FAB-003 fail", "FAB-005 warn"]);
    // pdsh
    let said: String = stat.lines().map(|line| format!("node01: {line}\n")).collect();
    assert_eq!(found(&[&said]), ["FAB-003 fail cable node01: mlx5_0 port 1 - unknown: Initializing / LinkUp"]);
    // ibqueryerrors -r
    let report = "Errors for 0x200 \"a\"\n   GUID 0x200 port 1: [PortXmitWait == 5]\n       Link info:      1    1[  ] ==( 1X   53.125 Gbps Active/  LinkUp)==>  0x0000000000001000      2    1[  ] \"host1 mlx5_0\" (Could be 4X)\n";
    assert_eq!(found(&[report]), ["FAB-001 fail cable a port 1 - host1 mlx5_0 port 1: it runs at 1xHDR"]);
    // ibsim's net files
    let plain = taken(&["Switch\t8 \"Switch1\"\n[1]\t\"Hca1\"[1]\n\nHca\t2 \"Hca1\"\n[1]\t\"Switch1\"[1]\n"]);
    assert_eq!((plain.skipped.len(), plain.subnets().map(|s| s.cables().len()).sum::<usize>()), (0, 1));
}
