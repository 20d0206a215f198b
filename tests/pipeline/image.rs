//! Images: every finding provoked, and none brought up by an image in which all goes together.

use std::path::PathBuf;

use crate::common::*;
use gonogo::judge::{Severity, judge};
use gonogo::measure::{Facts, Outcome, WaiveKind};
use gonogo::plan::{ImagePlan, RunPlan, Tier};
use gonogo::record::Record;
use gonogo::topology::{Component, LibraryFile, Reach, Start};

const LIB: &str = "/usr/lib/x86_64-linux-gnu";

/// The parts of an image, and how it was started.
struct Image {
    parts: Vec<(&'static str, Vec<LibraryFile>)>,
    start: Start,
    plan: ImagePlan,
}

fn library(name: &str, version: &str) -> LibraryFile {
    LibraryFile {
        name: name.into(),
        path: PathBuf::from(format!("{LIB}/{name}")),
        version: (!version.is_empty()).then(|| version.into()),
        ..LibraryFile::default()
    }
}

/// CUDA 12.4 and what goes with it, for H100s under driver 550.54.14.
fn good() -> Image {
    let code = |mut f: LibraryFile, cuda: &str| {
        f.cuda = Some(cuda.into());
        f.code = vec![70, 80, 90];
        f.ptx = vec![90];
        f
    };
    let plugin = LibraryFile { offers: vec![6, 7, 8], ..library("libnccl-net.so", "") };
    Image {
        parts: vec![
            ("cuda", vec![library("libcudart.so.12", "12.4")]),
            ("cublaslt", vec![code(library("libcublasLt.so.12", "12.4.5"), "12.4")]),
            ("nccl", vec![code(library("libnccl.so.2", "2.21.5"), "12.4")]),
            ("nccl-net", vec![plugin]),
            ("ibverbs", vec![library("libibverbs.so.1", "1.14.50.0")]),
            ("providers", vec![library("mlx5", ""), library("rxe", "")]),
            ("ucx", vec![library("libucp.so.0", "1.17.0")]),
            ("ucx-modules", vec![library("libuct_ib.so", ""), library("libuct_cuda.so.0.0.0", "")]),
            ("mpi", vec![library("libmpi.so.40", "Open MPI v4.1.6")]),
        ],
        start: Start { infiniband: true, nvidia: true, ..Start::default() },
        plan: ImagePlan {
            driver: Some("550.54.14".into()),
            gpu: Some("H100".into()),
            kernel: Some("6.1".into()),
            needs: vec!["mlx5".into()],
        },
    }
}

impl Image {
    fn part(&mut self, name: &'static str) -> &mut Vec<LibraryFile> {
        let at = self.parts.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
            self.parts.push((name, Vec::new()));
            self.parts.len() - 1
        });
        &mut self.parts[at].1
    }

    fn set(&mut self, name: &str, value: &str) {
        self.start.environment.insert(name.into(), value.into());
    }

    fn record(self) -> Record {
        let mut record = empty(RunPlan { image: Some(self.plan), ..RunPlan::default() });
        record.header.plan.tier = Tier::Image;
        let told = |facts| Outcome::facts(facts);
        for (part, files) in self.parts {
            let outcome = match files.is_empty() {
                true => Outcome::waived(WaiveKind::Absent, "not in this image"),
                false => told(Facts::Software(Box::new(Component { files }))),
            };
            add(&mut record, "image", part, outcome);
        }
        add(&mut record, "image", "start", told(Facts::Start(Box::new(self.start))));
        record
    }
}

