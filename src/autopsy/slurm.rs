//! What Slurm knows of how a job ended: by its accounting, else by what the controller still remembers.

use std::time::Duration;

use jiff::Timestamp;

use crate::autopsy::stamp::stamp;
use crate::id::NodeName;
use crate::measure::{Place, Sign, Source, SourceKind, Trace};
use crate::sys;
use crate::topology::secret;
use crate::unit::Bytes;

const PATIENCE: Duration = Duration::from_secs(20);
const MOST: u64 = 4 << 20;
const FIELDS: &str = "--format=JobID,State,ExitCode,End,FailedNode,NodeList";

/// Asks for a job by its number, such as `1234` or `1234_5`.
pub(super) fn ask(job: &str, index: usize, now: Timestamp) -> (Source, Vec<Trace>) {
    let name = format!("slurm job {job}");
    let mut source = Source { name, kind: SourceKind::Scheduler, bytes: Bytes(0), lines: 0, trouble: None };
    if job.is_empty() || !job.bytes().all(|b| b.is_ascii_digit() || b"_.+".contains(&b)) {
        source.trouble = Some("no number of a job".to_owned());
        return (source, Vec::new());
    }
    let say = |command: &[&str]| match sys::ask(command, MOST, PATIENCE) {
        Ok(Some((out, _))) if !out.trim().is_empty() => Ok(out),
        Ok(Some((_, err))) => Err(format!("{}: {}", command[0], err.lines().next().unwrap_or("no answer"))),
        Ok(None) => Err(format!("{} did not answer in {} s", command[0], PATIENCE.as_secs())),
        Err(e) => Err(format!("{}: {e}", command[0])),
    };
    let traces =
        say(&["sacct", "-n", "-P", "-j", job, FIELDS]).map(|out| (accounted(&out, index, now), out)).or_else(|sacct| {
            let out = say(&["scontrol", "-o", "show", "job", job]).map_err(|e| format!("{sacct}; {e}"))?;
            Ok((remembered(&out, index, now), out))
        });
    match traces {
        Ok((traces, out)) => {
            (source.bytes, source.lines) = (Bytes(out.len() as u64), out.lines().count() as u64);
            (source, traces)
        }
        Err(why) => {
            source.trouble = Some::<String>(why);
            (source, Vec::new())
        }
    }
}

/// What a state says of why a job ended; `None` for one that says nothing.
fn sign(state: &str) -> Option<Sign> {
    match state.split([' ', '+']).next()? {
        "NODE_FAIL" | "BOOT_FAIL" => Some(Sign::NodeFailed),
        "TIMEOUT" | "DEADLINE" => Some(Sign::TimeLimit),
        "PREEMPTED" => Some(Sign::Preempted),
        "CANCELLED" => Some(Sign::Cancelled),
        "OUT_OF_MEMORY" => Some(Sign::HostMemory),
        "FAILED" => Some(Sign::RankExit),
        _ => None,
    }
}

/// In UTC, as Slurm's tools are asked for.
fn time(text: &str, now: Timestamp) -> Option<Timestamp> {
    stamp(text.as_bytes(), now).map(|s| s.at)
}

/// A line a job or step of `sacct -P`, with the fields of [`FIELDS`].
fn accounted(out: &str, index: usize, now: Timestamp) -> Vec<Trace> {
    let of = |(number, line): (usize, &str)| {
        let mut fields = line.split('|');
        let (_, state, exit) = (fields.next()?, fields.next()?, fields.next()?);
        let (end, failed, nodes) = (fields.next()?, fields.next()?, fields.next()?);
        trace(sign(state)?, exit, time(end, now), [failed, nodes], (index, number, line))
    };
    out.lines().enumerate().filter_map(of).collect()
}

/// The one line of `scontrol -o show job`.
fn remembered(out: &str, index: usize, now: Timestamp) -> Vec<Trace> {
    let of = |(number, line): (usize, &str)| {
        let field =
            |name: &str| line.split(' ').find_map(|w| w.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        let end = time(field("EndTime"), now);
        let failed = field("FailedNode");
        trace(sign(field("JobState"))?, field("ExitCode"), end, [failed, field("NodeList")], (index, number, line))
    };
    out.lines().enumerate().filter_map(of).collect()
}

fn trace(
    sign: Sign,
    exit: &str,
    at: Option<Timestamp>,
    [failed, nodes]: [&str; 2],
    (source, number, line): (usize, usize, &str),
) -> Option<Trace> {
    // `code:signal`
    let (code, signal) = exit.split_once(':')?;
    let (code, signal): (i64, i64) = (code.parse().ok()?, signal.parse().ok()?);
    // Which node failed, or the only one that there was; a list is of the job, and says nothing of one.
    let plain = |n: &&str| !n.is_empty() && !n.contains(['[', ',', '(', ' ']) && *n != "None";
    let node = [failed, nodes].into_iter().find(plain).map(|n| NodeName(n.to_owned()));
    let sign = if sign == Sign::NodeFailed && node.is_none() { Sign::SomeNodeFailed } else { sign };
    Some(Trace {
        sign,
        at,
        inherited: false,
        place: Place { node, ..Place::default() },
        number: Some(if signal > 0 { -signal } else { code }),
        names: None,
        source,
        line: number as u64 + 1,
        text: secret::mask(&line.chars().take(240).collect::<String>()),
        times: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_accounting_and_the_controller_say_is_read() {
        let now = Timestamp::UNIX_EPOCH;
        let out = "12|NODE_FAIL|0:0|2026-11-27T10:00:00|node3|node[1-8]\n12.batch|CANCELLED|0:15|2026-11-27T10:00:00||node1\n12.0|COMPLETED|0:0|x||\nnonsense\n";
        let traces = accounted(out, 0, now);
        assert_eq!(traces.iter().map(|t| t.sign).collect::<Vec<_>>(), [Sign::NodeFailed, Sign::Cancelled]);
        assert_eq!(traces[0].place.node, Some(NodeName("node3".into())));
        let line = "JobId=12 JobName=x JobState=TIMEOUT ExitCode=0:15 EndTime=2026-11-27T10:00:00 NodeList=node[1-8]";
        let traces = remembered(line, 0, now);
        assert_eq!(
            (traces[0].sign, traces[0].number, traces[0].place.node.clone()),
            (Sign::TimeLimit, Some(-15), None)
        );
    }

    #[test]
    fn no_number_is_asked_for() {
        for job in ["", "1; rm -rf /", "--help", "a"] {
            assert!(ask(job, 0, Timestamp::UNIX_EPOCH).0.trouble.is_some_and(|t| t == "no number of a job"), "{job}");
        }
    }
}
