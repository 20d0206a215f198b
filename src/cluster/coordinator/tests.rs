//! Agents that behave, die, fall silent, lie and repeat themselves, in any mixture and at any moment: every case gets
//! exactly one outcome, in time, and only who misbehaved is blamed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::cluster::hub::Detached;
use crate::cluster::message::{Join, PROTOCOL};
use crate::id::ProbeName;
use crate::measure::Measured;

/// What an agent does with every task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Behaves,
    /// Takes its time, within the deadline.
    Slow,
    DiesAtOnce,
    DiesAfterPublishing,
    Hangs,
    PublishesTwice,
    PublishesTooMuch,
    /// Speaks of tasks and cases that are not its own, then behaves.
    Babbles,
    /// Its process crashed.
    Crashes,
    /// Ends without having said anything.
    EndsEmpty,
    RepeatsOutcomes,
    JoinsAgain,
}

const WAYS: [Way; 12] = [
    Way::Behaves,
    Way::Slow,
    Way::DiesAtOnce,
    Way::DiesAfterPublishing,
    Way::Hangs,
    Way::PublishesTwice,
    Way::PublishesTooMuch,
    Way::Babbles,
    Way::Crashes,
    Way::EndsEmpty,
    Way::RepeatsOutcomes,
    Way::JoinsAgain,
];

impl Way {
    /// Does what it should, whatever else it does.
    fn is_honest(self) -> bool {
        matches!(self, Way::Behaves | Way::Slow | Way::Babbles | Way::RepeatsOutcomes | Way::JoinsAgain)
    }
}

fn who(rank: u32, size: u32) -> Join {
    Join {
        protocol: PROTOCOL,
        build: "test".into(),
        job: "test".into(),
        rank,
        size,
        local_size: 1,
        name: None,
        host: format!("n{rank}"),
        boot: format!("b{}", rank / 2),
        plan: "p".into(),
    }
}

fn blob(text: &str) -> Blob {
    Blob::of(text).unwrap_or_else(|e| panic!("{e}"))
}

fn step(groups: Vec<Vec<NodeName>>, exclusive: bool) -> Step {
    let cases = vec![Case::read("a"), Case::read("b")];
    Step { shape: Shape::groups(groups), exclusive, ..Step::new("work", ProbeName::new("test"), cases) }
}

/// Plays one agent until the coordinator hangs up.
fn agent(peer: Peer, way: Way, outbox: &mpsc_of::Inbox, to: &std::sync::mpsc::Sender<Event>) {
    let say = |up: Up| drop(to.send(Event::Received(peer, up)));
    let good = || Box::new(Outcome::Measured(Measured::default()));
    let mut place = BTreeMap::new();
    while let Some(down) = outbox.next() {
        match down {
            Down::Run { task, group, .. } => {
                let own = group.members.iter().position(|m| m.0 == format!("n{}", peer - 1)).unwrap_or(9);
                place.insert(task, own);
                match way {
                    Way::DiesAtOnce => return drop(to.send(Event::Gone(peer, Lost::Ended("closed".into())))),
                    Way::Hangs => continue,
                    Way::EndsEmpty => {
                        say(Up::Ended { task, failure: None });
                        continue;
                    }
                    Way::Crashes => {
                        let error = "signal 11".to_owned();
                        say(Up::Ended { task, failure: Some(Failure { kind: FailKind::Crashed, error }) });
                        continue;
                    }
                    Way::PublishesTooMuch => {
                        say(Up::Publish { task, blobs: vec![blob(""), blob(""), blob("")] });
                        say(Up::Ended { task, failure: None });
                        continue;
                    }
                    Way::Slow => thread::sleep(Duration::from_millis(20)),
                    Way::JoinsAgain => drop(to.send(Event::Joined(peer + 100, Box::new(who(0, 9))))),
                    Way::Babbles => {
                        let other = task + 1000;
                        say(Up::Publish { task: other, blobs: vec![blob("x")] });
                        say(Up::Outcome { task: other, case: 0, outcome: good(), load: None });
                        say(Up::Outcome { task, case: 99, outcome: good(), load: None });
                        say(Up::Ended { task: other, failure: None });
                        drop(to.send(Event::Received(peer + 50, Up::Alive)));
                    }
                    _ => {}
                }
                say(Up::Publish { task, blobs: vec![blob(&own.to_string())] });
                if way == Way::PublishesTwice {
                    say(Up::Publish { task, blobs: vec![blob(&own.to_string())] });
                }
                if way == Way::DiesAfterPublishing {
                    return drop(to.send(Event::Gone(peer, Lost::Silent(Duration::from_secs(6)))));
                }
            }
            Down::All { task, .. } => {
                let times = if way == Way::RepeatsOutcomes { 3 } else { 1 };
                for case in [0, 1].repeat(times) {
                    if place.get(&task) == Some(&0) {
                        say(Up::Outcome { task, case, outcome: good(), load: None });
                    }
                }
                say(Up::Ended { task, failure: None });
            }
            // A stopped child ends: its agent says so. One that hangs does not.
            Down::Stop { task } if way != Way::Hangs => say(Up::Ended { task, failure: None }),
            Down::Bye { .. } => return drop(to.send(Event::Gone(peer, Lost::Ended("closed".into())))),
            _ => {}
        }
    }
}

/// The outbox of a peer, parsed.
mod mpsc_of {
    use super::Down;
    use tokio::sync::mpsc::UnboundedReceiver;

    pub struct Inbox(pub std::sync::Mutex<UnboundedReceiver<std::sync::Arc<[u8]>>>);

    impl Inbox {
        pub fn next(&self) -> Option<Down> {
            let bytes = self.0.lock().ok()?.blocking_recv()?;
            serde_json::from_slice(&bytes).ok()
        }
    }
}

