//! InfiniBand fabrics: real captures parsed whole, every finding provoked, nonsense survived.

use std::path::Path;

use crate::common;
use gonogo::id::NodeName;
use gonogo::judge::fabric::findings;
use gonogo::judge::{self, Severity};
use gonogo::localise;
use gonogo::measure::{Capture, Facts, Measured, Outcome};
use gonogo::topology::ib::{
    Fabric, Tool, parse_ibstat, parse_linkinfo, parse_netdiscover, parse_queryerrors, parse_sm,
};
use proptest::prelude::*;

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fabric").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn fabric(texts: &[&str]) -> Fabric {
    let mut out = Fabric::default();
    for text in texts {
        assert!(out.take("text", text), "of no tool: {text:.200}");
    }
    out
}

fn shown(f: &Fabric) -> Vec<String> {
    findings(f).iter().map(|f| format!("{} {}: {}", f.code, f.subject, f.evidence)).collect()
}

/// Two leaves and a spine would be too few to compare: eight leaves of four hosts with two devices each, a rail a leaf
/// pair, two spines, one uplink to each.
fn net(change: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let port = |block: &mut String, own: u32, letter: &str, peer: u32, peer_port: u32, name: &str| {
        let rate = change(&format!("{name}[{own}]"));
        if rate != "none" {
            block.push_str(&format!("[{own}]\t\"{letter}-{peer:016x}\"[{peer_port}]\t\t# \"{name}\" lid 9 {rate}\n"));
        }
    };
    for leaf in 0..8u32 {
        let mut block = format!(
            "devid=0xd2f0\nSwitch\t40 \"S-{:016x}\"\t\t# \"leaf{leaf}\" enhanced port 0 lid {} lmc 0\n",
            0x200 + leaf,
            100 + leaf
        );
        for host in 0..4 {
            let (number, device) = ((leaf / 2) * 4 + host, leaf % 2);
            port(&mut block, host + 1, "H", 0x1000 + 2 * number + device, 1, &format!("host{number:02} mlx5_{device}"));
        }
        for spine in 0..2 {
            port(&mut block, 33 + spine, "S", 0x300 + spine, leaf + 1, &format!("spine{spine} of leaf{leaf}"));
        }
        out.push_str(&(block + "\n"));
    }
    for spine in 0..2u32 {
        out.push_str(&format!(
            "devid=0xd2f0\nSwitch\t40 \"S-{:016x}\"\t\t# \"spine{spine}\" enhanced port 0 lid {} lmc 0\n\n",
            0x300 + spine,
            200 + spine
        ));
    }
    for number in 0..16u32 {
        for device in 0..2 {
            let guid = 0x1000 + 2 * number + device;
            out.push_str(&format!("devid=0x101b\nCa\t1 \"H-{guid:016x}\"\t\t# \"host{number:02} mlx5_{device}\"\n[1]({guid:x}) \t\"S-{:016x}\"[{}]\t\t# lid {guid} lmc 0 \"leaf\" lid 9 {}\n\n",
                0x200 + 2 * (number / 4) + device, number % 4 + 1, change(&format!("host{number:02} mlx5_{device}[{}]", number % 4 + 1))).replace("none", "4xHDR"));
        }
    }
    out
}

fn healthy(_: &str) -> String {
    "4xHDR".to_owned()
}

/// What a change at one place brings up.
fn with(place: &'static str, rate: &'static str) -> String {
    net(&|p| if p == place { rate.to_owned() } else { healthy(p) })
}

