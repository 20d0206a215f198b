//! Links that lose packets, that come and go, that others use: exactly their nodes are named, as strongly as the facts allow.

use crate::codes::flows;
use gonogo::id::NodeName;
use gonogo::judge::{self, Severity, Subject};
use gonogo::measure::{Outcome, Segments, Transport};
use gonogo::record::Record;

fn found(r: &Record) -> Vec<(String, Severity, String)> {
    let j = judge::judge(r, &r.header.plan.run, &[]);
    let network = j.findings.iter().filter(|f| f.code.to_string().starts_with("NET-"));
    let mut out: Vec<_> = network
        .map(|f| {
            let node = match &f.subject {
                Subject::Node(n) => n.0.clone(),
                other => other.to_string(),
            };
            (f.code.to_string(), f.severity, node)
        })
        .collect();
    out.sort();
    out
}

fn record(edit: &dyn Fn(u32, u32, &mut Transport)) -> Record {
    flows(edit).unwrap_or_else(|| panic!("no record"))
}

fn on_3(from: u32, to: u32) -> bool {
    from == 3 || to == 3
}

#[test]
fn flows_that_are_well_say_nothing() {
    assert_eq!(found(&record(&|_, _, _| {})), []);
    // Congestion that all suffer is nobody's link, and is told.
    let all = |_: u32, _: u32, t: &mut Transport| {
        t.segments = Some(Segments { sent: 10_000, again: 60, bytes_again: 0, needless: None })
    };
    assert_eq!(found(&record(&all)), [("NET-034".into(), Severity::Warn, "this run".into())]);
}

#[test]
fn half_a_percent_of_loss_is_named_and_a_thousandth_is_told() {
    let loses = |again: u64| {
        move |from: u32, to: u32, t: &mut Transport| {
            if on_3(from, to) {
                t.segments = Some(Segments { sent: 10_000, again, bytes_again: again * 1448, needless: None });
            }
        }
    };
    assert_eq!(found(&record(&loses(50))), [("NET-034".into(), Severity::Fail, "n3".into())]);
    assert_eq!(found(&record(&loses(15))), [("NET-034".into(), Severity::Warn, "n3".into())]);
    assert_eq!(found(&record(&loses(3))), []);
    // The receiver had all of it already but one: it came late or out of order, and the link loses nothing.
    let late = |from: u32, to: u32, t: &mut Transport| {
        loses(50)(from, to, t);
        t.segments = t.segments.map(|s| Segments { needless: Some(49), ..s });
    };
    assert_eq!(found(&record(&late)), []);
    let r = record(&loses(50));
    let j = judge::judge(&r, &r.header.plan.run, &[]);
    let Some(f) = j.findings.iter().find(|f| f.code.to_string() == "NET-034") else { panic!("{:?}", j.findings) };
    assert_eq!(f.proof.len(), 6, "three partners, both ways");
    assert!(f.proof.iter().all(|p| p.speaks && p.sent_again == Some(0.005)), "{:?}", f.proof);
}

#[test]
fn a_carrier_that_blinks_holds_and_one_that_flaps_fails() {
    let rounds = gonogo::localise::circle(8);
    let Some(last) = rounds[2].iter().find(|(a, b)| on_3(*a, *b)).map(|(a, b)| a + b) else { panic!("{rounds:?}") };
    let blinks = |by: u64| {
        move |from: u32, to: u32, t: &mut Transport| {
            if let Some(ends) = t.ends.as_mut().filter(|_| on_3(from, to)) {
                // With its last partner it counts what happened since.
                ends[usize::from(to == 3)].state.carrier_changes = Some(2 + by * u64::from(from + to == last));
            }
        }
    };
    assert_eq!(found(&record(&blinks(0))), []);
    assert_eq!(found(&record(&blinks(2))), [("NET-035".into(), Severity::Hold, "n3".into())]);
    assert_eq!(found(&record(&blinks(52))), [("NET-035".into(), Severity::Fail, "n3".into())]);
}

