//! Who stands before the door: connections that have not yet proven that they hold the token. There is room for so many, and for so
//! many of one source; who comes when it is full takes the place of the one that has stood there longest. An agent proves itself within
//! a round trip, so that it is gone from here long before its turn; who only stands takes nobody's place but that of its like.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use tokio::task::AbortHandle;

/// Connections at once, all together.
const ROOM: usize = 1024;
/// Connections at once of one source.
const ROOM_OF_ONE: usize = 256;
/// Handshakes with a wrong token that a source may try in a second; beyond that it is not listened to.
const GUESSES: f64 = 200.0;
/// Sources that are remembered.
const MAX_SOURCES: usize = 4096;
/// First messages that are remembered: only who holds the token makes one, so that these are the agents' own.
const MAX_SEEN: usize = 1 << 20;

/// Where a connection comes from. An IPv6 host has all the addresses of its network to itself.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !((1u128 << 64) - 1))),
        v4 => v4,
    }
}

/// What a source may still try.
struct Tries {
    left: f64,
    at: Instant,
}

#[derive(Default)]
pub(super) struct Doorstep {
    /// By number, which is the order in which they came.
    standing: BTreeMap<u64, (IpAddr, AbortHandle)>,
    of: HashMap<IpAddr, usize>,
    tries: HashMap<IpAddr, Tries>,
    /// First messages of those who hold the token.
    seen: HashSet<[u8; 32]>,
    crowded: bool,
}

impl Doorstep {
    /// Whether a connection of this source is listened to at all.
    pub fn may_try(&mut self, from: IpAddr, now: Instant) -> bool {
        let Some(tries) = self.tries.get_mut(&source(from)) else { return true };
        tries.left = (tries.left + (now - tries.at).as_secs_f64() * GUESSES).min(GUESSES);
        tries.at = now;
        let may = tries.left >= 1.0;
        self.crowded |= !may;
        may
    }

    /// A source tried with a wrong token.
    pub fn wrong(&mut self, from: IpAddr, now: Instant) {
        if self.tries.len() >= MAX_SOURCES {
            self.tries.clear();
        }
        let tries = self.tries.entry(source(from)).or_insert(Tries { left: GUESSES, at: now });
        tries.left = (tries.left - 1.0).max(0.0);
    }

    /// A connection comes; who must go for it is ended.
    pub fn come(&mut self, number: u64, from: IpAddr, task: AbortHandle) {
        let from = source(from);
        let own = self.of.get(&from).copied().unwrap_or(0);
        if own >= ROOM_OF_ONE {
            self.push_out(from);
        } else if self.standing.len() >= ROOM {
            self.make_room();
        }
        *self.of.entry(from).or_default() += 1;
        self.standing.insert(number, (from, task));
    }

    /// Ends the connection of that source that has stood longest.
    fn push_out(&mut self, from: IpAddr) {
        self.crowded = true;
        let oldest = self.standing.iter().find(|(_, (of, _))| *of == from);
        if let Some((number, task)) = oldest.map(|(number, (_, task))| (*number, task.clone())) {
            task.abort();
            self.leave(number);
        }
    }

    /// Makes room at the cost of the source that has most, also where the process has no descriptor left.
    pub fn make_room(&mut self) {
        if let Some(most) = self.of.iter().max_by_key(|(_, n)| **n).map(|(from, _)| *from) {
            self.push_out(most);
        }
    }

    /// It has proven itself, or is gone.
    pub fn leave(&mut self, number: u64) {
        let Some((from, _)) = self.standing.remove(&number) else { return };
        if let Some(n) = self.of.get_mut(&from) {
            *n -= 1;
            if *n == 0 {
                self.of.remove(&from);
            }
        }
    }

    /// Whether a first message of somebody who holds the token comes for the first time: one that was recorded gets no answer.
    pub fn is_new(&mut self, first: [u8; 32]) -> bool {
        self.seen.len() < MAX_SEEN && self.seen.insert(first)
    }

    /// How many stand here, and how many have ever shown that they hold the token.
    pub fn counts(&self) -> (usize, usize) {
        (self.standing.len(), self.seen.len())
    }

    /// Whether somebody was sent away for lack of room: who is missing may have been among them.
    pub fn was_crowded(&self) -> bool {
        self.crowded
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_flood_pushes_out_its_own() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap_or_else(|e| panic!("{e}"));
        let task = || runtime.spawn(std::future::pending::<()>()).abort_handle();
        let mut door = Doorstep::default();
        door.come(0, ip(1), task());
        assert!(!door.was_crowded());
        for number in 1..=5000 {
            door.come(number, ip(2), task());
        }
        assert!(door.was_crowded());
        assert_eq!((door.of[&ip(1)], door.of[&ip(2)]), (1, ROOM_OF_ONE));
        assert!(door.standing.contains_key(&0) && door.standing.contains_key(&5000));
        // Many sources: the one with most of them loses its oldest, and who stands alone stays.
        for number in 0..2000u64 {
            door.come(10_000 + number, ip(3 + (number % 100) as u8), task());
        }
        assert_eq!(door.standing.len(), ROOM);
        assert!(door.standing.contains_key(&0));
        // Those of one IPv6 network are one source.
        let v6 = |n: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, n]);
        assert_eq!(source(v6(1)), source(v6(2)));
        assert_eq!(source(IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])), ip(1));
    }

    #[test]
    fn guesses_are_few_and_what_was_recorded_is_of_no_use() {
        let mut door = Doorstep::default();
        let start = Instant::now();
        let mut tried = 0;
        for i in 0..10_000 {
            let now = start + Duration::from_micros(i * 100);
            if door.may_try(ip(1), now) {
                door.wrong(ip(1), now);
                tried += 1;
            }
        }
        assert!((300..=401).contains(&tried), "{tried} guesses in a second");
        assert!(door.may_try(ip(2), start));
        assert!(door.may_try(ip(1), start + Duration::from_secs(2)), "nobody is shut out for good");
        assert!(door.is_new([1; 32]) && !door.is_new([1; 32]) && door.is_new([2; 32]));
    }
}
