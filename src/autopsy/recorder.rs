//! PyTorch's flight recorder: one file a rank, as a pickle or as JSON. From all of them: in which group who waits for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::autopsy::pickle;
use crate::measure::{Source, SourceKind, Stall};
use crate::unit::Bytes;

/// A dump of 2,000 entries with their stacks has a few MB.
const LARGEST: u64 = 256 << 20;
/// The latest entries of a group that are kept: ranks are seldom further apart.
const KEPT: usize = 256;
/// Groups of a job.
const MOST_GROUPS: usize = 100_000;

/// What one rank tells of one group.
#[derive(Debug, Default)]
struct State {
    enqueued: u64,
    completed: u64,
    /// By sequence number.
    calls: BTreeMap<u64, Call>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    operation: String,
    sizes: String,
}

#[derive(Debug, Default)]
struct Group {
    /// As it is shown.
    name: String,
    ranks: BTreeSet<u32>,
    states: BTreeMap<u32, State>,
}

/// All ranks' dumps.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    groups: BTreeMap<String, Group>,
    first: Option<usize>,
}

#[derive(Deserialize)]
struct Dump {
    #[serde(default)]
    entries: Vec<Entry>,
    #[serde(default)]
    pg_config: BTreeMap<String, Config>,
    #[serde(default)]
    pg_status: BTreeMap<String, Status>,
}

#[derive(Deserialize)]
struct Entry {
    process_group: Option<(String, String)>,
    #[serde(default)]
    collective_seq_id: i64,
    #[serde(default)]
    is_p2p: bool,
    #[serde(default)]
    profiling_name: String,
    #[serde(default)]
    input_sizes: Value,
    #[serde(default)]
    input_dtypes: Value,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    name: String,
    #[serde(default)]
    desc: String,
    /// `[0, 1, 2]`, as a text or as a list; empty where all ranks are in it.
    #[serde(default)]
    ranks: Value,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    last_enqueued_collective: Value,
    #[serde(default)]
    last_completed_collective: Value,
}

/// A number that may stand as a text; below zero where there was none.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn ranks(value: &Value) -> BTreeSet<u32> {
    match value {
        Value::Array(items) => items.iter().filter_map(|i| u32::try_from(number(i)).ok()).collect(),
        Value::String(text) => text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect(),
        _ => BTreeSet::new(),
    }
}

/// The number that a dump's name ends with is its rank: `nccl_trace_rank_12`, `recorder_3.pickle`.
fn rank_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let digits = name.split(|c: char| !c.is_ascii_digit()).rfind(|d| !d.is_empty())?;
    digits.parse().ok()
}

impl Recorder {
    /// Reads the dump of one rank.
    pub(super) fn read(&mut self, path: &Path, index: usize) -> Source {
        let mut bytes = Vec::new();
        let read = read_whole(path, &mut bytes).map_err(|e| e.to_string());
        let size = bytes.len() as u64;
        let trouble = read.and_then(|()| self.take(path, &bytes)).err();
        if trouble.is_none() {
            self.first.get_or_insert(index);
        }
        let name = path.to_string_lossy().into_owned();
        Source { name, kind: SourceKind::Recorder, bytes: Bytes(size), lines: 0, trouble }
    }

    fn take(&mut self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let rank = rank_of(path).ok_or("its name has no rank: the recorder ends each with one")?;
        let value = if bytes.trim_ascii_start().first() == Some(&b'{') {
            serde_json::from_slice(bytes).map_err(|e| format!("no JSON of a recorder: {e}"))?
        } else {
            pickle::read(bytes, &["frames"]).map_err(|e| e.to_string())?
        };
        let dump = Dump::deserialize(value).map_err(|e| format!("not a recorder's dump: {e}"))?;
        if dump.pg_config.len() + self.groups.len() > MOST_GROUPS {
            return Err(format!("more than {MOST_GROUPS} groups"));
        }
        for (key, config) in dump.pg_config {
            let group = self.group(&key, &config.name, &config.desc);
            group.ranks.extend(ranks(&config.ranks));
            group.ranks.insert(rank);
            group.states.entry(rank).or_default();
        }
        for (key, status) in dump.pg_status {
            let state = self.group(&key, "", "").states.entry(rank).or_default();
            state.enqueued = state.enqueued.max(number(&status.last_enqueued_collective));
            state.completed = state.completed.max(number(&status.last_completed_collective));
        }
        for entry in dump.entries.into_iter().filter(|e| !e.is_p2p) {
            let Some((name, description)) = entry.process_group else { continue };
            let Ok(sequence) = u64::try_from(entry.collective_seq_id) else { continue };
            let state = self.group(&name, &name, &description).states.entry(rank).or_default();
            state.enqueued = state.enqueued.max(sequence);
            if entry.state == "completed" {
                state.completed = state.completed.max(sequence);
            }
            let operation = entry.profiling_name.rsplit(':').next().unwrap_or("").to_owned();
            let sizes = format!("{} of {}", entry.input_sizes, entry.input_dtypes).replace(['"', '\\'], "");
            state.calls.insert(sequence, Call { operation, sizes });
            if state.calls.len() > KEPT {
                state.calls.pop_first();
            }
        }
        Ok(())
    }