/// Ports that count words of another size, or two ports in one: every flow seems to have as much beside it.
#[test]
fn counters_of_another_unit_are_nobodys_traffic() {
    let four = |_: u32, _: u32, t: &mut Transport| {
        for end in t.ends.iter_mut().flat_map(|e| e.iter_mut()) {
            (end.sent, end.received) = (end.sent * 4, end.received * 4);
        }
    };
    assert_eq!(found(&record(&four)), []);
    // One flow that is without shows that the others are not.
    let most = |from: u32, to: u32, t: &mut Transport| {
        if (from, to) != (0, 1) {
            four(from, to, t);
        }
    };
    assert!(found(&record(&most)).iter().any(|(code, ..)| code == "NET-036"));
}

#[test]
fn a_link_that_others_use_is_busy_and_not_broken() {
    // Two innocents whose link somebody else fills: each test of theirs reaches a third.
    let busy = |from: u32, to: u32, t: &mut Transport| {
        if let Some(ends) = t.ends.as_mut() {
            if [2, 3].contains(&from) {
                ends[0].sent += 20 << 30;
            }
            if [2, 3].contains(&to) {
                ends[1].received += 20 << 30;
            }
        }
    };
    let mut r = record(&busy);
    for line in &mut r.outcomes {
        if let gonogo::measure::Outcome::Measured(m) = &mut line.outcome
            && m.transport.iter().any(|t| t.others().is_some_and(|(_, bytes)| bytes > 1 << 30))
        {
            m.series[0].samples.iter_mut().for_each(|s| *s /= 3.0);
        }
    }
    let wanted = ["n2", "n3"].map(|n| ("NET-036".to_owned(), Severity::Hold, n.to_owned()));
    assert_eq!(found(&r), wanted);
    // Beside chatter a slow link stays slow.
    let chatter = |from: u32, to: u32, t: &mut Transport| {
        if let Some(ends) = t.ends.as_mut().filter(|_| on_3(from, to)) {
            t.bytes /= 20;
            for end in ends.iter_mut() {
                (end.sent, end.received) = (t.bytes + (200 << 20), t.bytes + (200 << 20));
            }
        }
    };
    let mut r = record(&chatter);
    for line in &mut r.outcomes {
        if let gonogo::measure::Outcome::Measured(m) = &mut line.outcome
            && m.transport.iter().any(|t| t.ends.as_ref().is_some_and(|e| e.iter().any(|e| e.node.0 == "n3")))
        {
            m.series[0].samples.iter_mut().for_each(|s| *s /= 20.0);
        }
    }
    assert!(
        found(&r).iter().any(|(code, severity, n)| code == "NET-020" && *severity == Severity::Fail && n == "n3"),
        "{:?}",
        found(&r)
    );
    assert!(found(&r).iter().all(|(.., n)| n == "n3"), "{:?}", found(&r));
}

/// A node that is slow because its threads get no core is told so; where all wait alike, or the slow one does not, it is its link.
#[test]
fn a_slow_node_whose_threads_get_no_core_is_sent_to_look_at_what_else_runs() {
    let evidence = |here: f64, elsewhere: f64| {
        let mut r = record(&|from, to, t| t.waited = Some([from, to].map(|n| if n == 3 { here } else { elsewhere })));
        for line in &mut r.outcomes {
            if let Outcome::Measured(m) = &mut line.outcome
                && m.transport
                    .iter()
                    .filter_map(|t| t.ends.as_ref())
                    .flat_map(|ends| ends.iter())
                    .any(|e| e.node.0 == "n3")
            {
                m.series.iter_mut().flat_map(|s| &mut s.samples).for_each(|rate| *rate *= 0.4);
            }
        }
        let all = judge::judge(&r, &r.header.plan.run, &[]).findings;
        let slow =
            all.iter().find(|f| f.code.to_string() == "NET-020").map(|f| (f.subject.clone(), f.evidence.clone()));
        slow.unwrap_or_else(|| panic!("{all:?}"))
    };
    let (subject, told) = evidence(0.6, 0.02);
    assert_eq!(subject, Subject::Node(NodeName("n3".into())));
    assert!(told.contains("its threads had no core for 60 % of the time, others' for 2 %"), "{told}");
    for (here, elsewhere) in [(0.6, 0.5), (0.0, 0.5), (0.1, 0.01), (7.0, 0.0)] {
        let (_, told) = evidence(here, elsewhere);
        assert!(!told.contains("no core"), "{told}");
    }
}
