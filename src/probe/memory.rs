//! `memory`: bandwidth of the host's memory. Each thread is pinned and touches its own part first, so that the part
//! lies on the thread's NUMA node; the arrays together are four times all last-level caches.
//!
//! A sample is one slice of the arrays, and the next sample the slice that follows: what was touched comes again after all the rest, so
//! that no cache still has it, and a core of a processor with half a gigabyte of cache need not go through two for each sample.
//!
//! Bytes are counted as STREAM counts them: copy moves 2 and triad 3 words an element. What a store reads first
//! (write-allocate) is not counted, so write, copy and triad are below what the DRAM moves.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Threads, from the first on, whose memory is on the first one's NUMA node.
    near: usize,
    /// f64 elements in each of the arrays, all threads together.
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
        "memory for four times the last-level caches"
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
        // At most a quarter of what is free.
        let free = [machine.memory.available, machine.cgroup.memory]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Bytes(Bytes::GIB))
            .0;
        let bytes = wanted.min(free / 4);
        let notes = if bytes < wanted {
            vec![format!(
                "arrays of {} in all instead of {}: memory is short, and caches may help",
                Bytes(bytes),
                Bytes(wanted)
            )]
        } else {
            vec![format!("three arrays of {} in all", Bytes(bytes))]
        };
        let cpus = machine.cpu.allowed.clone();
        let node = |thread: usize| {
            let cpu = cpu_of(&cpus, thread, cores)?;
            machine.cpu.numa.iter().position(|n| n.cpus.contains(&cpu))
        };
        let near = (0..cores).take_while(|thread| node(*thread) == node(0)).count().max(1);
        let args = Args {
            cores,
            cpus,
            near,
            elements: bytes as usize / 8 / ARRAYS,
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
        let mut arrays = touched(&args)?;
        for cores in core_counts(args.cores) {
            measure(child, &args, cores, &mut arrays)?;
        }
        Ok(())
    }
}

/// The hardware thread that a thread of so many is pinned to.
fn cpu_of(cpus: &[u32], thread: usize, threads: usize) -> Option<u32> {
    cpus.get(thread * cpus.len() / threads.max(1)).copied()
}

/// Each core's part of the arrays, on its own NUMA node: whoever touches memory first decides where it is.
fn touched(args: &Args) -> Result<Vec<Arrays>, ProbeError> {
    let elements = (args.elements / args.cores.max(1)).max(1024);
    thread::scope(|scope| {
        let touch = |thread: usize| {
            let cpu = cpu_of(&args.cpus, thread, args.cores);
            scope.spawn(move || {
                pin(cpu);
                Arrays::new(elements)
            })
        };
        let threads: Vec<_> = (0..args.cores.max(1)).map(touch).collect();
        let panicked = |_| ProbeError::Broken("a memory thread panicked".to_owned());
        threads.into_iter().map(|t| t.join().map_err(panicked)).collect()
    })
}

fn core_counts(all: usize) -> Vec<usize> {
    if all > 1 { vec![1, all] } else { vec![1] }
}

fn case(kernel: Kernel, cores: usize) -> Case {
    Case::Host { test: HostTest::Memory(kernel), cores: cores as u32 }
}

/// `a`, `b` and `c`.
const ARRAYS: usize = 3;
const C: usize = 2;
/// What they hold at first; small whole numbers, so that every sum is exact.
const VALUES: [f64; ARRAYS] = [1.0, 2.0, 1.0];
const SCALE: f64 = 3.0;
/// Slices of an array: as many as have so many elements (32 MiB), up to 64.
const SLICE: usize = 4 << 20;

/// A thread's arrays, cut into slices, and what each slice should hold.
struct Arrays {
    data: [Vec<f64>; ARRAYS],
    slice: usize,
    holds: [Vec<f64>; ARRAYS],
    /// Slices of which the last kernel wrote.
    written: BTreeSet<(usize, usize)>,
    /// Slices done so far.
    done: usize,
    /// Sums that were not what the slice holds.
    wrong_sums: usize,
}

/// What one thread goes through: its own part, or where it is alone all that is as near.
struct Share<'a> {
    parts: &'a mut [Arrays],
    /// Slices of a sample, and done so far.
    each: usize,
    done: usize,
}