pub fn provoke(code: &str) -> Option<Record> {
    let mut i = good();
    let broken = |f: &mut LibraryFile, error: &str| f.error = Some(error.into());
    match code {
        "IMG-001" => broken(&mut i.part("mpi")[0], "libhwloc.so.15: cannot open shared object file"),
        "IMG-002" => i.part("cublaslt").clear(),
        "IMG-003" => {
            i.plan.needs.clear();
            i.part("providers").iter_mut().for_each(|f| broken(f, "named in /etc/libibverbs.d, and not in the image"));
        }
        "IMG-004" => {
            i.plan.needs.clear();
            for part in ["ibverbs", "providers", "nccl-net"] {
                i.part(part).clear();
            }
        }
        "IMG-005" => i.part("ucx").push(LibraryFile { reach: Reach::Apart, ..library("libucp.so.0", "1.15.0") }),
        "IMG-006" => i.part("driver").push(LibraryFile { stub: true, ..library("libcuda.so.1", "") }),
        "IMG-007" => {
            i.start.nvidia = false;
            i.part("driver").push(library("libcuda.so.1", "550.54.14"));
        }
        "IMG-008" => i.plan.driver = Some("470.57.2".into()),
        "IMG-009" => i.plan.driver = Some("535.183".into()),
        "IMG-010" => (i.part("nccl")[0].code, i.part("nccl")[0].ptx) = (vec![70, 80], vec![]),
        "IMG-011" => i.part("cublaslt")[0].cuda = Some("11.8".into()),
        "IMG-012" => i.part("nccl-net")[0].offers = vec![10, 11],
        "IMG-013" => i.set("NCCL_P2P_DISABLE", "1"),
        "IMG-014" => i.set("NCCL_ALGO", "Ring"),
        "IMG-015" => drop(i.part("ucx-modules").pop()),
        "IMG-016" => i.set("NVIDIA_REQUIRE_CUDA", "cuda>=12.8 brand=tesla,driver>=470,driver<471"),
        "IMG-017" => i.start.infiniband = false,
        "IMG-019" => i.part("ucx")[0].reach = Reach::Hidden,
        "IMG-018" => i.plan.kernel = Some("4.18".into()),
        _ => return None,
    }
    Some(i.record())
}

/// `CODE severity` of each finding.
fn found(i: Image) -> Vec<String> {
    let record = i.record();
    let judgement = judge(&record, &record.header.plan.run, &[]);
    judgement.findings.iter().map(|f| format!("{} {}", f.code, f.severity.name())).collect()
}

#[test]
fn an_image_in_which_all_goes_together_is_go() {
    assert_eq!(found(good()), [""; 0]);
    // Nothing stated, nothing of CUDA in it: gonogo's own image.
    let mut bare = good();
    bare.plan = ImagePlan::default();
    bare.parts.retain(|(n, _)| ["ibverbs", "providers"].contains(n));
    assert_eq!(found(bare), [""; 0]);
    let mut nothing = good();
    nothing.plan = ImagePlan::default();
    nothing.parts.clear();
    assert_eq!(found(nothing), ["COV-001 hold"]);
}

