//! `memory`: bandwidth of the host's memory. Each thread is pinned and touches its own part first, so that the part
//! lies on the thread's NUMA node; the arrays together are four times all last-level caches.
//!
//! Bytes are counted as STREAM counts them: copy moves 2 and triad 3 words an element. What a store reads first
//! (write-allocate) is not counted, so write, copy and triad are below what the DRAM moves.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Check, Measured, Outcome, PaceMeter, Sampler, Stopwatch};
use crate::plan::CheckPlan;
use crate::probe::affinity::pin;
use crate::probe::{Priority, Probe, ProbeError, gpu, step};
use crate::sys::pages::huge_vec;
use crate::topology::Machine;
use crate::unit::Bytes;
use crate::work::{Case, CheckName, Declared, HostTest, Kernel, Metric};

pub struct Memory;

/// Bytes an element of 8.
fn bytes(kernel: Kernel) -> f64 {
    match kernel {
        Kernel::Read | Kernel::Write => 8.0,
        Kernel::Copy => 16.0,
        Kernel::Triad => 24.0,
    }
}

#[derive(Serialize, Deserialize)]
struct Args {
    cores: usize,
    /// Hardware threads to pin to, the first of each core first.
    cpus: Vec<u32>,
    /// f64 elements in each of the three arrays, all threads together.
    elements: usize,
    ceiling_per_core: f64,
    guest_hz: Option<f64>,
    notes: Vec<String>,
}

impl Probe for Memory {
    fn name(&self) -> ProbeName {
        ProbeName::new("memory")
    }

    fn about(&self) -> &'static str {
        "host memory bandwidth: read, write, copy, triad; one core and all, NUMA-local, beyond the caches"
    }

    fn needs(&self) -> &'static str {
        "memory for three arrays of four times the last-level caches"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] =
            &[Metric::Bandwidth.of("bytes read and written per second, as STREAM counts them")];
        METRICS
    }

    fn priority(&self, on_gpus: bool) -> Priority {
        if on_gpus { Priority::new(1, 3) } else { Priority::new(4, 10).beside_gpus([2, 3, 1]) }
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let cores = machine.usable_cores();
        let cache = machine.cpu.last_level_cache.unwrap_or(Bytes(64 * Bytes::MIB)).0;
        let wanted = cache.saturating_mul(4).clamp(64 * Bytes::MIB, 16 * Bytes::GIB);
        // A quarter of what is free, for the three arrays together.
        let free = [machine.memory.available, machine.cgroup.memory]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Bytes(Bytes::GIB))
            .0;
        let bytes = wanted.min(free / 12);
        let notes = if bytes < wanted {
            vec![format!(
                "arrays of {} instead of {}: memory is short, and caches may help",
                Bytes(bytes),
                Bytes(wanted)
            )]
        } else {
            vec![format!("three arrays of {}", Bytes(bytes))]
        };
        let args = Args {
            cores,
            cpus: machine.cpu.allowed.clone(),
            elements: (bytes / 8) as usize,
            ceiling_per_core: machine.copy_ceiling(1),
            guest_hz: machine.guest_hz(),
            notes,
        };
        let cases = core_counts(cores).into_iter().flat_map(|c| Kernel::ALL.iter().map(move |k| case(*k, c))).collect();
        let host = step(self, plan, cases, args, plan.tier.pick(3200, 16_000, 60_000));
        std::iter::once(host).chain(gpu::memory_step(self, plan, machine)).collect()
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if gpu::is_memory(child) {
            return gpu::run_memory(child, &Metric::Bandwidth);
        }
        let args: Args = child.args()?;
        for cores in core_counts(args.cores) {
            measure(child, &args, cores)?;
        }
        Ok(())
    }
}

fn core_counts(all: usize) -> Vec<usize> {
    if all > 1 { vec![1, all] } else { vec![1] }
}

fn case(kernel: Kernel, cores: usize) -> Case {
    Case::Host { test: HostTest::Memory(kernel), cores: cores as u32 }
}

/// What the arrays hold; small whole numbers, so that every sum is exact.
const A: f64 = 1.0;
const B: f64 = 2.0;
const SCALE: f64 = 3.0;

struct Arrays {
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
}