impl<'a> Share<'a> {
    fn new(parts: &'a mut [Arrays]) -> Self {
        let each = if parts.len() > 1 { SLICE.div_ceil(parts[0].slice) } else { 1 };
        Share { parts, each, done: 0 }
    }

    /// Elements of an array in a sample.
    fn elements(&self) -> usize {
        self.each * self.parts[0].slice
    }

    fn sample(&mut self, kernel: Kernel) {
        for _ in 0..self.each {
            let part = self.done % self.parts.len();
            self.parts[part].next(kernel);
            self.done += 1;
        }
    }

    fn verify(&mut self) -> bool {
        self.parts.iter_mut().map(Arrays::verify).filter(|right| !right).count() == 0
    }
}

/// Threads that measure together: they agree on each sample by two barriers; one of them keeps the time and decides when it is enough.
struct Team {
    kernel: Kernel,
    sampler: Sampler,
    gate: Barrier,
    more: AtomicBool,
}

/// What a thread has of a kernel: seconds of each sample, cores that it had in it, and whether every answer was right.
type Kept = (Vec<f64>, Vec<f64>, bool);

impl Team {
    fn work(&self, keeps_time: bool, mut share: Share<'_>) -> Kept {
        let started = Instant::now();
        let (mut seconds, mut on) = (Vec::new(), Vec::new());
        share.sample(self.kernel);
        loop {
            self.gate.wait();
            if !self.more.load(Ordering::Relaxed) {
                break;
            }
            let start = Stopwatch::start();
            share.sample(self.kernel);
            self.gate.wait();
            if keeps_time {
                let (wall, cores) = start.read();
                seconds.push(wall);
                on.push(cores);
                self.more.store(!self.sampler.enough(&seconds, started), Ordering::Relaxed);
            }
        }
        (seconds, on, share.verify())
    }
}

/// Tells of each kernel before the next begins: what ends the step takes nothing of those before.
fn measure(child: &mut Child, args: &Args, cores: usize, arrays: &mut [Arrays]) -> Result<(), ProbeError> {
    let budget = child.share(child.step.cases.len());
    let near = if cores == 1 { args.near.min(arrays.len()) } else { 1 };
    for kernel in Kernel::ALL.iter().copied() {
        if !child.wants(&case(kernel, cores)) {
            continue;
        }
        let sampler = Sampler { max_blocks: 32, ..Sampler::new(budget * 2 / 3) };
        let team = Team { kernel, sampler, gate: Barrier::new(cores), more: AtomicBool::new(true) };
        let shares: Vec<Share<'_>> = arrays.chunks_mut(near).take(cores).map(Share::new).collect();
        let bytes = bytes(kernel) * shares.iter().map(Share::elements).sum::<usize>() as f64;
        let pace = PaceMeter::open(args.guest_hz, cores);
        let results = thread::scope(|scope| {
            let work = |(index, share): (usize, _)| {
                let (team, cpu) = (&team, cpu_of(&args.cpus, index, cores));
                scope.spawn(move || {
                    pin(cpu);
                    team.work(index == 0, share)
                })
            };
            let threads: Vec<_> = shares.into_iter().enumerate().map(work).collect();
            threads.into_iter().map(|t| t.join()).collect::<Result<Vec<_>, _>>()
        });
        let pace = pace.read();
        let results = results.map_err(|_| ProbeError::Broken("a memory thread panicked".to_owned()))?;
        let (seconds, on, _) = &results[0];
        let wrong = results.iter().filter(|r| !r.2).count();
        let series =
            Metric::Bandwidth.series(seconds.iter().map(|s| bytes / s).collect(), 1).on_cores(on, cores).bounded(
                args.ceiling_per_core * cores as f64 * 2.0,
                "a cache line read and one written per cycle and core",
            );
        let says = format!("{wrong} of {cores} threads found a wrong element or sum");
        let measured = Measured {
            series: vec![series],
            checks: [Check::new(CheckName::Pattern, wrong == 0, says)].into(),
            pace: pace.map(Box::new),
            notes: args.notes.clone().into(),
            ..Measured::default()
        };
        child.outcome(&case(kernel, cores), Outcome::Measured(measured))?;
    }
    Ok(())
}