    fn group(&mut self, key: &str, name: &str, description: &str) -> &mut Group {
        let group = self.groups.entry(key.to_owned()).or_default();
        if group.name.is_empty() && !name.is_empty() {
            let plain = description.is_empty() || description == "undefined";
            group.name = if plain { name.to_owned() } else { format!("{description} ({name})") };
        }
        group
    }

    /// Groups in which some wait.
    pub(super) fn stalls(self) -> Vec<Stall> {
        let source = self.first.unwrap_or(0);
        self.groups.into_values().filter_map(|group| stall(group, source)).collect()
    }
}

fn stall(group: Group, source: usize) -> Option<Stall> {
    // Whoever waits has called what it has not completed. The earliest such call is where the group stands.
    let waits = |s: &State| s.enqueued > s.completed;
    let sequence = group.states.values().filter(|s| waits(s)).map(|s| s.completed + 1).min()?;
    let of = |f: &dyn Fn(&State) -> bool| -> Vec<u32> {
        group.states.iter().filter(|(_, s)| f(s)).map(|(r, _)| *r).collect()
    };
    let waiting = of(&|s| s.enqueued >= sequence && s.completed < sequence);
    let behind = of(&|s| s.enqueued < sequence);
    let silent = group.ranks.iter().filter(|r| !group.states.contains_key(r)).copied().collect();
    let calls: Vec<(u32, &Call)> =
        waiting.iter().filter_map(|r| Some((*r, group.states.get(r)?.calls.get(&sequence)?))).collect();
    let usual = usual(&calls);
    let differs = |call: &Call| usual.is_some_and(|u| !alike(u, call));
    let different = calls.iter().filter(|(_, c)| differs(c)).map(|(r, c)| (*r, format!("{} {}", c.operation, c.sizes)));
    let different = different.collect();
    let operation = usual.map_or_else(String::new, |c| format!("{} {}", c.operation, c.sizes).trim().to_owned());
    let size = group.ranks.len() as u32;
    Some(Stall {
        source,
        group: group.name,
        size,
        operation,
        sequence,
        waiting,
        behind,
        silent,
        different,
        still: None,
    })
}

/// What most do.
fn usual<'c>(calls: &[(u32, &'c Call)]) -> Option<&'c Call> {
    let votes = |call: &Call| calls.iter().filter(|(_, c)| alike(c, call)).count();
    calls.iter().map(|(_, c)| *c).max_by_key(|c| votes(c))
}

/// Whether two ranks may meet in these calls. In some operations ranks bring different amounts, and rightly so.
fn alike(a: &Call, b: &Call) -> bool {
    const UNEVEN: &[&str] = &["all_to_all", "alltoall", "gather", "scatter", "coalesced", "barrier"];
    a.operation == b.operation && (a.sizes == b.sizes || UNEVEN.iter().any(|u| a.operation.contains(u)))
}

fn read_whole(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    if size > LARGEST {
        return Err(io::Error::other(format!("{} is more than a recorder writes ({})", Bytes(size), Bytes(LARGEST))));
    }
    file.take(LARGEST).read_to_end(bytes)?;
    if bytes.is_empty() {
        return Err(io::Error::other("it is empty: the rank was ended before it wrote"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Eight ranks in one group that have completed `completed` each and called `called`.
    fn dumps(of: &[(u64, u64)]) -> Recorder {
        let mut recorder = Recorder::default();
        for (rank, (completed, called)) in of.iter().enumerate() {
            let entry = |seq: u64| {
                let state = if seq <= *completed { "completed" } else { "scheduled" };
                json!({"process_group": ["0", "default_pg"], "collective_seq_id": seq, "profiling_name": "nccl:all_reduce",
                       "input_sizes": [[4]], "input_dtypes": ["Float"], "state": state, "is_p2p": false})
            };
            let all = (0..of.len()).map(|r| r.to_string()).collect::<Vec<_>>().join(", ");
            let dump = json!({"version": "2.10", "entries": (1..=*called).map(entry).collect::<Vec<_>>(),
                "pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": format!("[{all}]")}}});
            let name = format!("nccl_trace_rank_{rank}");
            assert_eq!(recorder.take(Path::new(&name), dump.to_string().as_bytes()), Ok(()));
        }
        recorder
    }

    #[test]
    fn who_did_not_come_is_behind() {
        let stalls = dumps(&[(10, 12), (10, 11), (10, 10), (10, 11)]).stalls();
        assert_eq!(stalls.len(), 1);
        let s = &stalls[0];
        assert_eq!((s.sequence, s.waiting.as_slice(), s.behind.as_slice()), (11, &[0, 1, 3][..], &[2][..]));
        assert_eq!((s.group.as_str(), s.operation.as_str()), ("default_pg (0)", "all_reduce [[4]] of [Float]"));
        assert_eq!(dumps(&[(10, 10), (10, 10)]).stalls(), []);
    }

    #[test]
    fn what_is_no_dump_is_said() {
        let mut r = Recorder::default();
        for (name, bytes, wanted) in [
            ("rank_1", &b"{\"entries\": 3}"[..], "not a recorder's dump"),
            ("rank_1", b"{", "no JSON"),
            ("rank_1", b"\x80\x02cos\nsystem\n.", "is not run"),
            ("rank", b"{}", "no rank"),
        ] {
            let said = r.take(Path::new(name), bytes).err().unwrap_or_default();
            assert!(said.contains(wanted), "{said}");
        }
    }
}
