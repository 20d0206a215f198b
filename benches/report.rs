//! Reports of a cluster of 1024 nodes with eight GPUs each, in every format; judging comes before and is measured apart.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use gonogo::{baseline, judge, report};

#[expect(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/pipeline/common.rs"]
mod common;

fn reports(c: &mut Criterion) {
    let record = common::large();
    let limits = baseline::builtin();
    let judgement = judge::judge(&record, &record.header.plan.run, &limits);
    let mut g = c.benchmark_group("1024 nodes x 8 GPUs");
    g.sample_size(10).measurement_time(Duration::from_secs(5));
    g.bench_function("judge", |b| b.iter(|| black_box(judge::judge(&record, &record.header.plan.run, &limits))));
    let style = report::Style { width: 100, colour: false };
    g.bench_function("terminal", |b| b.iter(|| report::terminal(&report::view(&judgement, "r"), style)));
    g.bench_function("markdown", |b| b.iter(|| report::markdown(&report::view(&judgement, "r"))));
    g.bench_function("html", |b| b.iter(|| report::html(&judgement, "r")));
    g.bench_function("junit", |b| b.iter(|| report::junit(&judgement)));
    g.bench_function("prometheus", |b| b.iter(|| report::prometheus(&judgement)));
    g.bench_function("csv", |b| b.iter(|| report::csv(&judgement, &mut std::io::sink())));
    g.bench_function("json", |b| b.iter(|| report::json(&judgement, "r")));
    g.finish();
}

criterion_group!(benches, reports);
criterion_main!(benches);