/// Elements of a slice of an array of so many. What remains of the array is not used.
fn slice(elements: usize) -> usize {
    elements / (elements / SLICE).clamp(1, 64)
}

impl Arrays {
    fn new(elements: usize) -> Self {
        let slice = slice(elements);
        let holds = VALUES.map(|v| vec![v; elements / slice]);
        let data = VALUES.map(|v| huge_vec(elements, v));
        Arrays { data, slice, holds, written: BTreeSet::new(), done: 0, wrong_sums: 0 }
    }

    /// Runs a kernel on the next slice: what reads or writes one array goes through all three.
    fn next(&mut self, kernel: Kernel) {
        let slices = self.holds[0].len();
        let at = self.done % slices;
        let array = match kernel {
            Kernel::Read | Kernel::Write => self.done / slices % ARRAYS,
            Kernel::Copy | Kernel::Triad => C,
        };
        self.done += 1;
        // The dispatch compiles the loops for the widest vectors of this machine.
        let arch = pulp::Arch::new();
        let range = at * self.slice..(at + 1) * self.slice;
        let holds = match kernel {
            Kernel::Read => {
                let sum = arch.dispatch(|| sum(black_box(&self.data[array][range])));
                self.wrong_sums += usize::from(sum != self.holds[array][at] * self.slice as f64);
                return;
            }
            Kernel::Write => {
                let value = self.holds[array][at] + 1.0;
                arch.dispatch(|| black_box(&mut self.data[array][range]).fill(value));
                value
            }
            Kernel::Copy => {
                let [_, b, c] = self.data.each_mut().map(|d| &mut d[range.clone()]);
                arch.dispatch(|| black_box(c).copy_from_slice(black_box(b)));
                self.holds[1][at]
            }
            Kernel::Triad => {
                let [a, b, c] = self.data.each_mut().map(|d| &mut d[range.clone()]);
                arch.dispatch(|| {
                    for ((c, a), b) in black_box(c).iter_mut().zip(black_box(&*a)).zip(black_box(&*b)) {
                        *c = *a + SCALE * *b;
                    }
                });
                self.holds[0][at] + SCALE * self.holds[1][at]
            }
        };
        self.holds[array][at] = holds;
        self.written.insert((array, at));
    }

    /// Whether all sums were right since the last time, and all that was written is there.
    fn verify(&mut self) -> bool {
        let right = |(array, at): (usize, usize)| {
            let want = self.holds[array][at];
            self.data[array][at * self.slice..(at + 1) * self.slice].iter().all(|x| *x == want)
        };
        let written = std::mem::take(&mut self.written).into_iter().all(right);
        written && std::mem::take(&mut self.wrong_sums) == 0
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_right_and_a_wrong_element_is_seen() {
        for elements in [1000, SLICE * 3 + 5] {
            let mut arrays = Arrays::new(elements);
            let slices = arrays.holds[0].len();
            assert_eq!(slices, (elements / SLICE).max(1));
            for kernel in Kernel::ALL.iter().copied() {
                (0..slices * 4).for_each(|_| arrays.next(kernel));
                assert!(arrays.verify(), "{kernel:?} {elements}");
            }
            // The first slice of `b` was written once or twice, as all the others were before `c` got its own.
            let (a, b) = (arrays.data[0][0], arrays.data[1][0]);
            assert!(a > VALUES[0] && b > VALUES[1] && arrays.data[C][0] == a + SCALE * b, "{a} {b}");
            arrays.next(Kernel::Write);
            let (array, at) = arrays.written.first().copied().unwrap_or_default();
            arrays.data[array][at * arrays.slice + 999] = 0.5;
            assert!(!arrays.verify());
            // Told once; and a sum with it is wrong.
            assert!(arrays.verify());
            arrays.done -= 1;
            arrays.next(Kernel::Read);
            assert!(!arrays.verify());
        }
    }

    #[test]
    fn slices_are_no_smaller_than_they_must_be() {
        assert_eq!(
            (slice(1024), slice(SLICE), slice(SLICE * 2), slice(SLICE * 100)),
            (1024, SLICE, SLICE, SLICE * 100 / 64)
        );
    }
}
