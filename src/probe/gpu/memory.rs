//! `memory` on GPUs: read, write, copy and triad by kernels, and the driver's own copy, counted as STREAM counts them (copy moves
//! twice its size); in the soak tier a pattern over nearly all of the memory.

use crate::cluster::{Child, Step};
use crate::measure::{Check, Measured};
use crate::plan::{CheckPlan, Tier};
use crate::probe::gpu::{GpuArgs, LEAST_BLOCKS, Session, gpu_step, run_all};
use crate::probe::{Probe, ProbeError};
use crate::sys::cuda::{Arg, Memory};
use crate::topology::Machine;
use crate::work::{Case, CheckName, GpuKernel, GpuKernel::Device, Kernel, Metric};

/// Bytes of an array: many times any last-level cache of a GPU.
const ARRAY: usize = 1 << 30;
const BLOCK_S: f64 = 0.02;
/// Of what is free, this much is filled by the pattern test.
const PATTERN_SHARE: f64 = 0.95;

fn tests(tier: Tier) -> Vec<Case> {
    let all = GpuKernel::ALL.iter().filter(|k| **k != GpuKernel::Pattern || tier == Tier::Soak);
    all.map(|kernel| Case::GpuMemory { kernel: *kernel, gpu: 0 }).collect()
}

pub(in crate::probe) fn step(probe: &dyn Probe, plan: &CheckPlan, machine: &Machine) -> Option<Step> {
    let tests = tests(plan.tier);
    let ms = plan.tier.pick(250, 1000, 8000) * tests.len() as u64;
    gpu_step(probe, plan, machine, "memory", &tests, ms)
}

pub(in crate::probe) fn is_memory(child: &Child) -> bool {
    child.args::<GpuArgs>().is_ok_and(|a| a.gpu == "memory")
}

pub(in crate::probe) fn run(child: &mut Child, bandwidth: &Metric) -> Result<(), ProbeError> {
    let args: GpuArgs = child.args()?;
    let tests = &args.tests;
    let wanted = tests.iter().filter(|t| args.wants(child, t)).count();
    run_all(
        child,
        &args,
        &args.tests,
        |_| false,
        |session, place, child| {
            let budget = child.share(wanted).as_secs_f64();
            match tests[place] {
                Case::GpuMemory { kernel: GpuKernel::Pattern, .. } => pattern(session, child.step.seed, bandwidth),
                Case::GpuMemory { kernel, .. } => measure(session, kernel, budget, child.step.seed, bandwidth),
                _ => Err(ProbeError::Broken(format!("`{}` is no test of memory", tests[place]))),
            }
        },
    )
}