#[test]
fn the_weight_follows_what_programs_get() {
    let with = |edit: &dyn Fn(&mut Image)| {
        let mut i = good();
        edit(&mut i);
        found(i)
    };
    let nccl = |reach, version: &str| LibraryFile {
        reach,
        cuda: Some("12.4".into()),
        code: vec![90],
        ..library("libnccl.so.2", version)
    };
    // A newer one that is hidden, an older one that is, one that Python's packages bring.
    assert_eq!(with(&|i| i.part("nccl").push(nccl(Reach::Hidden, "2.27.3"))), ["IMG-005 fail"]);
    assert_eq!(with(&|i| i.part("nccl").push(nccl(Reach::Hidden, "2.18.1"))), ["IMG-005 warn"]);
    assert_eq!(with(&|i| i.part("nccl").push(nccl(Reach::Apart, "2.27.3"))), ["IMG-005 warn"]);
    assert_eq!(with(&|i| i.part("nccl").push(nccl(Reach::Apart, "2.21.5"))), [""; 0]);
    // The driver's library of another version, and behind the host's own.
    let driver = |here: bool, version: &'static str| {
        with(&|i| {
            i.start.nvidia = here;
            i.part("driver").push(library("libcuda.so.1", version));
        })
    };
    assert_eq!(driver(false, "535.1.1"), ["IMG-007 fail", "IMG-017 note"]);
    assert_eq!(driver(false, "550.54.14"), ["IMG-007 warn", "IMG-017 note"]);
    assert_eq!(driver(true, "535.1.1"), [""; 0]);
    // The name for linking alone.
    assert_eq!(
        with(&|i| i.part("driver").push(LibraryFile { stub: true, ..library("libcuda.so", "") })),
        ["IMG-006 warn"]
    );
    // Forward compatibility libraries.
    let compat = |i: &mut Image| {
        i.plan.driver = Some("470.57.2".into());
        let path = PathBuf::from("/usr/local/cuda-12.4/compat/libcuda.so.550.54.14");
        i.part("driver").push(LibraryFile { path, reach: Reach::Apart, ..library("libcuda.so.1", "550.54.14") });
    };
    assert_eq!(with(&compat), ["IMG-008 warn"]);
    // Code by PTX only, and code of the same generation.
    assert_eq!(with(&|i| i.part("nccl")[0].code = vec![80]), ["IMG-010 warn"]);
    assert_eq!(
        with(&|i| {
            i.plan.gpu = Some("L40S".into());
            i.part("nccl")[0].code = vec![80];
        }),
        [""; 0]
    );
    // One provider of several is broken; none is named.
    assert_eq!(with(&|i| i.part("providers")[1].error = Some("x".into())), ["IMG-003 warn"]);
    let apart = |i: &mut Image| {
        i.plan.needs.clear();
        i.part("providers").iter_mut().for_each(|f| f.reach = Reach::Apart);
    };
    assert_eq!(with(&apart), ["IMG-003 fail"]);
    // A plugin that NCCL would not take by itself.
    assert_eq!(
        with(&|i| {
            i.part("nccl-net").push(LibraryFile { offers: vec![11], ..library("libnccl-net-ofi.so", "") });
        }),
        [""; 0]
    );
    assert_eq!(
        with(&|i| {
            i.part("nccl-net").push(LibraryFile { offers: vec![11], ..library("libnccl-net-ofi.so", "") });
            i.set("NCCL_NET_PLUGIN", "ofi");
        }),
        ["IMG-012 fail"]
    );
    assert_eq!(with(&|i| i.set("NCCL_DEBUG", "WARN")), [""; 0]);
    assert_eq!(with(&|i| i.set("NVIDIA_DRIVER_CAPABILITIES", "graphics")), ["IMG-013 fail"]);
    assert_eq!(with(&|i| i.set("NVIDIA_DRIVER_CAPABILITIES", "compute,utility")), [""; 0]);
    assert_eq!(
        with(&|i| i.start.settings.push(("/etc/nccl.conf".into(), "NCCL_IB_DISABLE".into(), "1".into()))),
        ["IMG-013 fail"]
    );
}

#[test]
fn a_report_of_an_image_says_so() {
    let record = provoke("IMG-003").unwrap();
    let judgement = judge(&record, &record.header.plan.run, &[]);
    assert!(judgement.findings.iter().any(|f| f.severity == Severity::Fail));
    let view = gonogo::report::view(&judgement, "r");
    let text = gonogo::report::terminal(&view, gonogo::report::Style { width: 80, colour: false });
    assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
    for page in [
        gonogo::report::markdown(&view),
        gonogo::report::html(&judgement, "r").unwrap(),
        gonogo::report::junit(&judgement).unwrap(),
        gonogo::report::json(&judgement, "r").unwrap(),
    ] {
        assert!(page.contains("IMG-003") && page.contains("libnccl.so.2"), "{page}");
    }
}

#[test]
fn what_a_plan_asks_of_machines_is_not_asked_of_an_image() {
    let mut image = good();
    image.plan.gpu = Some("B200".into());
    let mut record = image.record();
    let plan = "[nodes]\nneeded = 64\ngpus_per_node = 8\n[model]\nparameters = 20.55e9\n[checkpoint]\ndir = \"/ckpt\"\n\
                [require]\nmin_busbw = \"300 GB/s\"\nprobes = [\"gemm\"]\n";
    let of_image = record.header.plan.run.image.take();
    record.header.plan.run = RunPlan { image: of_image, ..run_plan(plan) };
    let (decision, findings) = verdict(&record);
    assert_eq!((decision.as_str(), findings.len()), ("NO-GO", 3), "{findings:?}");
    assert!(findings.iter().all(|f| f.starts_with("IMG-010")), "{findings:?}");
}