/// Findings of a fabric that must bring a code up.
pub fn provoke(code: &str) -> Vec<String> {
    let link = |text: &str| fabric(&[&net(&healthy), text]);
    let up = "( 4X      53.125 Gbps Active/  LinkUp)";
    let line = |link: &str, could: &str| {
        format!(
            "Switch: 0x0000000000000200 leaf0:\n    100    1[  ] =={link}==>    4096    1[  ] \"host00 mlx5_0\" ({could})\n    100    2[  ] =={up}==>    4098    1[  ] \"host01 mlx5_0\" ( )\n    100    3[  ] =={up}==>    4100    1[  ] \"host02 mlx5_0\" ( )\n"
        )
    };
    let swap = |text: String, a: &str, b: &str| text.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
    let f = match code {
        "FAB-001" => fabric(&[&with("host03 mlx5_0[4]", "1xHDR")]),
        "FAB-002" => link(&line("( 4X      25.78125 Gbps Active/  LinkUp)", "Could be 53.125 Gbps")),
        "FAB-003" => link(&line("(                Down/PortConfigurationTraining)", "")),
        "FAB-004" => fabric(&[&with("spine1 of leaf3[34]", "none")]),
        "FAB-005" => link("Errors for \"host03 mlx5_0\"\n   GUID 0x1006 port 1: [SymbolErrorCounter == 4211] [LinkDownedCounter == 3]\n"),
        "FAB-006" => link("Errors for 0x200 \"leaf0\"\n   GUID 0x200 port 4: [PortXmitDiscards == 640]\n"),
        "FAB-007" | "FAB-008" => {
            let mut f = fabric(&[&net(&healthy)]);
            f.expected = Some(parse_netdiscover(&net(&healthy)).value);
            let moved = if code == "FAB-007" { with("spine1 of leaf3[34]", "none") } else { net(&healthy).replace("[33]\t", "[39]\t").replace("[34]\t", "[33]\t").replace("[39]\t", "[34]\t") };
            f.subnet = Some(parse_netdiscover(&moved).value);
            f
        }
        // host05's two cables, at both ends of each.
        "FAB-009" => fabric(&[&swap(net(&healthy), "\"H-000000000000100a\"[1]", "\"H-000000000000100b\"[1]")]),
        "FAB-010" => link("sminfo: sm lid 1 sm guid 0x1000, activity count 9 priority 0 state 2 SMINFO_STANDBY\n"),
        "FAB-011" => link("sminfo: sm lid 1 sm guid 0x1000, activity count 9 priority 0 state 3 SMINFO_MASTER\nsminfo: sm lid 2 sm guid 0x1002, activity count 9 priority 0 state 3 SMINFO_MASTER\n"),
        "FAB-012" => fabric(&[&(net(&healthy) + "Ca\t1 \"H-0000000000001000\"\t\t# \"another mlx5_0\"\n")]),
        "FAB-013" => fabric(&[&net(&healthy).replace("lid 101 lmc", "lid 100 lmc")]),
        "FAB-014" => fabric(&[&net(&healthy).replace("\"leaf3\" enhanced port 0 lid 103 lmc 0\n", "\"leaf3\" enhanced port 0 lid 103 lmc 0\n[9]\t\"H-0000000000009001\"[1]\t# \"x mlx5_0\" lid 1 4xHDR\n[10]\t\"H-0000000000009002\"[1]\t# \"y mlx5_0\" lid 1 4xHDR\n").replacen("devid=0x101b\nCa", "Ca\t1 \"H-0000000000009001\" # \"x mlx5_0\"\n\nCa\t1 \"H-0000000000009002\" # \"y mlx5_0\"\n\ndevid=0x101b\nCa", 1)]),
        "FAB-015" => fabric(&[&(net(&healthy) + "cannot query something\n")]),
        "FAB-016" => {
            let text = "Errors for \"host03 mlx5_0\"\n   GUID 0x1006 port 1: [SymbolErrorCounter == 65535] [LinkDownedCounter == 255]\n";
            let mut f = link(text);
            f.before = Some(parse_queryerrors(text).value);
            f
        }
        "FAB-017" => {
            let mut f = Fabric::default();
            for node in 0..4 {
                let layer = if node == 2 { "Ethernet" } else { "InfiniBand" };
                let text = format!("CA 'mlx5_0'\n\tCA type: MT4129\n\tPort 1:\n\t\tState: Active\n\t\tPhysical state: LinkUp\n\t\tRate: 400\n\t\tLink layer: {layer}\n");
                assert!(f.take(&format!("n{node}"), &text));
            }
            f
        }
        _ => return Vec::new(),
    };
    shown(&f)
}

#[test]
fn a_healthy_fabric_has_no_findings() {
    assert_eq!(shown(&fabric(&[&net(&healthy)])), [""; 0]);
}

