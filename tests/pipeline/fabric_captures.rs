//! Captures of fabrics as they come: several in one call, cut, of ends that contradict each other, of hosts that lost something.

use gonogo::judge::fabric::findings;
use gonogo::topology::ib::Fabric;

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
    let mut of_switch = format!("devid=0xd2f0\nSwitch\t40 \"S-{switch:016x}\"\t\t# \"{name}\" enhanced port 0 lid 100 lmc 0\n");
    let mut of_hosts = String::new();
    for (i, (there, here)) in rates.iter().enumerate() {
        let (port, guid) = (i + 1, (switch << 8) + i as u64 + 1);
        let host = format!("{name}-host{port} mlx5_0");
        of_switch += &format!("[{port}]\t\"H-{guid:016x}\"[1]({guid:x})\t\t# \"{host}\" lid {port} {there}\n");
        of_hosts += &format!("\ndevid=0x101b\nCa\t1 \"H-{guid:016x}\"\t\t# \"{host}\"\n[1]({guid:x}) \t\"S-{switch:016x}\"[{port}]\t\t# lid {port} lmc 0 \"{name}\" lid 100 {here}\n");
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
