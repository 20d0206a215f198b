//! What a run left behind, judged: the cause among what followed from it, and nobody accused who only complained.

use crate::common::*;
use gonogo::cluster::Step;
use gonogo::id::{NodeName, ProbeName};
use gonogo::judge::{self, Judgement};
use gonogo::measure::{Change, Facts, Outcome, Place, Remains, Sign, Source, SourceKind, Stall, Trace};
use gonogo::plan::RunPlan;
use gonogo::record::{OutcomeLine, Record};
use gonogo::unit::Bytes;
use gonogo::work::{Case, Fact};

/// Four ranks on four nodes, and one log.
fn remains(traces: Vec<Trace>) -> Remains {
    let place = |rank: u32| Place { node: Some(NodeName(format!("n{rank}"))), rank: Some(rank), gpu: Some(0) };
    let source = Source { name: "train.log".into(), kind: SourceKind::Log, bytes: Bytes(9), lines: 99, trouble: None };
    Remains { sources: vec![source], traces, ranks: (0..4).map(|r| (r, place(r))).collect(), ..Remains::default() }
}

fn trace(sign: Sign, second: i64, rank: u32) -> Trace {
    Trace {
        sign,
        at: jiff::Timestamp::from_second(1_000_000 + second).ok(),
        inherited: false,
        place: Place { node: Some(NodeName(format!("n{rank}"))), rank: Some(rank), gpu: None },
        number: None,
        names: None,
        source: 0,
        line: (second + 100_000) as u64,
        text: "a line".into(),
        times: 1,
    }
}

fn lost(second: i64, by: u32, peer: u32) -> Trace {
    Trace { names: Some(format!("n{peer}")), ..trace(Sign::PeerClosed, second, by) }
}

fn record(remains: Remains) -> Record {
    let mut record = empty(RunPlan::default());
    record.header.nodes = (0..4).map(|n| NodeName(format!("n{n}"))).collect();
    let (case, probe) = (Case::Fact(Fact::Remains), ProbeName::new("autopsy"));
    record.steps.push(Step::new("autopsy", probe.clone(), vec![case.clone()]));
    let outcome = Outcome::facts(Facts::Remains(Box::new(remains)));
    let node = record.header.nodes[0].clone();
    record.outcomes.push(OutcomeLine {
        node: node.into(),
        step: "autopsy".into(),
        probe,
        case,
        attempt: 1,
        blame: None,
        load: None,
        outcome,
    });
    record
}