/// The exact cable, by both ends, and no other.
#[test]
fn the_cable_is_named_by_both_ends() {
    assert_eq!(provoke("FAB-001"), ["FAB-001 cable host03 mlx5_0 port 1 - leaf0 port 4: it runs at 1xHDR"]);
    assert_eq!(provoke("FAB-002"), ["FAB-002 cable host00 mlx5_0 port 1 - leaf0 port 1: it runs at 4xEDR"]);
    assert_eq!(
        provoke("FAB-003"),
        ["FAB-003 cable host00 mlx5_0 port 1 - leaf0 port 1: Down / PortConfigurationTraining"]
    );
    let crossed = provoke("FAB-009");
    assert_eq!(crossed.len(), 2, "{crossed:?}");
    assert!(crossed.iter().all(|f| f.starts_with("FAB-009 cable host05")), "{crossed:?}");
}

/// Few links have no usual rate, but one lane is what is left of a link; without a link there is nothing to compare at all.
#[test]
fn what_lost_its_lanes_among_few_and_what_has_no_cable_is_named() {
    let mut few =
        "devid=0xd2f0\nSwitch\t40 \"S-0000000000000200\"\t\t# \"leaf0\" enhanced port 0 lid 100 lmc 0\n".to_owned();
    for host in 1..=7 {
        let rate = if host < 3 { "1xHDR" } else { "4xHDR" };
        few.push_str(&format!(
            "[{host}]\t\"H-{:016x}\"[1]\t\t# \"host{host} mlx5_0\" lid {host} {rate}\n",
            0x1000 + host
        ));
    }
    for host in 1..=7 {
        let rate = if host < 3 { "1xHDR" } else { "4xHDR" };
        few.push_str(&format!(
            "\ndevid=0x101b\nCa\t1 \"H-{guid:016x}\"\t\t# \"host{host} mlx5_0\"\n[1]({guid:x}) \t\"S-0000000000000200\"[{host}]\t\t# lid {host} lmc 0 \"leaf0\" lid 100 {rate}\n",
            guid = 0x1000 + host
        ));
    }
    let found = shown(&fabric(&[&few]));
    let named = |host: u32| format!("FAB-001 cable host{host} mlx5_0 port 1 - leaf0 port {host}: it runs at 1xHDR");
    assert_eq!(found, [named(1), named(2)]);
    // All alike are how it was built.
    assert_eq!(shown(&fabric(&[&few.replace("1xHDR", "4xHDR")])), [""; 0]);

    let alone = "vendid=0x2c9\ndevid=0x101b\nCa\t1 \"H-0000000000001000\"\t\t# \"host00 mlx5_0\"\n";
    let found = shown(&fabric(&[alone]));
    assert!(
        found.len() == 1 && found[0].starts_with("FAB-003 this run: host00 mlx5_0 is connected with nothing"),
        "{found:?}"
    );
}

/// In a check, the cable of another job's node is told and does not weigh; the fabric's leaves are the run's.
#[test]
fn a_check_weighs_the_cables_of_its_own_nodes() {
    let text = with("host03 mlx5_0[4]", "1xHDR");
    let known_as = |nodes: [&str; 2], kernel: &[(&str, &str)]| {
        let mut record = common::healthy(Default::default());
        record.header.launcher = Some("Slurm".into());
        record.header.kernel_names = kernel.iter().map(|(n, k)| (NodeName((*n).into()), (*k).to_owned())).collect();
        record.header.nodes = nodes.map(|n| NodeName(n.into())).to_vec();
        let leaves = parse_netdiscover(&text).value.leaves();
        let capture = Capture { tool: "ibnetdiscover".into(), text: text.clone(), leaves };
        let outcome = Measured { facts: Some(Box::new(Facts::Fabric(Box::new(capture)))), ..Measured::default() };
        let at = common::add_on(&mut record, nodes[0], "fabric", "ibnetdiscover before", Outcome::Measured(outcome));
        record.outcomes[at].step = "fabric-before".into();
        let j = judge::judge(&record, &record.header.plan.run, &[]);
        let found = j.findings.iter().find(|f| f.code.as_str() == "FAB-001").map(|f| f.severity);
        let leaves: Vec<String> = localise::leaves(&record).iter().take(2).map(|l| l.name.clone()).collect();
        (found, leaves)
    };
    let of = |nodes| known_as(nodes, &[]);
    let named = vec!["leaf0".to_owned(), "leaf2".to_owned()];
    assert_eq!(of(["host03", "host04"]), (Some(Severity::Fail), named.clone()));
    assert_eq!(of(["host01.cluster", "host04"]), (Some(Severity::Info), named.clone()));
    // Its nodes are not in this fabric: whose cable it is cannot be told, and no leaf is known.
    assert_eq!(of(["a", "b"]), (Some(Severity::Fail), vec![]));
    // A fabric calls its hosts as their kernels do, which need not be as the scheduler does.
    assert_eq!(known_as(["a", "b"], &[("a", "host03.dc"), ("b", "host04.dc")]), (Some(Severity::Fail), named.clone()));
    assert_eq!(known_as(["a", "b"], &[("a", "host01.dc"), ("b", "host04.dc")]), (Some(Severity::Info), named));
}

