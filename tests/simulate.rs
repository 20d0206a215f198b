//! `gonogo simulate`: what the localiser and the rules say of clusters whose faults are known, because they were put there. No socket is
//! opened and nothing is measured: the same seed gives the same answer on any machine.

use std::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Known targets of the localiser: exactly the right nodes, in six rounds of pairs or fewer in 99 % of the runs (eight among 512 with five
/// bad, as 300 runs show: a little over 1 % of the runs take a closer look at somebody who is well); three more at most while somebody is
/// neither cleared nor named.
#[test]
fn the_localiser_finds_exactly_the_bad_nodes() -> Result {
    for (nodes, bad, runs, least, mostly, more) in [
        ("32", "1", "1000", 0.999, 6, &[][..]),
        ("512", "5", "60", 0.995, 8, &[]),
        ("10000", "50", "1", 0.97, 6, &[]),
        // Some 90 metrics a node, all of them well: nobody is called bad.
        ("500", "0", "10", 1.0, 6, &["--alone", "--tier", "standard"]),
        // Nodes that are checked by themselves, each with eight GPUs that are as unlike as healthy ones are.
        ("1", "0", "1000", 1.0, 6, &["--gpus", "8", "--noise", "0.01"]),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
            .args(["simulate", "--nodes", nodes, "--bad", bad, "--runs", runs])
            .args(more)
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(text.lines().all(|l| l.starts_with("simulated")), "{text}");
        let number = |after: &str| -> Option<f64> {
            text.split(after).nth(1)?.split_whitespace().next()?.trim_end_matches('%').parse().ok()
        };
        let right = number("exactly the right nodes in ").unwrap_or(0.0) / runs.parse::<f64>()?;
        assert!(right >= least, "{text}");
        let rounds = |before: &str| text.split(before).next()?.split_whitespace().last()?.parse::<u32>().ok();
        assert!(
            rounds(" or fewer").is_some_and(|r| r <= mostly) && rounds(" at most").is_some_and(|r| r <= 9),
            "{text}"
        );
    }
    Ok(())
}

/// Slow with one partner again and again, and well with others: either of the two comes and goes, and the run is not launched with them.
#[test]
fn who_comes_and_goes_holds() -> Result {
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["simulate", "--nodes", "64", "--fault", "flapping:10=0.5", "--seed", "29"])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.lines().any(|l| l.trim_end() == "simulated  HOLD"), "{text}");
    let held = "hold  NET-028  node sim11: slow in 5 of 8 tests, more than others' traffic explains";
    assert!(text.contains(held) && !text.contains("  fail  "), "{text}");
    Ok(())
}

#[test]
fn each_kind_of_fault_has_its_own_verdict() -> Result {
    for (fault, code, subject) in [
        ("sends:7", "NET-021", "sim008"),
        ("receives:7", "NET-022", "sim008"),
        ("leaf:3", "NET-024", "leaf3"),
        ("scale:70@8", "COL-022", "sim071"),
        ("cpu:7", "PER-001", "sim008"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
            .args(["simulate", "--nodes", "256", "--alone", "--fault", fault])
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let found: Vec<&str> = text.lines().filter(|l| l.contains("  fail  ")).collect();
        assert!(!found.is_empty() && found.iter().all(|l| l.contains(code) && l.contains(subject)), "{fault}: {text}");
    }
    // Nobody tells the leaves: they are inferred, and the bad one is found all the same.
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["simulate", "--nodes", "256", "--no-topology", "--fault", "leaf:3"])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("NET-024  leaf inferred3"), "{text}");
    let out =
        Command::new(env!("CARGO_BIN_EXE_gonogo")).args(["simulate", "--nodes", "256", "--uplinks", "0.5"]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("NET-025") && !text.contains("  fail  "), "{text}");
    Ok(())
}

/// A leaf, a node and a pair at once, in a run in which the localiser once counted more slow readings than there were.
#[test]
fn three_faults_at_once_end_in_a_verdict() -> Result {
    let faults = ["--fault", "leaf:?=0.5", "--fault", "node:?=0.6", "--fault", "pair:?=0.6"];
    let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
        .args(["simulate", "--nodes", "128", "--per-leaf", "16", "--tails", "--seed", "164"])
        .args(faults)
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.contains("simulated  NO-GO"), "{said} {out:?}");
    Ok(())
}

#[test]
fn a_slow_gpu_and_a_slow_slot_are_named_once() -> Result {
    for (nodes, fault, severity, expected) in [
        ("1", "gpu:0:3", "0.94", "fail  PER-002  GPU 3 of node sim1:"),
        ("3", "gpu:1:3", "0.84", "fail  PER-002  GPU 3 of node sim2:"),
        // It costs less than its node.
        ("8", "gpu:5:3", "0.94", "warn  PER-002  GPU 3 of node sim6:"),
        ("4", "slot:3", "0.84", "fail  PER-003  this run: GPU 3 of sim[1-4]"),
    ] {
        // Silicon of which 6 % is beyond doubt: at more spread it is a matter of the seed (benches/README.md).
        let args = ["simulate", "--nodes", nodes, "--gpus", "8", "--noise", "0.01", "--silicon", "0.0035"];
        let out = Command::new(env!("CARGO_BIN_EXE_gonogo"))
            .args(args)
            .args(["--fault", fault, "--severity", severity])
            .output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let found: Vec<&str> = text.lines().filter(|l| l.contains("  PER-") || l.contains("  VAL-")).collect();
        assert!(found.len() == 1 && found[0].contains(expected), "{nodes} nodes, {fault}: {text}");
    }
    Ok(())
}
