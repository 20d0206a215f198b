//! NCCL's RAS: what the communicators of a job say of themselves, asked live or read from a saved answer. Nothing of it is trusted: it is
//! any text of bounded length, from whoever answers at the port, in bounded time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::id::NodeName;
use crate::measure::{Place, Stall};

/// The longest answer: 100,000 ranks take 40 MB.
const LONGEST: usize = 256 << 20;
/// NCCL itself waits five seconds for ranks that do not answer it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Counts differ for a moment in health.
pub(super) const BETWEEN: Duration = Duration::from_secs(3);

/// What one look tells.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub stalls: Vec<Stall>,
    /// Ranks of the largest communicator.
    pub places: BTreeMap<u32, Place>,
    /// What was counted, to be compared with another look: by communicator, rank and operation.
    pub counts: BTreeMap<(String, u32, String), u64>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    communicators: Vec<Communicator>,
}

#[derive(Deserialize)]
struct Communicator {
    #[serde(default)]
    hash: String,
    #[serde(default)]
    size: u32,
    #[serde(default)]
    ranks: Vec<Rank>,
    #[serde(default)]
    missing_ranks: Vec<Value>,
}

#[derive(Deserialize)]
struct Rank {
    rank: u32,
    #[serde(default)]
    host: String,
    #[serde(default)]
    pid: u64,
    #[serde(default)]
    nvml_dev: Option<u32>,
    #[serde(default)]
    collective_counts: BTreeMap<String, u64>,
}

/// Asks the RAS at `address`, `host:port`, once.
///
/// # Errors
/// Nobody answers there in time, or what answers speaks something else.
pub(super) fn ask(address: &str) -> io::Result<Vec<u8>> {
    let until = Instant::now() + PATIENCE;
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return talk(stream, until),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn talk(mut stream: TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"set format json\nverbose status\n")?;
    let (mut said, mut piece) = (Vec::new(), [0u8; 65536]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other(format!("it did not end its answer in {} s", PATIENCE.as_secs())));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(said),
            Ok(n) if said.len() + n > LONGEST => return Err(io::Error::other("its answer is longer than any job's")),
            Ok(n) => said.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads an answer, in JSON (NCCL 2.28 and later) or as people read it.
pub(super) fn read(bytes: &[u8], source: usize) -> Result<Look, String> {
    let text = String::from_utf8_lossy(bytes);
    match text.find('{') {
        Some(at) => json(&text[at..], source),
        None => plain(&text, source),
    }
}

fn json(text: &str, source: usize) -> Result<Look, String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Status>();
    let status = values.next().ok_or("an empty answer")?.map_err(|e| format!("not an answer of RAS: {e}"))?;
    let mut out = Look::default();
    let largest = status.communicators.iter().map(|c| c.size).max().unwrap_or(0);
    // Ranks of a smaller communicator are told by their numbers in the largest, where the same process is in both.
    let mut global: BTreeMap<(String, u64, Option<u32>), u32> = BTreeMap::new();
    for rank in status.communicators.iter().find(|c| c.size == largest).iter().flat_map(|c| &c.ranks) {
        global.insert((rank.host.clone(), rank.pid, rank.nvml_dev), rank.rank);
        let place = Place { node: Some(NodeName(rank.host.clone())), rank: Some(rank.rank), gpu: rank.nvml_dev };
        out.places.insert(rank.rank, place);
    }
    for c in &status.communicators {
        let of_job = |r: &Rank| global.get(&(r.host.clone(), r.pid, r.nvml_dev)).copied().unwrap_or(r.rank);
        let missing = |v: &Value| {
            let rank = v.as_u64().or_else(|| v.get("rank")?.as_u64())?;
            u32::try_from(rank).ok()
        };
        for r in &c.ranks {
            for (operation, n) in &r.collective_counts {
                out.counts.insert((c.hash.clone(), of_job(r), operation.clone()), *n);
            }
        }
        let counted = c.ranks.iter().map(|r| (of_job(r), &r.collective_counts));
        let silent = c.missing_ranks.iter().filter_map(missing).collect();
        out.stalls.extend(uneven(&c.hash, c.size, counted.collect(), silent, source));
    }
    Ok(out)
}

/// A communicator in which some have counted more than others, or of which some do not answer.
fn uneven(
    hash: &str,
    size: u32,
    counted: Vec<(u32, &BTreeMap<String, u64>)>,
    silent: Vec<u32>,
    source: usize,
) -> Option<Stall> {
    let total = |counts: &BTreeMap<String, u64>| counts.values().fold(0u64, |sum, n| sum.saturating_add(*n));
    let most = counted.iter().map(|(_, c)| total(c)).max().unwrap_or(0);
    let of = |f: &dyn Fn(u64) -> bool| -> Vec<u32> {
        counted.iter().filter(|(_, c)| f(total(c))).map(|(r, _)| *r).collect()
    };
    let (waiting, behind) = (of(&|n| n == most), of(&|n| n < most));
    if behind.is_empty() && silent.is_empty() {
        return None;
    }
    // The operation that not all have counted alike.
    let differs = |name: &&String| {
        let counts = counted.iter().map(|(_, c)| c.get(*name).copied().unwrap_or(0));
        let (low, high) = counts.fold((u64::MAX, 0), |(l, h), n| (l.min(n), h.max(n)));
        low < high
    };
    let operation = counted.iter().flat_map(|(_, c)| c.keys()).find(differs).cloned().unwrap_or_default();
    Some(Stall {
        source,
        group: hash.to_owned(),
        size,
        operation,
        sequence: most,
        waiting,
        behind,
        silent,
        ..Stall::default()
    })
}