/// Counters: only what moved is blamed when there is an earlier reading, and one that went back was cleared.
#[test]
fn only_what_moved_is_blamed() {
    let counters = |n: u64| {
        format!(
            "Errors for \"host03 mlx5_0\"\n   GUID 0x1006 port 1: [SymbolErrorCounter == {n}] [LinkDownedCounter == 7]\n"
        )
    };
    let seen = |before: u64, now: u64| {
        let mut f = fabric(&[&net(&healthy), &counters(now)]);
        f.before = Some(parse_queryerrors(&counters(before)).value);
        findings(&f).iter().map(|f| format!("{} {}", f.code, f.severity.name())).collect::<Vec<_>>()
    };
    assert_eq!(seen(500, 500), [""; 0]);
    assert_eq!(seen(500, 501), ["FAB-005 fail"]);
    // At its end it cannot move: that proves nothing, and is told.
    assert_eq!(seen(65_535, 65_535), ["FAB-016 warn"]);
    assert_eq!(seen(500, 3), ["FAB-005 fail"]);
}

#[test]
fn real_fabrics_are_read_whole() {
    for (file, switches, nodes, cables, skipped) in [
        ("ndr-582.ibnetdiscover", 40, 622, 1114, 0),
        ("hdr-1247.ibnetdiscover", 160, 1407, 3286, 0),
        ("fdr10-144.ibnetdiscover", 8, 152, 192, 0),
    ] {
        let parsed = parse_netdiscover(&fixture(file));
        let of_switches = parsed.value.nodes.values().filter(|n| n.kind == gonogo::topology::ib::Kind::Switch).count();
        let got = (of_switches, parsed.value.nodes.len(), parsed.value.cables().len(), parsed.skipped.len());
        assert_eq!(got, (switches, nodes, cables, skipped), "{file}");
    }
    let text = fixture("simulated.iblinkinfo");
    let links = parse_linkinfo(&text);
    assert_eq!((links.value.len(), links.skipped.len()), (text.matches("==(").count(), 0));
    let errors = parse_queryerrors(&fixture("simulated.ibqueryerrors"));
    assert_eq!((errors.value.len(), errors.skipped.len()), (28, 0), "{:?}", errors.skipped);
    let counters = parse_queryerrors(&fixture("edr-switch.perfquery"));
    assert_eq!((counters.value.len(), counters.skipped.len()), (2, 0), "{:?}", counters.skipped);
    assert!(counters.value[0].counters.len() > 15, "{:?}", counters.value[0]);
    let sm = parse_sm(&fixture("simulated.saquery"));
    assert!(sm.skipped.is_empty() && sm.value.iter().filter(|s| s.master).count() == 1, "{sm:?}");
}

