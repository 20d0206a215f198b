//! Two records against each other: what got worse, and what only looks so.

use std::sync::Arc;

use crate::common::*;
use gonogo::baseline::{self, Baseline, BaselineError};
use gonogo::id::NodeName;
use gonogo::judge::{Change, Diff, diff, judge};
use gonogo::plan::RunPlan;
use gonogo::record::Record;
use gonogo::work::Case;

/// GEMM on eight nodes, each at `rate(node)`, in blocks that vary by a percent.
fn record(rate: &dyn Fn(usize) -> f64) -> Record {
    let mut record = network(8, 1);
    let nodes = record.header.nodes.clone();
    let alone: Vec<Vec<NodeName>> = nodes.iter().map(|n| vec![n.clone()]).collect();
    add_groups(&mut record, "gemm", "gemm", &["f32 1 core"], serde_json::Value::Null, &alone);
    for (i, node) in nodes.iter().enumerate() {
        let value = rate(i) * (1.0 + 0.003 * (i % 3) as f64);
        add_line(&mut record, node, "gemm", "gemm", "f32 1 core", measured(series("gemm", "flops", value)));
    }
    record
}

fn of(a: &Record, b: &Record) -> Diff {
    let limits = baseline::builtin();
    diff(&judge(a, &RunPlan::default(), &limits), &judge(b, &RunPlan::default(), &limits), 0.05)
}

#[test]
fn what_got_slower_beyond_the_margin_is_worse() {
    let before = record(&|_| 90e9);
    assert!(!of(&before, &before).is_worse());
    // Three percent are alike, ten are not, and ten in the other direction are better.
    assert!(!of(&before, &record(&|_| 87.3e9)).is_worse());
    let slow = of(&before, &record(&|_| 81e9));
    assert_eq!((slow.metrics[0].change, slow.compared), (Change::Worse, 1));
    assert!(slow.metrics[0].ratio.is_some_and(|r| (r - 0.9).abs() < 0.01), "{slow:?}");
    let fast = of(&record(&|_| 81e9), &before);
    assert_eq!((fast.metrics[0].change, fast.is_worse()), (Change::Better, false));
}

#[test]
fn one_node_of_many_that_lost_a_lot_is_worse_and_named() {
    let before = record(&|_| 90e9);
    let d = of(&before, &record(&|i| if i == 5 { 60e9 } else { 90e9 }));
    assert!(d.is_worse());
    let (name, ratio) = d.metrics[0].worst.clone().unwrap();
    assert!(name == "node n5" && (ratio - 0.667).abs() < 0.01, "{name} {ratio}");
}

/// The same nodes by another launcher: long names, or the kernel's.
#[test]
fn a_node_that_is_called_otherwise_is_the_same_node() {
    let before = record(&|_| 90e9);
    let mut after = record(&|i| if i == 5 { 60e9 } else { 90e9 });
    let long = |n: &NodeName| NodeName(format!("{n}.cluster"));
    after.header.kernel_names = after.header.nodes.iter().map(|n| (NodeName(format!("rank-{n}")), long(n).0)).collect();
    for node in after.header.nodes.iter_mut().chain(after.outcomes.iter_mut().map(|l| Arc::make_mut(&mut l.node))) {
        *node = NodeName(format!("rank-{node}"));
    }
    let d = of(&before, &after);
    assert_eq!((d.nodes_new.len(), d.nodes_gone.len()), (0, 0), "{d:?}");
    assert_eq!(d.metrics[0].worst.as_ref().map(|w| w.0.as_str()), Some("node n5"));
    assert!(d.is_worse());
}

/// What is written can be read again, and a metric that has no usual value is not written.
#[test]
fn a_baseline_is_learned_from_what_is_steady() {
    let learned = Baseline::learn(&[record(&|_| 90e9)], "today").unwrap();
    assert_eq!(Baseline::parse(&learned.text().unwrap()), Ok(learned));
    let wild = record(&|i| [1e9, 9e9, 40e9, 90e9][i % 4]);
    assert_eq!(Baseline::learn(&[wild], "today"), Err(BaselineError::Nothing));
}

#[test]
fn records_that_share_nothing_are_not_compared() {
    let mut other = record(&|_| 90e9);
    for line in &mut other.outcomes {
        line.case = Case::read("f64 1 core");
    }
    let d = of(&record(&|_| 90e9), &other);
    assert_eq!((d.compared, d.is_worse(), d.metrics.len()), (0, false, 2));
    let empty = empty(RunPlan::default());
    assert_eq!(of(&empty, &empty).compared, 0);
}

#[test]
fn software_and_findings_that_changed_are_told() {
    let (mut a, mut b) = (record(&|_| 90e9), record(&|_| 90e9));
    for (record, release) in [(&mut a, "6.1"), (&mut b, "6.8")] {
        let mut m = good_machine();
        m.kernel.release = Some(release.into());
        let node = record.header.nodes[0].clone();
        add_line(record, &node, "environment", "environment", "machine", machine(m));
    }
    b.header.nodes.push(NodeName("n8".into()));
    let d = of(&a, &b);
    assert_eq!(d.software, [("kernel".to_owned(), "6.1".to_owned(), "6.8".to_owned())]);
    assert_eq!((d.nodes_new.as_slice(), d.nodes_gone.len()), (&["n8".to_owned()][..], 0));
}

/// A failure that the first record does not have is worse at any speed; which nodes have it does not matter.
#[test]
fn a_failure_that_is_new_is_worse() {
    let wrong = |node: &str| {
        let mut r = record(&|_| 90e9);
        add_on(&mut r, node, "memory", "x", checked(series("memory", "bandwidth", 1e12), "pattern", false));
        r
    };
    let healthy = record(&|_| 90e9);
    let d = of(&healthy, &wrong("n2"));
    assert!(d.is_worse() && d.failing == [("MEM-001".to_owned(), 1)], "{:?}", d.failing);
    assert!(!of(&wrong("n2"), &healthy).is_worse() && !of(&wrong("n2"), &wrong("n3")).is_worse());
}

/// Of two images, what they bring is compared.
#[test]
fn two_images_are_compared_by_what_they_bring() {
    let (good, broken) = (crate::image::provoke("IMG-014").unwrap(), crate::image::provoke("IMG-003").unwrap());
    let d = of(&good, &good);
    assert!(d.compared == 9 && !d.is_worse(), "{d:?}");
    let d = of(&good, &broken);
    assert_eq!((d.failing.clone(), d.is_worse()), (vec![("IMG-003".to_owned(), 1)], true));
    assert!(
        d.software.iter().any(|(what, a, b)| what == "providers, mlx5" && a == "there" && b == "does not load"),
        "{d:?}"
    );
    assert!(d.software.iter().any(|(what, a, b)| what == "NCCL_ALGO" && a == "Ring" && b == "none"), "{d:?}");
    let style = gonogo::report::Style { width: 80, colour: false };
    let text = gonogo::report::diff(&d, ("a", "b"), style);
    assert!(text.starts_with("WORSE  1 new failure\n") && text.contains("9 parts compared"), "{text}");
    assert!(text.contains("IMG-003 RDMA has no provider in the image"), "{text}");
}