fn measure(
    session: &Session,
    kernel: GpuKernel,
    budget: f64,
    seed: u64,
    bandwidth: &Metric,
) -> Result<Measured, ProbeError> {
    let (free, _) = session.gpu.memory_info()?;
    let bytes = ARRAY.min(free / 4) / 4096 * 4096;
    let arrays = [session.gpu.alloc(bytes)?, session.gpu.alloc(bytes)?, session.gpu.alloc(bytes)?];
    let [a, b, c] = &arrays;
    let n = bytes as u64 / 16;
    let launch = |name: &std::ffi::CStr, args: &[Arg<'_>]| session.kernels.launch(&session.stream, name, None, args);
    let (x, y, s) = (1.5f32, 2.25f32, 2.0f32);
    let constant = |memory: &Memory, v: f32| launch(c"stream_write", &[Arg::Memory(memory), Arg::F32(v), Arg::U64(n)]);
    match kernel {
        Device(Kernel::Triad) => {
            constant(a, x)?;
            constant(b, y)?;
        }
        _ => session.pattern(a, seed, 0)?,
    }
    session.stream.fill(c, 0)?;
    let work = || {
        match kernel {
            Device(Kernel::Read) => {
                launch(c"stream_read", &[Arg::Memory(a), Arg::Memory(&session.counted), Arg::U64(n)])?
            }
            Device(Kernel::Write) => constant(c, x)?,
            Device(Kernel::Copy) => launch(c"stream_copy", &[Arg::Memory(a), Arg::Memory(c), Arg::U64(n)])?,
            Device(Kernel::Triad) => {
                let args = [Arg::Memory(a), Arg::Memory(b), Arg::Memory(c), Arg::F32(s), Arg::U64(n)];
                launch(c"stream_triad", &args)?
            }
            _ => session.stream.copy(c, a)?,
        }
        Ok(())
    };
    let (seconds, block) = session.blocks(LEAST_BLOCKS, BLOCK_S, budget * 0.7, work)?;
    let wrong = match kernel {
        Device(Kernel::Read) => session.wrong(a, seed, 0)?,
        Device(Kernel::Write) => constants(session, c, x)?,
        Device(Kernel::Triad) => constants(session, c, x + s * y)?,
        _ => session.wrong(c, seed, 0)?,
    };
    let moved = bytes as f64
        * match kernel {
            Device(Kernel::Read | Kernel::Write) => 1.0,
            Device(Kernel::Triad) => 3.0,
            _ => 2.0,
        };
    let mut series = bandwidth.series(seconds.iter().map(|s| moved / s).collect(), block);
    if let Some(spec) = &session.spec {
        let why = format!("memory of {}: {}", spec.name, spec.source);
        series = series.nominally(spec.memory, why.clone()).bounded(1.1 * spec.memory, why);
    }
    let detail = format!("{wrong} of {} words differ", bytes / 4);
    let checks = vec![Check::new(CheckName::Pattern, wrong == 0, detail)];
    let notes = vec![format!("{} an array", crate::unit::Bytes(bytes as u64))];
    Ok(Measured { series: vec![series], checks: checks.into(), notes: notes.into(), ..Measured::default() })
}

/// Words at the beginning and the end of what was written that are not `v`.
fn constants(session: &Session, memory: &Memory, v: f32) -> Result<u64, ProbeError> {
    let mut bytes = vec![0u8; memory.len().min(8 << 20)];
    let mut wrong = 0;
    for offset in [0, memory.len() - bytes.len()] {
        session.stream.read(memory, offset, &mut bytes)?;
        wrong += bytes.chunks_exact(4).filter(|w| **w != v.to_ne_bytes()).count() as u64;
    }
    Ok(wrong)
}

/// Every word of nearly all memory, as it is and inverted.
fn pattern(session: &Session, seed: u64, bandwidth: &Metric) -> Result<Measured, ProbeError> {
    let (free, total) = session.gpu.memory_info()?;
    let mut pieces: Vec<Memory> = Vec::new();
    let mut held = 0;
    while held + ARRAY <= (free as f64 * PATTERN_SHARE) as usize {
        match session.gpu.alloc(ARRAY) {
            Ok(piece) => pieces.push(piece),
            // Memory in pieces is less than its sum.
            Err(e) if e.is_out_of_memory() => break,
            Err(e) => return Err(e.into()),
        }
        held += ARRAY;
    }
    let (begin, end) = (session.gpu.event()?, session.gpu.event()?);
    session.stream.record(&begin)?;
    let mut wrong = 0;
    for flip in [0, u32::MAX] {
        for (i, piece) in pieces.iter().enumerate() {
            session.pattern(piece, seed ^ i as u64, flip)?;
        }
        for (i, piece) in pieces.iter().enumerate() {
            wrong += session.wrong(piece, seed ^ i as u64, flip)?;
        }
    }
    session.stream.record(&end)?;
    end.synchronize()?;
    let rate = 4.0 * held as f64 / end.seconds_since(&begin)?.max(1e-9);
    let detail = format!("{wrong} of {} words differ, each tried with its bits and their opposites", held / 4);
    let checks = vec![Check::new(CheckName::Pattern, wrong == 0 && held > 0, detail)];
    let share = format!("{:.0} % of the memory", 100.0 * held as f64 / total.max(1) as f64);
    Ok(Measured {
        series: vec![bandwidth.series(vec![rate], 1)],
        checks: checks.into(),
        notes: [share].into(),
        ..Measured::default()
    })
}