/// A real cluster whose two cables were swapped: nobody told the tool.
#[test]
fn crossed_rails_of_a_real_cluster_are_found() {
    let crossed: Vec<String> = shown(&fabric(&[&fixture("ndr-582.ibnetdiscover")]));
    assert_eq!(crossed.len(), 2, "{crossed:?}");
    assert!(crossed.iter().all(|f| f.starts_with("FAB-009 cable b08-p1-dgx-08-c01 HCA-")), "{crossed:?}");
}

/// Leaves for the schedule.
#[test]
fn leaves_come_from_the_first_device_of_each_host() {
    let leaves = parse_netdiscover(&fixture("ndr-582.ibnetdiscover")).value.leaves();
    let hosts: usize = leaves.iter().map(|l| l.nodes.len()).sum();
    assert!(hosts > 100 && leaves.len() > 4, "{hosts} {}", leaves.len());
    let mut names: Vec<&String> = leaves.iter().flat_map(|l| l.nodes.iter().map(|n| &n.0)).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), hosts);
}

/// Rates that nobody knows yet are shown and compared with nothing.
#[test]
fn hardware_of_tomorrow_is_no_fault() {
    let text = net(&|p| if p.starts_with("host03") { "16xZDR".to_owned() } else { healthy(p) });
    let found = shown(&fabric(&[&text]));
    assert!(found.iter().all(|f| !f.contains("host03")), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Cut, doubled and garbled captures: something comes of them, and no panic.
    #[test]
    fn garbled_captures_are_survived(cut in 0usize..40_000, from in 0usize..40_000, junk in "\\PC{0,20}", file in 0usize..8) {
        let name = ["fdr10-144.ibnetdiscover", "simulated.iblinkinfo", "simulated.ibqueryerrors", "edr-switch.perfquery", "simulated.saquery", "ports.ibnetdiscover", "node.ibstat", "extended.perfquery"][file];
        let text: String = fixture(name).chars().take(40_000).collect();
        let at = |n: usize| text.char_indices().map(|(i, _)| i).nth(n % text.chars().count().max(1)).unwrap_or(0);
        let (a, b) = (at(cut).min(at(from)), at(cut).max(at(from)));
        let garbled = format!("{}{junk}{}", &text[..a], &text[b..]);
        for text in [garbled.as_str(), &text[a..b]] {
            let mut f = Fabric { subnet: Some(parse_netdiscover(text).value), links: Some(parse_linkinfo(text).value),
                errors: Some(parse_queryerrors(text).value), sms: Some(parse_sm(text).value),
                adapters: Some(parse_ibstat("text", text).value), ..Fabric::default() };
            f.before = f.errors.clone();
            f.expected = Some(parse_netdiscover(&text[..at(cut / 2).min(text.len()).min(a)].chars().collect::<String>()).value);
            let _ = (findings(&f), Tool::of(text), f.subnet.as_ref().map(|s| s.leaves()));
        }
    }

    #[test]
    fn a_topology_by_nodes_and_by_ports_is_held_against_each_other(cut in 0usize..40_000, by_port in proptest::bool::ANY) {
        let text: String = fixture(if by_port { "ports.ibnetdiscover" } else { "fdr10-144.ibnetdiscover" }).chars().take(cut).collect();
        let subnet = parse_netdiscover(&text).value;
        let split = subnet.split_by_port();
        assert_eq!(subnet.cables().len(), split.cables().len());
        for (own, expected) in [(&subnet, &split), (&split, &subnet)] {
            let f = Fabric { subnet: Some(own.clone()), expected: Some(expected.clone()), ..Fabric::default() };
            assert!(findings(&f).iter().all(|f| !["FAB-007", "FAB-008"].contains(&f.code.as_str())));
        }
    }

    #[test]
    fn nonsense_is_survived(text in "(Switch|Ca|\\[|\\]|\"S-|\"H-|0x|[0-9a-f]|\"|#| lid | lmc |==\\(|\\)==>|4xHDR|Errors for |GUID |port | == |\\.|:|\n|\t| |\\PC){0,60}") {
        let f = Fabric { subnet: Some(parse_netdiscover(&text).value), links: Some(parse_linkinfo(&text).value),
            errors: Some(parse_queryerrors(&text).value), sms: Some(parse_sm(&text).value), ..Fabric::default() };
        let _ = findings(&f);
    }
}
