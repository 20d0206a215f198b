//! The node that a watch runs on: what it is now, beside what it was when the gate opened.
//!
//! A process of its own looks, as NVML keeps tens of megabytes and may hang; a thread waits for it, and nobody for the thread.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::measure::{Counters, CountersMoved, OwnNode, Since};
use crate::sys;
use crate::topology::Machine;

/// One look at the node in so many at the directory.
const SELDOM: u32 = 6;
/// A look that takes a second is taken every so many seconds at most.
const SHARE: u32 = 200;
/// A driver that hangs is given up by its own reader after 7 s.
const PATIENCE: Duration = Duration::from_secs(20);
/// The machine of a node with many devices is some hundred kilobytes.
const MOST: u64 = 16 << 20;
/// Between two looks whether a look has ended.
const SOON: Duration = Duration::from_millis(20);

/// What a check kept of this node, and when it ended.
#[derive(Debug, Clone)]
pub struct AtGate {
    pub machine: Machine,
    pub at: Timestamp,
}

/// A look: the machine, and what its RDMA ports count.
struct Look {
    machine: Machine,
    ports: Vec<(String, u8, Counters)>,
    at: Timestamp,
}

pub(super) struct Node {
    gate: Option<AtGate>,
    first: Option<Look>,
    under_way: Option<(Instant, JoinHandle<Result<Look, String>>)>,
    due: Instant,
    every: Duration,
    known: Option<OwnNode>,
}

impl Node {
    /// `every` is the time between two looks at the checkpoint directory.
    pub fn new(gate: Option<AtGate>, every: Duration) -> Self {
        Node { gate, first: None, under_way: None, due: Instant::now(), every: every * SELDOM, known: None }
    }

    /// What was seen last. Takes in a look that ended, and begins one where that is due.
    pub fn look(&mut self) -> Option<OwnNode> {
        self.reap();
        if self.under_way.is_none() && Instant::now() >= self.due {
            self.begin();
        }
        self.known.clone()
    }

    /// A look that begins now, waited for so long.
    pub fn look_now(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        // One under way may have passed by what happened since.
        while self.under_way.is_some() && Instant::now() < until {
            self.reap();
            thread::sleep(SOON);
        }
        if self.under_way.is_none() {
            self.begin();
        }
        while self.under_way.is_some() {
            if Instant::now() > until {
                let late = format!("no look at it ended within {} s", patience.as_secs());
                self.known = Some(OwnNode::Unseen(late));
                return;
            }
            self.reap();
            thread::sleep(SOON);
        }
    }

    fn begin(&mut self) {
        match thread::Builder::new().name("node".into()).spawn(look) {
            Ok(thread) => self.under_way = Some((Instant::now(), thread)),
            Err(e) => self.ended(Err(format!("cannot start a thread: {e}")), Duration::ZERO),
        }
    }

    fn reap(&mut self) {
        if let Some((began, thread)) = self.under_way.take_if(|(_, t)| t.is_finished()) {
            let look = thread.join().unwrap_or_else(|_| Err("the thread that looked panicked".to_owned()));
            self.ended(look, began.elapsed());
        }
    }

    fn ended(&mut self, look: Result<Look, String>, took: Duration) {
        self.due = Instant::now() + self.every.max(took * SHARE);
        self.known = Some(match look {
            Err(why) => OwnNode::Unseen(why),
            Ok(look) => {
                let first = self.first.get_or_insert_with(|| Look {
                    machine: look.machine.clone(),
                    ports: look.ports.clone(),
                    at: look.at,
                });
                OwnNode::Looked(Box::new(since(self.gate.as_ref(), first, look)))
            }
        });
    }
}

/// GPUs and interfaces are held against what the check kept, where there is a check; ports' counters, which it does not keep, against
/// the watch's first look.
fn since(gate: Option<&AtGate>, first: &Look, now: Look) -> Since {
    let moved = |(device, port, counters): &(String, u8, Counters)| {
        let (.., before) = first.ports.iter().find(|(d, p, _)| (d, p) == (device, port))?;
        let moved = counters.moved(before);
        (!moved.is_empty()).then(|| CountersMoved { node: None, device: device.clone(), port: *port, moved })
    };
    Since {
        of_check: gate.is_some(),
        from: gate.map_or(first.at, |g| g.at),
        at: now.at,
        before: gate.map_or_else(|| first.machine.clone(), |g| g.machine.clone()),
        ports: now.ports.iter().filter_map(moved).collect(),
        after: now.machine,
    }
}

fn look() -> Result<Look, String> {
    let own = std::env::current_exe().map_err(|e| format!("gonogo does not find its own program: {e}"))?;
    let own = own.to_string_lossy();
    let said = sys::ask(&[&own, "discover", "--format", "json"], MOST, PATIENCE)
        .map_err(|e| format!("{own} cannot be started: {e}"))?;
    let (out, err) = said.ok_or_else(|| format!("gonogo discover did not end within {} s", PATIENCE.as_secs()))?;
    let machine: Machine =
        serde_json::from_str(&out).map_err(|e| format!("gonogo discover told no machine: {e} {}", err.trim()))?;
    let ports = machine.infiniband.iter().flat_map(|d| d.ports.iter().map(|p| (&d.name, p.port)));
    let read = |(device, port): (&String, u32)| {
        let port = u8::try_from(port).ok()?;
        Some((device.clone(), port, Counters::read(device, port)))
    };
    Ok(Look { ports: ports.filter_map(read).collect(), machine, at: Timestamp::now() })
}
