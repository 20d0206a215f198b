//! One line: who wrote it, and what it names.

use std::collections::BTreeSet;

use crate::id::NodeName;
use crate::measure::{Place, Sign};

/// Text as a log has it, with what is no UTF-8 replaced.
pub(super) fn text(line: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(line)
}

/// A number right after `mark`.
fn number_after(line: &str, mark: &str) -> Option<i64> {
    let rest = line[line.find(mark)? + mark.len()..].trim_start();
    let (sign, rest) = rest.strip_prefix('-').map_or((1, rest), |r| (-1, r));
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits.min(18))?.parse::<i64>().ok().map(|n| sign * n)
}

/// The rank of the whole job that a line says it is of.
fn rank(line: &str) -> Option<u32> {
    let marks = ["[rank", "[Rank ", " Rank ", "rank      : "];
    let found = marks.iter().find_map(|m| number_after(line, m).filter(|n| *n >= 0))?;
    u32::try_from(found).ok()
}

/// The number that `srun --label` or `mpirun --tag-output` puts before a line: of a task, which is a rank where each rank is one.
pub(super) fn label(line: &str) -> Option<u32> {
    if let Some(rest) = line.strip_prefix("[1,") {
        return rest.split_once(']')?.0.parse().ok();
    }
    if let Some((_, task)) = line.split_once(": task ") {
        return task.split_once(':')?.0.parse().ok();
    }
    let rest = line.trim_start_matches(' ');
    let (head, tail) = rest.split_once(": ")?;
    (head.len() <= 7 && !head.is_empty() && head.bytes().all(|b| b.is_ascii_digit()) && !tail.is_empty())
        .then(|| head.parse().ok())?
}

