//! What a run saves and restores, rehearsed: held against its plan, and what the file system allows.

use gonogo::id::NodeName;
use gonogo::judge::{self, Finding};
use gonogo::measure::{Facts, Measured, Outcome};
use gonogo::record::Record;
use gonogo::topology::{Filesystem, Machine, Mount, Quota, QuotaOf, Target};
use gonogo::unit::Bytes;

use crate::common::*;

const GIB: u64 = 1 << 30;
/// 100 GiB every 10 minutes: 179 MB/s would drain it in time; within 1 % of the interval it takes 17.9 GB/s.
const PLAN: &str =
    "[nodes]\nneeded = 8\n[checkpoint]\ndir = \"/ckpt\"\nsize = \"100 GiB\"\nkeep = 2\ninterval = \"10m\"\n";

/// A file system with room for a thousand saves, changed by `edit`.
fn roomy(edit: &dyn Fn(&mut Filesystem)) -> Outcome {
    let Outcome::Measured(m) = filesystem("nfs4", 100_000 * GIB) else { panic!("no facts") };
    let Some(Facts::Filesystem(mut fs)) = m.facts.map(|f| *f) else { panic!("no file system") };
    edit(&mut fs);
    Outcome::facts(Facts::Filesystem(fs))
}

/// Eight nodes that saved together, and restored: each metric of the probe at so many bytes a second, by nodes.
fn rehearsed(plan: &str, rates: &[(u32, &str, &str, f64)]) -> Record {
    let mut record = network(8, 1);
    record.header.plan.run = run_plan(&format!("{PLAN}{plan}"));
    record.header.plan.storage_path = Some("/ckpt".into());
    let names = record.header.nodes.clone();
    for (n, case, metric, rate) in rates {
        let case = format!("{case} n={n}");
        let step = format!("checkpoint-{n}-{metric}");
        let group = names[..*n as usize].to_vec();
        add_groups(&mut record, &step, "checkpoint", &[&case], serde_json::Value::Null, &[group]);
        add_line(&mut record, &names[0], &step, "checkpoint", &case, measured(series("checkpoint", metric, *rate)));
    }
    for name in names.iter().map(|n| n.0.as_str()) {
        add_on(&mut record, name, "environment", "machine", machine(with_memory(900)));
        add_on(&mut record, name, "storage", "capacity", roomy(&|_| {}));
    }
    record
}

fn with_memory(gib: u64) -> Machine {
    let mut m = good_machine();
    m.memory.total = Some(Bytes(1024 * GIB));
    m.memory.available = Some(Bytes(gib * GIB));
    m
}

fn on(record: &mut Record, edit: &dyn Fn(&mut Filesystem)) {
    for line in &mut record.outcomes {
        if let Outcome::Measured(Measured { facts: Some(facts), .. }) = &mut line.outcome
            && let Facts::Filesystem(fs) = &mut **facts
        {
            edit(fs);
        }
    }
}

fn quota(limit: u64, used: u64) -> Quota {
    let (limit, used) = (Some(Bytes(limit * GIB)), Bytes(used * GIB));
    Quota { of: QuotaOf::User, id: 1000, limit, used, files_limit: Some(1000), files: 10 }
}

/// Eight targets, of which the last has so many GiB left.
fn ost(left: u64) -> Vec<Target> {
    let of = |i: u64, left: u64| Target {
        name: format!("scratch-OST{i:04}"),
        total: Bytes(12_500 * GIB),
        available: Bytes(left * GIB),
        active: true,
    };
    (0..7).map(|i| of(i, 9000)).chain([of(7, left)]).collect()
}

pub fn provoke(code: &str) -> Option<Record> {
    let fast = [(8, "save", "write", 50e9)];
    match code {
        "STO-031" => {
            let mut r = rehearsed("", &fast);
            on(&mut r, &|fs| fs.quotas = vec![quota(500, 400)]);
            Some(r)
        }
        "STO-032" => {
            let mut r = rehearsed("", &fast);
            on(&mut r, &|fs| fs.targets = ost(1));
            Some(r)
        }
        "STO-033" => Some(rehearsed("mode = \"async\"\n", &[(8, "save", "drain", 150e6)])),
        "STO-034" => {
            let mut r = rehearsed("mode = \"async\"\nstaging_copies = 2\n", &[(8, "save", "drain", 1e9)]);
            let n3 = NodeName("n3".into());
            for line in r.outcomes.iter_mut().filter(|l| *l.node == n3 && l.case.to_string() == "machine") {
                line.outcome = machine(with_memory(20));
            }
            Some(r)
        }
        "STO-035" => Some(rehearsed("restore_budget = \"5m\"\nrestore_reads = 4\n", &[(8, "restore", "read", 1e9)])),
        "STO-036" => {
            let by = |n, rate| (n, "save", "write", rate);
            Some(rehearsed("", &[by(1, 2e9), by(2, 3.9e9), by(4, 4e9), by(8, 2.2e9)]))
        }
        "STO-037" => {
            let mut r = rehearsed("", &fast);
            on(&mut r, &|fs| fs.mount.options = "rw,soft,timeo=50".into());
            Some(r)
        }
        "STO-038" => {
            let mut r = rehearsed("", &fast);
            let lazy = Mount { fstype: "lustre".into(), options: "rw,lazystatfs".into(), ..Mount::default() };
            on(&mut r, &|fs| fs.mount = lazy.clone());
            Some(r)
        }
        _ => None,
    }
}

