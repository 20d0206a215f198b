//! The stages behind the measurements, on a record of 10 000 nodes x 100 metrics.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use gonogo::cluster::Step;
use gonogo::id::{NodeName, ProbeName};
use gonogo::measure::{Measured, Outcome, stats};
use gonogo::record::{End, Header, OutcomeLine, Record, SCHEMA, Writer};
use gonogo::work::Case;
use gonogo::{baseline, judge, plan, probe, record, report};
use jiff::Timestamp;

const NODES: usize = 10_000;
const CASES: usize = 50;
/// Blocks of each of the two metrics of a case.
const BLOCKS: usize = 8;

fn big() -> Record {
    let plan =
        plan::resolve(Default::default(), Default::default(), &probe::names(), 7).unwrap_or_else(|e| panic!("{e}"));
    let nodes: Vec<NodeName> = (0..NODES).map(|i| NodeName(format!("node{i:05}"))).collect();
    let header = Header {
        kernel_names: Default::default(),
        job: None,
        launcher: None,
        leaves: Vec::new(),
        schema: SCHEMA,
        version: "0".into(),
        commit: "bench".into(),
        started: Timestamp::UNIX_EPOCH,
        joining_ms: None,
        nodes,
        plan,
        clock_resolution_ns: 30.0,
    };
    let mut out = Record::new(header);
    let cases: Vec<Case> = (0..CASES).map(|i| Case::Streams(i as u32)).collect();
    out.steps = vec![Step { ranks: 2, ..Step::new("tcp", ProbeName::new("tcp"), cases.clone()) }];
    let mut rng = fastrand::Rng::with_seed(1);
    for node in out.header.nodes.clone() {
        for case in &cases {
            let tcp = probe::find("tcp").map_or(&[][..], |p| p.metrics());
            let scales = [("bandwidth", 4e9), ("rtt_p50", 2e-5)];
            let mut series = |name: &str, scale: f64| {
                let samples = (0..BLOCKS).map(|_| scale * (1.0 + 0.01 * rng.f64())).collect();
                tcp.iter().map(|m| m.metric).find(|m| m.name() == name).map(|m| m.series(samples, 16))
            };
            let series = scales.iter().filter_map(|(name, scale)| series(name, *scale)).collect();
            let outcome = Outcome::Measured(Measured { series, ..Measured::default() });
            out.outcomes.push(OutcomeLine {
                blame: None,
                node: node.clone().into(),
                step: "tcp".into(),
                probe: ProbeName::new("tcp"),
                case: case.clone(),
                attempt: 1,
                load: None,
                outcome,
            });
        }
    }
    out.end = Some(End { ended: Timestamp::UNIX_EPOCH, interrupted: false, spent: Vec::new() });
    out
}

fn write(r: &Record, path: &Path) {
    let _ = std::fs::remove_file(path);
    let write = || {
        let mut w = Writer::create(path)?;
        w.header(&r.header)?;
        w.steps(&r.steps)?;
        r.outcomes.iter().try_for_each(|o| w.outcome(o))?;
        r.end.iter().try_for_each(|e| w.end(e))
    };
    write().unwrap_or_else(|e: std::io::Error| panic!("{e}"));
}

fn pipeline(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("record.jsonl");
    let r = big();
    write(&r, &path);
    let bytes = std::fs::read(&path).unwrap_or_default();
    let limits = baseline::builtin();
    let run = r.header.plan.run.clone();
    let mut g = c.benchmark_group("10000 nodes x 100 metrics");
    g.sample_size(10).measurement_time(Duration::from_secs(12));
    let parse = |bytes: &[u8]| record::parse(Path::new("r"), Cursor::new(bytes)).unwrap_or_else(|e| panic!("{e}"));
    g.bench_function("read", |b| b.iter(|| parse(black_box(&bytes))));
    g.bench_function("judge", |b| b.iter(|| judge::judge(black_box(&r), &run, &limits)));
    g.bench_function("read, judge and render", |b| {
        b.iter(|| {
            let r = parse(black_box(&bytes));
            let j = judge::judge(&r, &run, &limits);
            report::terminal(&report::view(&j, "r"), report::Style { width: 100, colour: false })
        });
    });
    g.bench_function("write", |b| b.iter(|| write(black_box(&r), &path)));
    g.finish();
    // The peak of this process holds the record twice (the one that is judged, the one that is parsed) and its bytes.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM unknown");
    println!("record of {} MB; {peak} with two records and the bytes in memory", bytes.len() / 1_000_000);
}

fn statistics(c: &mut Criterion) {
    let samples: Vec<f64> = (0..64).map(|i| f64::from(i * 37 % 64)).collect();
    c.bench_function("summary of 64 samples", |b| b.iter(|| stats::summary(black_box(&samples))));
    c.bench_function("ranks of the median, n = 1000", |b| b.iter(|| stats::median_ranks(black_box(1000), 0.95)));
}

criterion_group!(benches, statistics, pipeline);
criterion_main!(benches);
