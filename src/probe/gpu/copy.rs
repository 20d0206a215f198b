//! `copy`: between host and GPU from pinned memory on the GPU's own NUMA node, each way and both at once, each GPU alone and all
//! together; and between every two GPUs of the node.

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Better, Check, Facts, Measured, Metric, PeerCopy};
use crate::plan::CheckPlan;
use crate::probe::gpu::{GpuArgs, Session, count, gpu_step, run_all};
use crate::probe::{Probe, ProbeError};
use crate::sys::cuda::{Cuda, Gpu, Memory, Pinned};
use crate::topology::Machine;
use crate::unit::Unit;

pub struct Copy;

const BANDWIDTH: Metric = Metric {
    name: "bandwidth",
    unit: Unit::BytePerSecond,
    better: Better::Higher,
    about: "bytes copied per second; of both ways together where both go",
};

/// Bytes of a copy.
const SIZE: usize = 256 << 20;
const BLOCK_S: f64 = 0.05;

const TESTS: [&str; 6] = ["h2d alone", "d2h alone", "h2d", "d2h", "both ways", "peer"];

impl Probe for Copy {
    fn name(&self) -> ProbeName {
        ProbeName::new("copy")
    }

    fn about(&self) -> &'static str {
        "copies between host and GPU, each alone and all at once, and between GPUs; every word compared"
    }

    fn needs(&self) -> &'static str {
        "an NVIDIA GPU and its driver"
    }

    fn metrics(&self) -> &'static [Metric] {
        &[BANDWIDTH]
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let gpus = count(machine) as u64;
        let tests: Vec<String> = TESTS.iter().filter(|t| **t != "peer" || gpus > 1).map(|t| (*t).to_owned()).collect();
        // Alone means one after the other.
        let turns = 3 + 2 * gpus + if gpus > 1 { gpus } else { 0 };
        let ms = 1200 + plan.tier.pick(150, 600, 3000) * turns;
        gpu_step(self, plan, machine, "copy", &tests, ms).into_iter().collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        let args: GpuArgs = child.args()?;
        let tests = args.tests.clone();
        let gpus = child.ranks as usize;
        let turns = 3 + 3 * gpus;
        let mut host: Option<[Pinned; 2]> = None;
        run_all(
            child,
            &args,
            |test| test == "peer" || test.ends_with(" alone"),
            |session, place, child| {
                let budget = child.share(turns).as_secs_f64();
                let test = tests[place].as_str();
                if test == "peer" {
                    return peer(session, budget, child);
                }
                if host.is_none() {
                    host = Some([session.gpu.pinned(SIZE)?, session.gpu.pinned(SIZE)?]);
                }
                let host = host.as_mut().ok_or_else(|| ProbeError::Broken("no pinned memory".to_owned()))?;
                let seed = child.step.seed;
                with_host(session, host, test.trim_end_matches(" alone"), budget, seed)
            },
        )
    }
}