/// The answer that people read: below `Errors` and `Warnings`, a paragraph a communicator.
fn plain(text: &str, source: usize) -> Result<Look, String> {
    if !text.contains("Communicators") && !text.contains("Job summary") {
        let said: String = text.chars().take(60).filter(|c| !c.is_control()).collect();
        return Err(format!("not an answer of RAS: {said}"));
    }
    let mut out = Look::default();
    let mut stall: Option<Stall> = None;
    // Ranks that follow have launched so many.
    let mut up_to: Option<u64> = None;
    for line in text.lines().map(str::trim) {
        if let Some((name, kind)) = line.strip_prefix('#').and_then(|l| l.rsplit_once(") ")) {
            out.stalls.extend(stall.take().filter(|s| !s.behind.is_empty() || !s.silent.is_empty()));
            let hash = name.rsplit('(').next().unwrap_or(name).to_owned();
            if matches!(kind, "MISMATCH" | "INCOMPLETE") {
                stall = Some(Stall { source, group: hash, ..Stall::default() });
            }
            up_to = None;
            continue;
        }
        let Some(stall) = &mut stall else { continue };
        if let Some((_, rest)) = line.split_once("have launched up to operation ") {
            up_to = rest.trim().parse().ok();
            stall.sequence = stall.sequence.max(up_to.unwrap_or(0));
        } else if let Some((_, rest)) = line.split_once("missing rank") {
            let numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
            stall.silent.extend(numbers);
        } else if let Some((rank, gpu, node)) = member(line) {
            let place = Place { node: Some(node), rank: Some(rank), gpu };
            out.places.insert(rank, place);
            match up_to {
                Some(n) if n < stall.sequence => stall.behind.push(rank),
                Some(_) => stall.waiting.push(rank),
                None => {}
            }
        }
    }
    out.stalls.extend(stall.filter(|s| !s.behind.is_empty() || !s.silent.is_empty()));
    Ok(out)
}

/// `Rank 0 -- GPU 0 managed by process 483072 on node 172.16.64.210`
fn member(line: &str) -> Option<(u32, Option<u32>, NodeName)> {
    let (rank, rest) = line.strip_prefix("Rank ")?.split_once(' ')?;
    let gpu = rest.split_once("GPU ").and_then(|(_, g)| g.split(' ').next()?.parse().ok());
    let node = rest.split_once(" on node ")?.1.trim();
    Some((rank.parse().ok()?, gpu, NodeName(node.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_for_people_names_who_is_behind() -> Result<(), String> {
        // In the shape that NCCL's documentation shows (2.24).
        let text = "Job summary\n===========\n\nErrors\n======\n\n#1-0 (cf264af53edbe986) INCOMPLETE\n  Missing communicator data from 1 rank\n  The missing rank: 21\n\nWarnings\n========\n\n#0-0 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different collective operation counts\n  2 ranks have launched up to operation 6650\n  Rank 0 -- GPU 0 managed by process 483072 on node 172.16.64.210\n  Rank 1 -- GPU 1 managed by process 483073 on node 172.16.64.210\n  1 rank have launched up to operation 6649\n  Rank 2 -- GPU 0 managed by process 1 on node 172.16.64.211\n";
        let look = read(text.as_bytes(), 0)?;
        assert_eq!(look.stalls.len(), 2);
        assert_eq!(look.stalls[0].silent, [21]);
        assert_eq!((look.stalls[1].behind.as_slice(), look.stalls[1].waiting.as_slice()), (&[2][..], &[0, 1][..]));
        assert_eq!(look.places.get(&2).and_then(|p| p.node.clone()), Some(NodeName("172.16.64.211".into())));
        Ok(())
    }

    #[test]
    fn an_answer_in_json_names_who_is_behind_by_the_ranks_of_the_job() -> Result<(), String> {
        let rank = |rank: u32, host: &str, pid: u32, n: u64| serde_json::json!({"rank": rank, "host": host, "pid": pid, "nvml_dev": 0, "collective_counts": {"AllReduce": n, "Broadcast": 1}});
        let answer = serde_json::json!({"communicators": [
            {"hash": "0xa", "size": 4, "ranks": [rank(0, "a", 1, 7), rank(1, "b", 2, 7), rank(2, "c", 3, 7)], "missing_ranks": [{"rank": 3}]},
            {"hash": "0xb", "size": 2, "ranks": [rank(0, "b", 2, 5), rank(1, "c", 3, 4)], "missing_ranks": []},
        ]});
        let look = read(format!("OK\n{answer}\n").as_bytes(), 0)?;
        assert_eq!(look.stalls[0].silent, [3]);
        assert_eq!((look.stalls[1].behind.as_slice(), look.stalls[1].operation.as_str()), (&[2][..], "AllReduce"));
        Ok(())
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for bytes in [
            &b"ERROR: Unknown command\n"[..],
            b"",
            b"{",
            b"{\"communicators\": 3}",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\xff\xfe",
        ] {
            assert!(read(bytes, 0).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read(text in "(#0-0 \\(a\\) MISMATCH\n|Rank [0-9]{1,12} -- GPU [0-9]* on node x\n|have launched up to operation [0-9]{0,30}\n|The missing ranks: [0-9, ]*\n|Job summary\n|\\PC{0,20}\n){0,12}") {
            let _ = read(text.as_bytes(), 0);
        }
    }
}
