//! A checkpoint directory that all nodes share: what is wrong with it is nobody's fault among them.

use std::path::PathBuf;

use crate::common::*;
use gonogo::measure::{FailKind, Outcome};
use gonogo::record::Record;
use gonogo::topology::{Machine, Mount};

/// Four nodes of which three are needed, each with the directory from `source`; `n1` met a full disk.
fn full(fstype: &str, source: impl Fn(u32) -> String) -> Record {
    let mut record = network(4, 1);
    record.header.plan.run = run_plan("[nodes]\nneeded = 3\n");
    record.header.plan.storage_path = Some(PathBuf::from("/ckpt/run"));
    for i in 0..4 {
        let mount = |point: &str, fstype: &str, source: String| Mount {
            point: point.into(),
            fstype: fstype.into(),
            source,
            options: "rw".into(),
        };
        let mounts = vec![mount("/", "ext4", "/dev/sda1".into()), mount("/ckpt", fstype, source(i))];
        let node = format!("n{i}");
        add_on(&mut record, &node, "environment", "machine", machine(Machine { mounts, ..good_machine() }));
        let outcome = match i {
            1 => Outcome::error(FailKind::DiskFull, "no space left on device"),
            _ => measured(series("storage", "write", 2e9)),
        };
        add_on(&mut record, &node, "storage", "write", outcome);
    }
    record
}

#[test]
fn a_full_disk_that_all_share_is_the_runs() {
    for fstype in ["nfs4", "lustre"] {
        let (decision, findings) = verdict(&full(fstype, |_| "srv:/ckpt".to_owned()));
        assert_eq!(decision, "NO-GO", "{findings:?}");
        assert!(findings.contains(&"STO-026 fail".to_owned()), "{findings:?}");
    }
}

#[test]
fn a_full_disk_of_one_node_is_its_own() {
    for record in [full("ext4", |_| "/dev/nvme0n1".to_owned()), full("nfs4", |i| format!("srv{i}:/ckpt"))] {
        let (decision, findings) = verdict(&record);
        assert_eq!(decision, "GO-WITHOUT", "{findings:?}");
    }
}