fn findings(record: &Record) -> Vec<Finding> {
    let run = &record.header.plan.run;
    let mut limits = gonogo::baseline::required(run);
    limits.extend(gonogo::baseline::builtin());
    let j = judge::judge(record, run, &limits);
    j.findings.into_iter().filter(|f| f.code.to_string().starts_with("STO-")).collect()
}

fn told(record: &Record) -> Vec<String> {
    findings(record).iter().map(|f| format!("{} {} {}: {}", f.code, f.severity.name(), f.subject, f.evidence)).collect()
}

#[test]
fn a_save_that_keeps_to_its_plan_is_well() {
    let stall = "stall_budget = 0.01\nrestore_budget = \"2m\"\n";
    let well = [(8, "save", "write", 20e9), (8, "restore", "read", 2e9)];
    assert!(told(&rehearsed(stall, &well)).is_empty(), "{:?}", told(&rehearsed(stall, &well)));
    // In the background: staged within the budget, drained within the interval.
    let stall = format!("mode = \"async\"\n{stall}");
    let well = [(8, "save", "stage", 40e9), (8, "save", "drain", 1e9), (8, "restore", "read", 2e9)];
    assert!(told(&rehearsed(&stall, &well)).is_empty());
}

#[test]
fn who_waits_for_the_disk_is_held_against_the_disk_and_who_does_not_against_staging() {
    let stall = "stall_budget = 0.01\n";
    let sync = told(&rehearsed(stall, &[(8, "save", "write", 10e9)]));
    assert!(sync.len() == 1 && sync[0].starts_with("STO-029 fail"), "{sync:?}");
    let both = [(8, "save", "stage", 10e9), (8, "save", "drain", 10e9)];
    let async_ = told(&rehearsed(&format!("mode = \"async\"\n{stall}"), &both));
    assert!(async_.len() == 1 && async_[0].starts_with("STO-029 fail"), "{async_:?}");
    assert!(async_[0].contains("stage"), "{async_:?}");
}

/// Seven nodes say less of what eight reach, and one of eight nothing at all of what all do.
#[test]
fn fewer_nodes_than_the_run_has_warn() {
    let stall = "stall_budget = 0.01\n";
    let seven = told(&rehearsed(stall, &[(7, "save", "write", 10e9)]));
    assert!(seven.len() == 1 && seven[0].starts_with("STO-029 warn"), "{seven:?}");
    let ladder = [(1, "save", "write", 3e9), (4, "save", "write", 12e9), (8, "save", "write", 20e9)];
    assert!(told(&rehearsed(stall, &ladder)).is_empty(), "{:?}", told(&rehearsed(stall, &ladder)));
}

#[test]
fn a_rehearsal_says_it_instead_of_the_arithmetic() {
    let stall = "stall_budget = 0.01\n";
    let mut record = rehearsed(stall, &[(8, "save", "write", 20e9)]);
    for node in record.header.nodes.clone() {
        add_on(&mut record, &node.0, "storage", "write", measured(series("storage", "write", 1e9)));
    }
    assert!(told(&record).is_empty(), "{:?}", told(&record));
    // Without it, what each node writes by itself is summed up.
    record.outcomes.retain(|l| l.probe.as_str() != "checkpoint");
    record.steps.retain(|s| s.probe.as_str() != "checkpoint");
    let told = told(&record);
    assert!(told.iter().any(|t| t.starts_with("STO-029 fail")), "{told:?}");
}

#[test]
fn a_quota_counts_where_it_is_less_than_what_is_free() {
    let of = |quotas: Vec<Quota>| {
        let mut r = rehearsed("", &[(8, "save", "write", 50e9)]);
        on(&mut r, &|fs| fs.quotas = quotas.clone());
        told(&r)
    };
    let found = of(vec![quota(500, 400)]);
    assert!(found.iter().all(|t| t.starts_with("STO-031 fail")), "{found:?}");
    assert!(found[0].contains("the quota of user 1000 leaves 100 GiB of 500 GiB, 97.7 TiB are free"), "{found:?}");
    assert!(of(vec![quota(5000, 400)]).is_empty());
    // Over its quota nothing is left; above what is free it says nothing.
    assert!(of(vec![quota(500, 900)])[0].contains("leaves 0 B"));
    assert!(of(vec![quota(1 << 30, 0)]).is_empty());
}

