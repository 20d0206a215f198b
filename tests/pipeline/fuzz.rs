//! Nonsense from outside: no byte of a record and no file of a machine makes gonogo panic.

use std::io::Cursor;
use std::path::Path;

use gonogo::topology::{SysRoot, discover};
use gonogo::{baseline, judge, record, report};
use proptest::prelude::*;

const RECORD: &[u8] = include_bytes!("../fixtures/records/no-go-storage.jsonl");

/// Files that discovery parses.
const FILES: &[&str] = &[
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/self/limits",
    "proc/self/cgroup",
    "proc/modules",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu0/cache/index3/size",
    "sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list",
    "sys/devices/system/node/node0/meminfo",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory.max",
    "sys/class/net/eth0/speed",
    "sys/class/net/eth0/mtu",
    "sys/block/sda/size",
    "sys/class/infiniband/mlx5_0/ports/1/state",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_record_with_changed_bytes_is_refused_or_judged(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let mut bytes = RECORD.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(record) = record::parse(Path::new("r"), Cursor::new(&bytes)) {
            let run = record.header.plan.run.clone();
            let limits = baseline::builtin();
            let j = judge::judge(&record, &run, &limits);
            let text = report::terminal(&report::view(&j, "r"), report::Style { width: 80, colour: false });
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
            let cut_off = record.damage.is_some() || record.end.is_none();
            prop_assert!(!(cut_off && j.decision.to_string().starts_with("GO")));
        }
    }

    #[test]
    fn nonsense_in_proc_and_sys_is_no_crash(file in prop::sample::select(FILES), text in "\\PC{0,80}|[0-9,:/. kKMBmaxMemTotal-]{0,60}|-1|18446744073709551615|99999999999999999999") {
        let dir = tempfile::tempdir().unwrap();
        for f in FILES {
            let path = dir.path().join(f);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, if *f == file { text.as_str() } else { "1" }).unwrap();
        }
        let machine = discover(&SysRoot::replay(dir.path()).unwrap());
        // The figures that plans are made from stay usable.
        prop_assert!(machine.usable_threads() >= 1 && machine.usable_cores() >= 1 && machine.clock_ceiling_hz() > 1e9);
    }
}