fn measure(child: &mut Child, args: &Args, cores: usize) -> Result<(), ProbeError> {
    let kernels: Vec<Kernel> = Kernel::ALL.iter().copied().filter(|k| child.wants(&case(*k, cores))).collect();
    // Threads agree on each step by two barriers; the first of them keeps the time and decides when it is enough.
    let gate = Barrier::new(cores);
    let more = std::sync::atomic::AtomicBool::new(true);
    let budget = child.share(child.step.cases.len());
    let sampler = Sampler { max_blocks: 32, ..Sampler::new(budget * 2 / 3) };
    let elements = (args.elements / cores).max(1024);
    let pace = PaceMeter::open(args.guest_hz, cores);
    let results = thread::scope(|scope| {
        let work = |index: usize| {
            let (gate, more, kernels) = (&gate, &more, &kernels);
            let cpu = args.cpus.get(index * args.cpus.len() / cores).copied();
            move || {
                pin(cpu);
                let mut arrays =
                    Arrays { a: huge_vec(elements, A), b: huge_vec(elements, B), c: huge_vec(elements, 0.0) };
                arrays.c.fill(A);
                let mut out = Vec::new();
                for kernel in kernels {
                    let started = Instant::now();
                    let (mut seconds, mut on) = (Vec::new(), Vec::new());
                    let mut check = kernel_run(*kernel, &mut arrays);
                    if index == 0 {
                        more.store(true, std::sync::atomic::Ordering::Relaxed);
                    }
                    loop {
                        gate.wait();
                        if !more.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                        let start = Stopwatch::start();
                        check = kernel_run(*kernel, &mut arrays);
                        gate.wait();
                        if index == 0 {
                            let (wall, cores) = start.read();
                            seconds.push(wall);
                            on.push(cores);
                            more.store(!sampler.enough(&seconds, started), std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                    gate.wait();
                    out.push((seconds, on, verify(*kernel, &arrays, check)));
                }
                out
            }
        };
        let handles: Vec<_> = (1..cores).map(|i| scope.spawn(work(i))).collect();
        let first = scope.spawn(work(0)).join();
        let rest: Vec<_> = handles.into_iter().map(|h| h.join()).collect();
        std::iter::once(first).chain(rest).collect::<Result<Vec<_>, _>>()
    });
    let pace = pace.read();
    let results = results.map_err(|_| ProbeError::Broken("a memory thread panicked".to_owned()))?;
    for (i, kernel) in kernels.iter().enumerate() {
        let bytes = bytes(*kernel) * (elements * cores) as f64;
        let rates: Vec<f64> = results[0][i].0.iter().map(|s| bytes / s).collect();
        let wrong = results.iter().filter(|r| !r[i].2).count();
        let series = Metric::Bandwidth.series(rates, 1).on_cores(&results[0][i].1, cores).bounded(
            args.ceiling_per_core * cores as f64 * 2.0,
            "a cache line read and one written per cycle and core",
        );
        let checks = vec![Check::new(
            CheckName::Pattern,
            wrong == 0,
            format!("{wrong} of {cores} threads found a wrong element or sum"),
        )];
        let measured = Measured {
            series: vec![series],
            checks,
            pace: pace.map(Box::new),
            notes: args.notes.clone(),
            ..Measured::default()
        };
        child.outcome(&case(*kernel, cores), Outcome::Measured(measured))?;
    }
    Ok(())
}

/// One pass. Returns the sum for a read, 0 otherwise.
fn kernel_run(kernel: Kernel, arrays: &mut Arrays) -> f64 {
    // The dispatch compiles the loop for the widest vectors of this machine.
    pulp::Arch::new().dispatch(|| {
        let Arrays { a, b, c } = arrays;
        match kernel {
            Kernel::Read => sum(black_box(a)),
            Kernel::Write => {
                black_box(&mut *c).fill(A);
                0.0
            }
            Kernel::Copy => {
                black_box(&mut *c).copy_from_slice(black_box(b));
                0.0
            }
            Kernel::Triad => {
                for ((c, a), b) in black_box(&mut *c).iter_mut().zip(black_box(&*a)).zip(black_box(&*b)) {
                    *c = *a + SCALE * *b;
                }
                0.0
            }
        }
    })
}

/// Eight times eight partial sums: enough independent chains to wait for memory and not for an adder.
#[inline(always)]
fn sum(data: &[f64]) -> f64 {
    let mut parts = [0.0f64; 64];
    let (chunks, rest) = data.as_chunks::<64>();
    for chunk in chunks {
        for (p, x) in parts.iter_mut().zip(chunk) {
            *p += x;
        }
    }
    parts.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

fn verify(kernel: Kernel, arrays: &Arrays, returned: f64) -> bool {
    let want = match kernel {
        Kernel::Read => return returned == A * arrays.a.len() as f64,
        Kernel::Write => A,
        Kernel::Copy => B,
        Kernel::Triad => A + SCALE * B,
    };
    arrays.c.iter().all(|c| *c == want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_right_and_a_wrong_element_is_seen() {
        let mut arrays = Arrays { a: vec![A; 1000], b: vec![B; 1000], c: vec![0.0; 1000] };
        for kernel in Kernel::ALL.iter().copied() {
            let sum = kernel_run(kernel, &mut arrays);
            assert!(verify(kernel, &arrays, sum), "{kernel:?}");
        }
        arrays.c[999] = 0.5;
        assert!(!verify(Kernel::Triad, &arrays, 0.0));
        assert!(!verify(Kernel::Read, &arrays, 999.0));
    }
}