fn with_host(
    session: &Session,
    host: &mut [Pinned; 2],
    test: &str,
    budget: f64,
    seed: u64,
) -> Result<Measured, ProbeError> {
    let [out, back] = host;
    let (there, here) = (session.gpu.alloc(SIZE)?, session.gpu.alloc(SIZE)?);
    // The GPU makes the pattern for the host: what goes up came down once.
    session.pattern(&here, seed, 0)?;
    session.stream.download(out, &here)?;
    session.stream.synchronize()?;
    back.fill(0);
    let second = session.gpu.stream()?;
    let (ready, done) = (session.gpu.event()?, session.gpu.event()?);
    let work = || {
        match test {
            "h2d" => session.stream.upload(&there, out)?,
            "d2h" => session.stream.download(back, &here)?,
            _ => {
                // The second stream goes along with the first, and the first waits for it: a block holds both.
                session.stream.record(&ready)?;
                second.wait_for(&ready)?;
                session.stream.upload(&there, out)?;
                second.download(back, &here)?;
                second.record(&done)?;
                session.stream.wait_for(&done)?;
            }
        }
        Ok(())
    };
    let (seconds, block) = session.blocks(BLOCK_S, budget * 0.6, work)?;
    let mut wrong = 0;
    if test != "d2h" {
        wrong += session.wrong(&there, seed, 0)?;
    }
    if test != "h2d" {
        wrong += out.chunks_exact(4).zip(back.chunks_exact(4)).filter(|(a, b)| a != b).count() as u64;
    }
    let ways = if test == "both ways" { 2.0 } else { 1.0 };
    let mut series = BANDWIDTH.series(seconds.iter().map(|s| ways * SIZE as f64 / s).collect(), block);
    if let Some(spec) = &session.spec {
        let rate = pcie(spec.pcie) * ways;
        series = series.nominally(rate, format!("PCIe generation {} x{}: {}", spec.pcie.0, spec.pcie.1, spec.source));
    }
    let checks = vec![Check::new("payload", wrong == 0, format!("{wrong} of {} words differ", SIZE / 4))];
    Ok(Measured { series: vec![series], checks, ..Measured::default() })
}

/// Bytes per second of a link each way, before packet headers.
fn pcie((generation, lanes): (u32, u32)) -> f64 {
    let gigatransfers = match generation {
        1 => 2.5,
        2 => 5.0,
        n => 8.0 * f64::from(1u32 << (n.clamp(3, 8) - 3)),
    };
    crate::topology::PcieLink { gigatransfers, lanes }.rate()
}

/// From this GPU to each other: a series for each, and whether they reach each other directly.
fn peer(session: &Session, budget: f64, child: &Child) -> Result<Measured, ProbeError> {
    let cuda = Cuda::load()?;
    let seed = child.step.seed;
    let from = session.gpu.alloc(SIZE)?;
    session.pattern(&from, seed, 0)?;
    session.stream.synchronize()?;
    let (mut series, mut checks, mut row) = (Vec::new(), Vec::new(), Vec::new());
    for other in (0..child.ranks as usize).filter(|g| *g != child.rank as usize) {
        let gpu = Gpu::open(&cuda, other)?;
        let to = gpu.alloc(SIZE)?;
        let (access, atomics) = session.gpu.peer(&gpu)?;
        if access {
            session.gpu.enable_peer(&gpu)?;
        }
        session.gpu.make_current()?;
        let work = || Ok(session.stream.copy_peer((&to, &gpu), (&from, &session.gpu))?);
        let (seconds, block) = session.blocks(BLOCK_S / 4.0, budget / child.ranks as f64, work)?;
        // Back here to be compared.
        let returned: Memory = session.gpu.alloc(SIZE)?;
        session.stream.copy_peer((&returned, &session.gpu), (&to, &gpu))?;
        let wrong = session.wrong(&returned, seed, 0)?;
        checks.push(Check::new("payload", wrong == 0, format!("to gpu{other}: {wrong} of {} words differ", SIZE / 4)));
        series.push(BANDWIDTH.series(seconds.iter().map(|s| SIZE as f64 / s).collect(), block));
        let rate = series.last().map_or(0.0, |s| crate::measure::stats::median(&s.samples));
        row.push(PeerCopy { to: other as u32, rate, direct: access, atomics });
    }
    // The slowest stands for the row: a GPU is only as good as its worst link. The row has all.
    series.sort_by(|a, b| {
        crate::measure::stats::median(&a.samples).total_cmp(&crate::measure::stats::median(&b.samples))
    });
    series.truncate(1);
    Ok(Measured { series, checks, facts: Some(Facts::Peers(row)), ..Measured::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_what_its_generation_does() {
        assert_eq!((pcie((3, 16)) / 1e8).round(), 158.0);
        assert_eq!((pcie((5, 16)) / 1e8).round(), 630.0);
        assert_eq!((pcie((1, 16)) / 1e8).round(), 40.0);
    }
}