fn judged<T>(remains: Remains, look: impl Fn(&Judgement<'_>) -> T) -> T {
    let record = record(remains);
    let run = RunPlan::default();
    look(&judge::judge(&record, &run, &[]))
}

/// `CODE subject` of what weighs, and who is to be left out.
fn found(remains: Remains) -> (Vec<String>, Vec<String>) {
    judged(remains, |j| {
        let weighs = |f: &&judge::Finding| f.severity >= judge::Severity::Hold || f.code == judge::Code::MOR_008;
        let line = |f: &judge::Finding| format!("{} {}", f.code, f.subject);
        (
            j.findings.iter().filter(weighs).map(line).collect(),
            j.placement.exclude.iter().map(|n| n.0.clone()).collect(),
        )
    })
}

fn is(remains: Remains, code: &str, out: &[&str]) {
    let (codes, excluded) = found(remains);
    assert!(!codes.is_empty() && codes.iter().all(|c| c.starts_with(code)), "{codes:?} for {code}");
    assert_eq!(excluded, out, "{codes:?}");
}

fn stall(waiting: &[u32], behind: &[u32], silent: &[u32]) -> Stall {
    let to = |ranks: &[u32]| ranks.to_vec();
    Stall {
        group: "world".into(),
        size: 4,
        operation: "all_reduce".into(),
        sequence: 7,
        waiting: to(waiting),
        behind: to(behind),
        silent: to(silent),
        ..Stall::default()
    }
}

pub(crate) fn provoke(code: &str) -> Option<Record> {
    let one = |sign: Sign| remains(vec![trace(sign, 0, 1)]);
    let with = |stalls: Vec<Stall>| Remains { stalls, ..remains(Vec::new()) };
    Some(record(match code {
        "MOR-001" => remains(vec![Trace { number: Some(79), ..trace(Sign::Xid, 0, 1) }]),
        "MOR-002" => one(Sign::MachineCheck),
        "MOR-003" => one(Sign::LinkDown),
        "MOR-004" => one(Sign::DiskFull),
        "MOR-005" => one(Sign::HostMemory),
        "MOR-006" => one(Sign::GpuMemory),
        "MOR-007" => one(Sign::Exception),
        "MOR-008" => one(Sign::TimeLimit),
        "MOR-009" => one(Sign::Killed),
        "MOR-010" => with(vec![stall(&[0, 1, 3], &[2], &[])]),
        "MOR-011" => one(Sign::SizeMismatch),
        "MOR-012" => one(Sign::Memlock),
        "MOR-013" => with(vec![stall(&[0, 1, 2, 3], &[], &[])]),
        "MOR-014" => remains(Vec::new()),
        "MOR-015" => remains(vec![lost(0, 0, 2), lost(0, 1, 2)]),
        "MOR-016" => {
            let mut r = remains(Vec::new());
            r.sources[0].trouble = Some("permission denied".into());
            r
        }
        "MOR-017" => {
            let change = Change { node: Some(NodeName("n1".into())), what: "started anew".into(), weighs: false };
            Remains { changes: vec![change], ..remains(Vec::new()) }
        }
        // Hours before, an error of a GPU that had nothing to do with it.
        "MOR-018" => remains(vec![trace(Sign::GpuEcc, -20_000, 1), trace(Sign::Exception, 0, 2)]),
        "MOR-019" => remains(vec![trace(Sign::Exception, 0, 2), lost(1, 0, 2)]),
        "MOR-020" => one(Sign::Refused),
        _ => return None,
    }))
}

#[test]
fn the_part_that_failed_is_the_cause_and_what_all_report_is_not() {
    let xid = |code, second| Trace { number: Some(code), ..trace(Sign::Xid, second, 2) };
    let others = || vec![lost(3, 0, 2), lost(3, 1, 2), lost(4, 3, 0), trace(Sign::Exception, 5, 1)];
    is(remains([others(), vec![xid(79, 0)]].concat()), "MOR-001", &["n2"]);
    // The kernel writes later than ranks complain.
    is(remains([others(), vec![trace(Sign::HostMemory, 30, 2)]].concat()), "MOR-005", &["n2"]);
    // An Xid that a program causes accuses no GPU.
    is(remains(vec![xid(31, 0), trace(Sign::GpuFault, 1, 2), lost(2, 0, 2)]), "MOR-007", &[]);
    // A link that flapped while the program failed of itself.
    is(remains(vec![trace(Sign::LinkDown, -120, 3), trace(Sign::Exception, 0, 1), lost(1, 0, 1)]), "MOR-007", &[]);
    // A link that went down, and then all wait.
    is(remains(vec![trace(Sign::LinkDown, -5, 3), lost(1, 0, 3), lost(1, 1, 3)]), "MOR-003", &["n3"]);
    // A full disk is the run's, whoever met it first.
    is(remains(vec![trace(Sign::DiskFull, 0, 3), lost(1, 0, 3)]), "MOR-004", &[]);
}

#[test]
fn who_was_killed_first_is_told_and_who_was_killed_by_the_launcher_is_not() {
    is(remains(vec![trace(Sign::Killed, 0, 1), lost(0, 0, 1), lost(1, 2, 0)]), "MOR-009", &["n1"]);
    // All had waited for rank 1 before its launcher killed it.
    let waited = |rank| Trace { number: Some(7), ..trace(Sign::CollectiveTimeout, 600, rank) };
    let launcher = vec![trace(Sign::StepEnded, 620, 0), trace(Sign::Killed, 624, 1)];
    is(remains([vec![waited(0), waited(2), waited(3)], launcher].concat()), "MOR-010", &["n1"]);
    // The time was over, and nothing had failed; or a hang had eaten it.
    is(remains(vec![trace(Sign::TimeLimit, 0, 0), trace(Sign::Teardown, 1, 1), lost(1, 2, 1)]), "MOR-008", &[]);
    is(remains(vec![waited(0), waited(1), waited(3), trace(Sign::TimeLimit, 900, 0)]), "MOR-010", &["n2"]);
    // Slurm says that a node failed, on the node that led the job: it is not that one.
    is(remains(vec![waited(0), waited(1), waited(3), trace(Sign::SomeNodeFailed, 601, 0)]), "MOR-010", &["n2"]);
    is(remains(vec![trace(Sign::SomeNodeFailed, 0, 0)]), "MOR-002", &[]);
    // An exception after a rank has lost its peer is a consequence.
    let thrown = Trace { at: None, ..trace(Sign::Exception, 1, 0) };
    is(remains(vec![lost(0, 0, 2), thrown, lost(0, 1, 2)]), "MOR-015", &["n2"]);
}

/// Programs write of errors that they get over: at their start, and in between.
#[test]
fn what_a_rank_got_over_is_no_cause() {
    let early = |sign, rank| trace(sign, -3000, rank);
    // An optional module that is not there; ports that are not open yet; ten minutes later a GPU.
    let start = vec![early(Sign::Exception, 0), early(Sign::Refused, 1), early(Sign::PeerClosed, 2)];
    let xid = Trace { number: Some(79), ..trace(Sign::Xid, 0, 2) };
    is(remains([start.clone(), vec![xid, lost(1, 0, 2), lost(1, 1, 2)]].concat()), "MOR-001", &["n2"]);
    is(remains([start.clone(), vec![trace(Sign::Killed, 0, 3), lost(1, 0, 3)]].concat()), "MOR-009", &["n3"]);
    is(remains([start, vec![lost(0, 0, 3), lost(0, 1, 3)]].concat()), "MOR-015", &["n3"]);
    // Shortly before: a refused connection is tried again, and the exception that comes then is the rank's own.
    is(remains(vec![trace(Sign::Refused, -60, 0), trace(Sign::Exception, 0, 1), lost(1, 0, 1)]), "MOR-007", &[]);
}

#[test]
fn a_rank_that_waits_elsewhere_is_not_who_is_missing() {
    let with = |stalls: Vec<Stall>| Remains { stalls, ..remains(Vec::new()) };
    // 0 and 1 wait for 2, which waits for 3, which is nowhere.
    is(with(vec![stall(&[0, 1], &[2], &[]), stall(&[2], &[3], &[])]), "MOR-010", &["n3"]);
    // In a circle: nobody's node is at fault.
    is(with(vec![stall(&[0], &[1], &[]), stall(&[1], &[0], &[])]).clone(), "MOR-011", &[]);
    // Two dumps of thousands say nothing of who is missing.
    is(with(vec![stall(&[0], &[], &[1, 2, 3])]), "MOR-014", &[]);
    // What moved between two looks is at work.
    is(with(vec![Stall { still: Some(false), ..stall(&[0, 1, 3], &[2], &[]) }]), "MOR-014", &[]);
    let different = Stall { different: vec![(2, "broadcast".into())], ..stall(&[0, 1, 2, 3], &[], &[]) };
    is(with(vec![different]), "MOR-011", &[]);
}

#[test]
fn complaints_alone_accuse_nobody_who_is_alive() {
    // A ring in which each has lost the next: all wrote, so all were alive, and no one more than others.
    is(remains(vec![lost(0, 0, 1), lost(0, 1, 2), lost(0, 2, 3), lost(0, 3, 0)]), "MOR-014", &[]);
    is(remains(vec![trace(Sign::RankExit, 0, 1), trace(Sign::Teardown, 0, 2)]), "MOR-014", &[]);
    // One path of RDMA: either end, and held.
    let rdma = Trace { names: Some("n3".into()), number: Some(12), ..trace(Sign::RdmaError, 0, 1) };
    let alive = trace(Sign::Teardown, 1, 3);
    let (codes, _) = found(remains(vec![rdma, alive]));
    assert_eq!(codes, ["MOR-003 link n1 -> n3"]);
}

proptest::proptest! {
    /// Whatever was found, in whatever order: an answer, and the same from the same.
    #[test]
    fn any_remains_end_in_an_answer(picks in proptest::collection::vec((0usize..12, -2000i64..2000, 0u32..4), 0..30)) {
        const SIGNS: [Sign; 12] = [Sign::Xid, Sign::GpuEcc, Sign::LinkDown, Sign::DiskFull, Sign::HostMemory, Sign::Exception, Sign::Killed,
            Sign::TimeLimit, Sign::PeerClosed, Sign::CollectiveTimeout, Sign::StepEnded, Sign::Teardown];
        let traces: Vec<Trace> = picks.iter().map(|(s, at, rank)| trace(SIGNS[*s], *at, *rank)).collect();
        let mut turned = traces.clone();
        turned.reverse();
        let answer = found(remains(traces));
        proptest::prop_assert!(!answer.0.is_empty());
        proptest::prop_assert_eq!(answer, found(remains(turned)));
    }
}