fn is_host(name: &str) -> bool {
    let letter = name.bytes().any(|b| b.is_ascii_alphabetic());
    letter && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// `host:pid:tid [gpu]`, as NCCL begins its lines, wherever that stands; `host:pid` before what its diagnostics say.
fn nccl(line: &str) -> Option<(NodeName, Option<u32>)> {
    if let Some((head, _)) = line.split_once(" NCCL DIAG ") {
        let (host, _) = head.rsplit(' ').next()?.split_once(':')?;
        return is_host(host).then(|| (NodeName(host.to_owned()), None));
    }
    let mut words = line.split_ascii_whitespace().take(8);
    let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    while let Some(word) = words.next() {
        let mut parts = word.rsplitn(3, ':');
        let (thread, process, host) = (parts.next()?, parts.next(), parts.next());
        if let (Some(process), Some(host)) = (process, host)
            && number(thread)
            && number(process)
            && is_host(host.trim_start_matches('['))
        {
            let gpu = words.next().and_then(|w| w.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
            return Some((NodeName(host.trim_start_matches('[').to_owned()), gpu));
        }
    }
    None
}

/// The node that a line says it is of.
fn node(line: &str) -> Option<NodeName> {
    let of = |name: &str| is_host(name).then(|| NodeName(name.to_owned()));
    if let Some((_, rest)) = line.split_once("srun: error: ") {
        if let Some((_, name)) = rest.split_once("Node failure on ") {
            return of(name.split([',', ' ']).next()?);
        }
        return of(rest.split_once(':')?.0);
    }
    if let Some((head, _)) = line.split_once(" kernel: ") {
        return of(head.rsplit(' ').next()?);
    }
    if let Some((_, host)) = line.split_once("host      : ") {
        return of(host.trim()).filter(|n| n.0 != "localhost");
    }
    None
}

/// Who wrote a line. `before` are the lines above it, the nearest first, where one thing is told in several.
pub(super) fn place(line: &str, before: &[&str]) -> Place {
    let above = |f: fn(&str) -> bool| before.iter().copied().find(|l| f(l));
    if line.contains("exitcode  :") {
        let rank_of = above(|l| l.contains("rank      : ")).and_then(rank);
        let host_of = above(|l| l.contains("host      : ")).and_then(node);
        return Place { node: host_of, rank: rank_of, gpu: None };
    }
    if line.contains("traceback :") {
        let rank_of = above(|l| l.contains("rank      : ")).and_then(rank);
        return Place { node: above(|l| l.contains("host      : ")).and_then(node), rank: rank_of, gpu: None };
    }
    match nccl(line) {
        Some((node, gpu)) => Place { node: Some(node), rank: rank(line), gpu },
        None => Place { node: node(line), rank: rank(line), gpu: None },
    }
}

/// Where a rank runs, from a line of NCCL's: its rank, of how many, and the place.
pub(super) fn member(line: &str) -> Option<(u32, u32, Place)> {
    let (node, gpu) = nccl(line)?;
    let rank = u32::try_from(number_after(line, " rank ")?).ok()?;
    let of = number_after(line, " nranks ").or_else(|| number_after(line, " nRanks "))?;
    let gpu = number_after(line, " nvmlDev ").and_then(|n| u32::try_from(n).ok()).or(gpu);
    Some((rank, u32::try_from(of).ok()?, Place { node: Some(node), rank: Some(rank), gpu }))
}

/// The address that a host says it uses, from `NCCL INFO Bootstrap: Using eth0:10.0.0.3<0>`.
pub(super) fn address(line: &str) -> Option<(String, NodeName)> {
    let (_, rest) = line.split_once("Bootstrap")?;
    let (_, rest) = rest.split_once("sing ")?;
    let (_, address) = rest.split_once('<')?.0.split_once(':')?;
    Some((address.to_owned(), nccl(line)?.0))
}

/// What a sign counts, and what it names.
pub(super) fn details(sign: Sign, line: &str, before: &[&str]) -> (Option<i64>, Option<String>) {
    match sign {
        Sign::Xid => {
            let pci = line.split_once("(PCI:").and_then(|(_, r)| Some(r.split_once(')')?.0.to_owned()));
            // What an Xid was caused by says more than what it is.
            let code = number_after(line, "previous Xid ").or_else(|| number_after(line, "): "));
            (code.or_else(|| number_after(line, "Xid ")), pci)
        }
        Sign::CollectiveTimeout => {
            let operation =
                line.split_once("OpType=").map(|(_, r)| r.split([',', ' ', ')']).next().unwrap_or("").to_owned());
            (number_after(line, "SeqNum="), operation.or_else(|| peer(line)))
        }
        Sign::RankExit | Sign::Killed | Sign::Crash | Sign::Aborted | Sign::Teardown | Sign::Terminated => {
            let marks = ["exitcode  :", "(exitcode:", "exit code", "return code =", "Signal ", "signal "];
            (marks.iter().find_map(|m| number_after(line, m)), None)
        }
        Sign::DiskFull
        | Sign::Quota
        | Sign::ReadOnly
        | Sign::IoError
        | Sign::StaleHandle
        | Sign::BrokenFile
        | Sign::Denied
        | Sign::SharedMemory => (None, path(line)),
        Sign::PeerClosed | Sign::Refused | Sign::NoRoute => (None, peer(line)),
        Sign::RdmaError => (number_after(line, "status=").or_else(|| number_after(line, "with error ")), peer(line)),
        Sign::Absent => (None, absent(line, before)),
        Sign::LinkDown => (None, link(line)),
        Sign::Exception => (None, exception(line).map(str::to_owned)),
        _ => (None, None),
    }
}

/// The ranks that a line says did not come: by torch's barrier, by whoever waits for another's identifier, by JAX's coordination service,
/// which lists them below what it says.
fn absent(line: &str, before: &[&str]) -> Option<String> {
    if let Some((head, _)) = line.split_once(" failed to pass") {
        return Some(head.rsplit_once("ank")?.1.trim_start_matches('s').trim().to_owned());
    }
    if let Some(from) = number_after(line, "ncclUniqueId from [") {
        return Some(from.to_string());
    }
    if let Some((_, lists)) = line.split_once("[missing ranks: ") {
        return Some(lists.split_once(']')?.0.to_owned());
    }
    if line.contains("[ready ranks: ") {
        return not_ready(line);
    }
    let says =
        |l: &str| ["imed out task", "heartbeat timeout", "stopped sending heartbeats"].iter().any(|w| l.contains(w));
    let told = says(line) || before.iter().any(|l| says(l));
    told.then(|| number_after(line, "/task:")).flatten().map(|n| n.to_string())
}

/// Horovod lists who is ready for each tensor: where that is the same for all of them, the others are missing; else they disagree.
fn not_ready(line: &str) -> Option<String> {
    let lists = line.split("[ready ranks: ").skip(1).filter_map(|l| l.split_once(']'));
    let sets: BTreeSet<BTreeSet<u32>> =
        lists.map(|(l, _)| l.split(", ").filter_map(|n| n.parse().ok()).collect()).collect();
    let ready = sets.first().filter(|_| sets.len() == 1)?;
    let missing: Vec<String> =
        (0..*ready.last()?.min(&100_000)).filter(|n| !ready.contains(n)).map(|n| n.to_string()).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// A path in quotation marks, or a word that begins with a slash.
fn path(line: &str) -> Option<String> {
    let quoted = |q: char| line.split(q).skip(1).step_by(2).find(|p| p.starts_with('/'));
    let word = || line.split([' ', ':', ',']).find(|w| w.len() > 1 && w.starts_with('/') && !w.contains(".py"));
    quoted('\'').or_else(|| quoted('"')).or_else(word).map(str::to_owned)
}

/// `name<port>` as NCCL writes an address, `[address]:port` as gloo does.
fn peer(line: &str) -> Option<String> {
    let of = |name: &str| (!name.is_empty() && name.len() <= 253).then(|| name.to_owned());
    for (at, _) in line.match_indices('<') {
        let port = line[at + 1..].split_once('>').is_some_and(|(p, _)| p.len() <= 5 && p.parse::<u16>().is_ok());
        if port {
            return of(line[..at].rsplit([' ', '[', '(']).next()?);
        }
    }
    let (_, rest) = line.split_once("peer [")?;
    of(rest.split_once(']')?.0)
}

/// The device that a kernel's line is of.
fn link(line: &str) -> Option<String> {
    let head = line.split(": Link down").next().or_else(|| line.split(": NIC Link").next())?;
    let name = head.rsplit([' ', ':']).find(|w| !w.is_empty())?;
    (name.len() <= 32).then(|| name.to_owned())
}

/// A date, a time, a level: what loggers put before a message.
fn is_prefix(word: &str) -> bool {
    let stamp = word.bytes().any(|b| b.is_ascii_digit())
        && word.bytes().all(|b| b.is_ascii_digit() || b"-:,.TZ/+".contains(&b));
    stamp && word.len() > 4 || ["ERROR", "CRITICAL", "FATAL", "-", "|"].contains(&word)
}

/// The class of an exception that a traceback ends with.
pub(super) fn exception(line: &str) -> Option<&str> {
    let mut rest = line;
    // What launchers and PyTorch put before it.
    loop {
        rest = rest.trim_start();
        let tagged = rest.starts_with('[').then(|| rest.split_once("]: ").or_else(|| rest.split_once("]:"))).flatten();
        match tagged {
            Some((_, after)) => rest = after,
            None if is_prefix(rest.split(' ').next().unwrap_or("")) => rest = rest.split_once(' ')?.1,
            None if label(rest).is_some() => rest = rest.split_once(": ")?.1,
            None => break,
        }
    }
    let class = rest.split([':', ' ']).next()?;
    let name = class.rsplit('.').next()?;
    let named = ["Error", "Exception"].iter().any(|e| name.ends_with(e)) && name.len() > 5;
    let identifier = class.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    let ends = rest[class.len()..].is_empty() || rest[class.len()..].starts_with(':');
    (named && identifier && ends).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(node: Option<&str>, rank: Option<u32>, gpu: Option<u32>) -> Place {
        Place { node: node.map(|n| NodeName(n.into())), rank, gpu }
    }

    #[test]
    fn a_line_says_who_wrote_it() {
        for (line, wanted) in [
            ("[2026-11-27 09:50:18] vm:536:537 [3] init.cc:904 NCCL WARN x", of(Some("vm"), None, Some(3))),
            ("5: node-7.a:536:537 [0] NCCL INFO x", of(Some("node-7.a"), None, Some(0))),
            ("5: node042:12345 NCCL DIAG [INFO] p2p: x", of(Some("node042"), None, None)),
            ("5: NCCL DIAG [INFO] p2p: x", of(None, None, None)),
            ("[rank12]:[E1127 09:50:19.99 ProcessGroupNCCL.cpp:632] [Rank 12] x", of(None, Some(12), None)),
            ("[PG ID 0 PG GUID 0(default_pg) Rank 3] failure detected", of(None, Some(3), None)),
            ("srun: error: node3: task 3: Killed", of(Some("node3"), None, None)),
            ("srun: error: node[1-3]: tasks 0-2: Exited with exit code 1", of(None, None, None)),
            ("srun: error: Node failure on node4", of(Some("node4"), None, None)),
            ("Nov 27 09:50:00 node3 kernel: NVRM: Xid (PCI:0000:3b:00): 79", of(Some("node3"), None, None)),
            ("12:30:45 up 3 days", of(None, None, None)),
        ] {
            assert_eq!(place(line, &[]), wanted, "{line}");
        }
        let above = ["  rank      : 5 (local_rank: 1)", "  host      : node3"];
        assert_eq!(place("  exitcode  : -9 (pid: 7)", &above), of(Some("node3"), Some(5), None));
        assert_eq!(
            (label(" 3: x"), label("[1,4]<stderr>: x"), label("12:30:45 x"), label("a: x")),
            (Some(3), Some(4), None, None)
        );
    }

    #[test]
    fn a_line_names_what_it_is_about() {
        let text = |t: &str| Some(t.to_owned());
        for (sign, line, wanted) in [
            (Sign::Xid, "NVRM: Xid (PCI:0000:3b:00): 79, pid=1", (Some(79), text("0000:3b:00"))),
            (
                Sign::CollectiveTimeout,
                "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE, NumelIn=1)",
                (Some(12), text("ALLREDUCE")),
            ),
            (Sign::Killed, "  exitcode  : -9 (pid: 7)", (Some(-9), None)),
            (Sign::PeerClosed, "[pair.cc:553] Connection closed by peer [10.0.0.3]:4321", (None, text("10.0.0.3"))),
            (Sign::PeerClosed, "Connection closed by remote peer node3<40213>", (None, text("node3"))),
            (Sign::Refused, "connect to fe80::1%eth0<4321> failed : Connection refused", (None, text("fe80::1%eth0"))),
            (
                Sign::RdmaError,
                "NET/IB : Got completion from peer 10.0.0.3<43210> with status=12 opcode=0",
                (Some(12), text("10.0.0.3")),
            ),
            (Sign::DiskFull, "OSError: [Errno 28] No space left on device: '/ckpt/x'", (None, text("/ckpt/x"))),
            (Sign::LinkDown, "mlx5_core 0000:17:00.0 ib2: Link down", (None, text("ib2"))),
            (Sign::Exception, "[rank3]: my.module.ShardError: no", (None, text("ShardError"))),
        ] {
            assert_eq!(details(sign, line, &[]), wanted, "{line}");
        }
        for none in
            ["Error: x", "The Error: x", "12:00 ERROR: RuntimeError is", "see RuntimeError: x", "x Exception: y"]
        {
            assert_eq!(exception(none), None, "{none}");
        }
        assert_eq!(exception("3: [rank3]: AssertionError"), Some("AssertionError"));
        assert_eq!(exception("2026-11-27 10:00:00,120 ERROR [rank0]: a.ValueError: x"), Some("ValueError"));
    }

    #[test]
    fn who_did_not_come_is_named() {
        let below = "/job:jax_worker/replica:0/task:3";
        let stalled = "subset of ranks is submitting tensors. Stalled ops: ";
        for (line, before, wanted) in [
            ("[Rank 0]: Rank 2 failed to pass monitoredBarrier in 1000 ms", "", Some("2")),
            ("[6] is retrieving ncclUniqueId from [0] via c10d key-value store: Socket Timeout", "", Some("0")),
            (below, "Barrier timed out. Timed out task names:", Some("3")),
            (below, "tensorflow: device", None),
            ("/job:jax_worker/task:5 heartbeat timeout", "", Some("5")),
            ("allreduce.loss [missing ranks: 1, 4]", "", Some("1, 4")),
            (&format!("{stalled}a [ready ranks: 5, 1, 3, 2], b [ready ranks: 1, 2, 3, 5]"), "", Some("0, 4")),
            (&format!("{stalled}a [ready ranks: 3], b [ready ranks: 2, 0, 1]"), "", None),
            (&format!("{stalled}a [ready ranks: ], b [ready ranks: x"), "", None),
        ] {
            assert_eq!(details(Sign::Absent, line, &[before]).1.as_deref(), wanted, "{line}");
        }
    }

    #[test]
    fn nccl_says_where_a_rank_runs() {
        let line =
            "vm:537:537 [0] NCCL INFO ncclCommInitRankConfig comm 0x15 rank 1 nranks 2 cudaDev 0 nvmlDev 4 busId 60";
        assert_eq!(member(line), Some((1, 2, of(Some("vm"), Some(1), Some(4)))));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read(line in "\\PC{0,200}", odd in "[a-z0-9\\[\\]:<>(), =-]{0,80}") {
            for line in [line.as_str(), odd.as_str()] {
                place(line, &[line]);
                member(line);
                label(line);
                for sign in [Sign::Xid, Sign::CollectiveTimeout, Sign::RankExit, Sign::DiskFull, Sign::PeerClosed, Sign::RdmaError, Sign::LinkDown, Sign::Exception] {
                    details(sign, line, &[odd.as_str()]);
                }
            }
        }
    }
}