fn play(ways: &[Way], groups: &[Vec<u32>], exclusive: bool) -> (Vec<GroupOutcome>, Vec<NodeFault>, Duration) {
    let size = ways.len() as u32;
    let (Detached { hub, events, peers }, mut threads) = (Hub::detached(), Vec::new());
    for (i, way) in ways.iter().copied().enumerate() {
        let peer = i as Peer + 1;
        let (outbox, inbox) = tokio::sync::mpsc::unbounded_channel();
        peers.lock().unwrap_or_else(|e| e.into_inner()).insert(peer, outbox);
        let inbox = mpsc_of::Inbox(std::sync::Mutex::new(inbox));
        let _ = events.send(Event::Joined(peer, Box::new(who(i as u32, size))));
        let events = events.clone();
        threads.push(thread::spawn(move || agent(peer, way, &inbox, &events)));
    }
    let interrupt = Arc::new(AtomicBool::new(false));
    let mut c =
        Coordinator::gather(hub, &who(0, size), &Expected::default(), Duration::from_secs(5), interrupt, |_, _| {});
    c.patience = Patience { grace: Duration::from_millis(120), echo: Duration::from_millis(30), over: Duration::ZERO };
    let name = |i: &u32| NodeName(format!("n{i}"));
    let groups: Vec<Vec<NodeName>> = groups.iter().map(|g| g.iter().map(name).collect()).collect();
    let mut out = Vec::new();
    let start = Instant::now();
    c.run(&step(groups, exclusive), &|_| None, Duration::from_millis(150), &mut |o| out.push(o));
    let took = start.elapsed();
    let node_faults = c.node_faults().to_vec();
    c.dismiss(0);
    drop(c);
    peers.lock().unwrap_or_else(|e| e.into_inner()).clear();
    threads.into_iter().for_each(|t| drop(t.join()));
    (out, node_faults, took)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn every_case_ends_once_in_time_and_only_who_misbehaves_is_blamed(
        ways in proptest::collection::vec(proptest::sample::select(WAYS.to_vec()), 2..7),
        cut in 1usize..6,
        exclusive in proptest::bool::ANY,
    ) {
        let nodes: Vec<u32> = (0..ways.len() as u32).collect();
        let groups: Vec<Vec<u32>> = nodes.chunks(cut.min(ways.len())).map(<[u32]>::to_vec).collect();
        let (outcomes, node_faults, took) = play(&ways, &groups, exclusive);
        // The deadline, the grace, and what a busy machine adds; in turns when machines are shared.
        prop_assert!(took < Duration::from_millis(1500), "{took:?}");
        let mut seen: Vec<(String, String)> = outcomes.iter().map(|o| (o.node.0.clone(), o.case.to_string())).collect();
        seen.sort();
        let mut wanted: Vec<(String, String)> =
            groups.iter().flat_map(|g| ["a", "b"].map(|c| (format!("n{}", g[0]), c.to_owned()))).collect();
        wanted.sort();
        prop_assert_eq!(seen, wanted);
        let guilty: BTreeSet<String> =
            ways.iter().enumerate().filter(|(_, w)| !w.is_honest()).map(|(i, _)| format!("n{i}")).collect();
        for t in &node_faults {
            prop_assert!(guilty.contains(&t.node.0), "{t:?}");
        }
        for (g, group) in groups.iter().enumerate() {
            let of_group: Vec<&GroupOutcome> = outcomes.iter().filter(|o| o.node.0 == format!("n{}", group[0])).collect();
            let honest = group.iter().all(|i| ways[*i as usize].is_honest());
            for o in of_group {
                // Time may be over before a turn comes; nothing else keeps an honest group from its results.
                let late = matches!(&o.outcome, Outcome::Waived { kind: WaiveKind::NoTime, .. });
                prop_assert!(!honest || late || o.outcome.measured().is_some(), "group {g}: {o:?}");
                prop_assert!(o.blame.as_ref().is_none_or(|b| guilty.contains(&b.0)), "{o:?}");
            }
        }
    }
}

/// Whoever waits for the verdict calls now and then: a run that took no time must not be over before.
#[test]
fn a_task_that_calls_when_all_is_done_still_hears_the_verdict() {
    let Detached { hub, events, peers } = Hub::detached();
    let join = Join { local_size: 2, ..who(0, 2) };
    let said = |peer: Peer| {
        let (outbox, inbox) = tokio::sync::mpsc::unbounded_channel();
        peers.lock().unwrap_or_else(|e| e.into_inner()).insert(peer, outbox);
        mpsc_of::Inbox(std::sync::Mutex::new(inbox))
    };
    let (agent, waits) = (said(1), said(2));
    let _ = events.send(Event::Joined(1, Box::new(join.clone())));
    let interrupt = Arc::new(AtomicBool::new(false));
    let mut c = Coordinator::gather(hub, &join, &Expected::default(), Duration::from_secs(5), interrupt, |_, _| {});
    let late = thread::spawn(move || {
        while !matches!(agent.next(), Some(Down::Bye { .. }) | None) {}
        let _ = events.send(Event::Gone(1, Lost::Ended("closed".into())));
        thread::sleep(Duration::from_millis(300));
        let _ = events.send(Event::Waits(2, "test".to_owned()));
        (waits.next(), waits.next())
    });
    assert!(c.dismiss(2).is_empty());
    // The end of the coordinator ends the thread above, whatever it got.
    peers.lock().unwrap_or_else(|e| e.into_inner()).clear();
    let told = late.join().unwrap_or_else(|_| panic!("the task"));
    assert!(matches!(told, (Some(Down::Wait), Some(Down::Bye { exit: 2 }))), "{told:?}");
}