#[test]
fn targets_are_told_by_what_a_save_needs_on_each() {
    let of = |targets: Vec<Target>| {
        let mut r = rehearsed("", &[(8, "save", "write", 50e9)]);
        on(&mut r, &|fs| fs.targets = targets.clone());
        told(&r)
    };
    // 500 GiB are needed, 62.5 on each.
    let full = of(ost(10));
    assert!(full.len() == 1 && full[0].starts_with("STO-032 fail this run: scratch-OST0007"), "{full:?}");
    // Fuller than the rest, and room for the run.
    let fuller = of(ost(1000));
    assert!(fuller.len() == 1 && fuller[0].starts_with("STO-032 warn"), "{fuller:?}");
    assert!(of(ost(8000)).is_empty());
    let mut silent = ost(8000);
    silent[2].active = false;
    let silent = of(silent);
    assert!(silent.len() == 1 && silent[0].contains("scratch-OST0002 of 8 do not answer"), "{silent:?}");
}

#[test]
fn memory_for_staging_is_asked_of_every_node() {
    let Some(record) = provoke("STO-034") else { panic!("no record") };
    let found = told(&record);
    assert_eq!(found, ["STO-034 fail node n3: 20 GiB of 1 TiB available"]);
    // One copy fits.
    let mut one = record;
    one.header.plan.run = run_plan(&format!("{PLAN}mode = \"async\"\n"));
    assert!(told(&one).is_empty(), "{:?}", told(&one));
}

#[test]
fn more_nodes_that_do_not_help_are_no_finding_and_more_that_hinder_are() {
    let by = |rates: [f64; 4]| {
        let of = [1, 2, 4, 8].iter().zip(rates).map(|(n, r)| (*n, "save", "write", r)).collect::<Vec<_>>();
        findings(&rehearsed("", &of))
    };
    assert!(by([2e9, 3.9e9, 4e9, 4e9]).is_empty());
    assert!(by([2e9, 3.9e9, 4e9, 3.2e9]).is_empty());
    let found = by([2e9, 3.9e9, 4e9, 2.2e9]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].evidence, "by nodes, all together: 1: 2.00 GB/s, 2: 3.90 GB/s, 4: 4.00 GB/s, 8: 2.20 GB/s");
    assert_eq!(found[0].proof.len(), 4);
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    let error = |text: &str| {
        let text = format!("[checkpoint]\n{text}");
        gonogo::plan::parse(std::path::Path::new("run.toml"), &text).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (text, want) in [
        ("staging_copies = 0\nmode = \"async\"\n", "run.toml:2:1: `staging_copies` must be at least 1"),
        ("restore_reads = 0\n", "run.toml:2:1: `restore_reads` must be at least 1"),
        ("restore_budget = \"0s\"\nsize = \"1 GiB\"\n", "run.toml:2:1: `restore_budget` must be above zero"),
        (
            "restore_budget = \"9s\"\n",
            "run.toml:2:1: `restore_budget` needs the size of a checkpoint: give `size` here, or [model] parameters",
        ),
        (
            "stall_budget = 0.01\n",
            "run.toml:2:1: `stall_budget` is a share of the time between saves: give `interval`, or `interval_steps` and \
             `step_time`",
        ),
        ("size = 0\n", "run.toml:2:1: `size` must be above zero"),
        ("mode = \"asink\"\n", "run.toml:2:8: unknown value `asink`; did you mean `async`?"),
        (
            "staging_copies = 2\n",
            "run.toml:2:1: `staging_copies` is of asynchronous saves: add mode = \"async\", or leave it out",
        ),
    ] {
        assert_eq!(error(text), want);
    }
}

/// A demand that nothing measured answers is no GO, whoever left it out.
#[test]
fn what_nothing_answers_holds() {
    for (plan, key) in [
        ("restore_budget = \"5m\"\n", "restore_budget"),
        ("mode = \"async\"\nstall_budget = 0.1\n", "stall_budget"),
        ("mode = \"async\"\n", "interval"),
    ] {
        let record = rehearsed(plan, &[]);
        let (decision, found) = verdict(&record);
        assert!(decision != "GO" && found.iter().any(|f| f.starts_with("COV-002")), "{key}: {decision} {found:?}");
    }
}
