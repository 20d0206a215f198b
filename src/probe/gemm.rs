//! `gemm`; here on the CPU (on GPUs: `gpu::gemm`): f32 and f64, one core and all of them, every answer checked.
//!
//! Inputs are random normal-like numbers in [-1, 1). The result of sampled rows is held against a product in higher
//! precision (f64 for f32, double-double for f64) within the bound `n u |A||B|` that holds for every order of summation
//! (Higham, Accuracy and Stability of Numerical Algorithms, 3.1); repeats must be identical to the bit.

use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Step};
use crate::id::ProbeName;
use crate::measure::{Check, Measured, Outcome, PaceMeter, Sampler};
use crate::plan::CheckPlan;
use crate::probe::{Priority, Probe, ProbeError, gpu, step};
use crate::sys::gemm::{Element, multiply};
use crate::sys::pages::huge_vec;
use crate::topology::Machine;
use crate::work::{Case, CheckName, Declared, Dtype, HostTest, Metric};

pub struct Gemm;

/// Rows that are recomputed in higher precision.
const CHECKED_ROWS: usize = 8;

#[derive(Serialize, Deserialize)]
struct Args {
    n: usize,
    threads: usize,
    /// f32 operations that one core does in a second at most, and nominally. f64 is half of both.
    ceiling: f64,
    nominal: f64,
    nominal_why: String,
    guest_hz: Option<f64>,
}

impl Probe for Gemm {
    fn name(&self) -> ProbeName {
        ProbeName::new("gemm")
    }

    fn about(&self) -> &'static str {
        "matrix products on CPU and GPUs, burst and sustained; residual, bit-identical repeats and GPUs"
    }

    fn needs(&self) -> &'static str {
        "a CPU"
    }

    fn metrics(&self) -> &'static [Declared] {
        const METRICS: &[Declared] =
            &[Metric::Flops.of("floating-point operations per second of C = A x B, 2 n^3 a product")];
        METRICS
    }

    fn priority(&self, on_gpus: bool) -> Priority {
        if on_gpus { Priority::new(1, 2) } else { Priority::new(4, 7).beside_gpus([2, 3, 1]) }
    }

    fn steps(&self, plan: &CheckPlan, machine: &Machine) -> Vec<Step> {
        let threads = machine.usable_cores();
        let cpu = &machine.cpu;
        // 2 operations an FMA x f32 lanes x FMA units: two 512-bit units are the most any x86 core has, four 128-bit
        // ones the most any Arm core. Nominal is the common width, two 256-bit units, at the clock that was seen.
        let (most, common) = match cpu.simd.as_deref() {
            Some("avx512f") => (64.0, 32.0),
            Some("avx2") => (32.0, 32.0),
            Some("asimd") => (32.0, 16.0),
            _ => (64.0, 0.0),
        };
        // Cores of several kinds are held to the mean of their clocks.
        let (sum, cores) = cpu.kinds.iter().fold((0.0, 0.0), |(sum, cores), k| {
            (sum + f64::from(k.cores) * k.max_hz.unwrap_or(0.0), cores + f64::from(k.cores))
        });
        let mean = (sum > 0.0).then(|| sum / cores);
        let clock = mean.or(cpu.max_hz).or(cpu.seen_hz).unwrap_or(0.0);
        let args = Args {
            // Beside GPUs the host is looked at for a shorter time: smaller products, or one core would make too few of them.
            n: plan.tier.pick(1024, if gpu::count(machine) > 0 { 2048 } else { 4096 }, 8192),
            threads,
            ceiling: most * machine.clock_ceiling_hz(),
            nominal: common * clock,
            guest_hz: machine.guest_hz(),
            nominal_why: format!("{common:.0} f32 operations a cycle and core at {:.2} GHz", clock / 1e9),
        };
        let estimate = plan.tier.pick(2600, 24_000, 120_000);
        let host = step(self, plan, cases(threads), args, estimate);
        std::iter::once(host).chain(gpu::gemm_step(self, plan, machine)).collect()
    }

    fn again_ms(&self, step: &Step, cases: &[Case]) -> Option<u64> {
        gpu::gemm_again_ms(step, cases)
    }

    fn run(&self, child: &mut Child) -> Result<(), ProbeError> {
        if gpu::is_gemm(child) {
            return gpu::run_gemm(child, &Metric::Flops);
        }
        let args: Args = child.args()?;
        for threads in thread_counts(args.threads) {
            if child.wants(&case::<f32>(threads)) {
                measure::<f32>(child, &args, threads)?;
            }
            if child.wants(&case::<f64>(threads)) {
                measure::<f64>(child, &args, threads)?;
            }
        }
        Ok(())
    }
}

fn thread_counts(all: usize) -> Vec<usize> {
    if all > 1 { vec![1, all] } else { vec![1] }
}

fn case<T: Element>(threads: usize) -> Case {
    let dtype = if size_of::<T>() == 4 { Dtype::F32 } else { Dtype::F64 };
    Case::Host { test: HostTest::Gemm(dtype), cores: threads as u32 }
}

fn cases(all: usize) -> Vec<Case> {
    thread_counts(all).into_iter().flat_map(|t| [case::<f32>(t), case::<f64>(t)]).collect()
}

fn measure<T: Element>(child: &mut Child, args: &Args, threads: usize) -> Result<(), ProbeError> {
    let n = args.n;
    let mut rng = fastrand::Rng::with_seed(child.seed());
    // The mean of two uniform numbers: full mantissas, zero mean, no tails that would hide a small error.
    let mut random = || {
        let mut m = huge_vec(n * n, T::ZERO);
        m.fill_with(|| T::from_f64(rng.f64() + rng.f64() - 1.0));
        m
    };
    let (a, b) = (random(), random());
    let mut c = huge_vec(n * n, T::ZERO);
    multiply(n, &a, &b, &mut c, threads);
    let first = c.clone();
    let sampler = Sampler { max_blocks: 32, ..Sampler::new(child.share(child.step.cases.len())) };
    let pace = PaceMeter::open(args.guest_hz, threads);
    let samples = sampler.run(|| {
        multiply(n, &a, &b, &mut c, threads);
        Ok::<(), ProbeError>(())
    })?;
    let pace = pace.read();
    let flops = 2.0 * (n as f64).powi(3);
    let share = if size_of::<T>() == 4 { 1.0 } else { 0.5 } * threads as f64;
    let mut series =
        Metric::Flops.series(samples.rates(flops), samples.block).on_cores(&samples.cores, threads).bounded(
            args.ceiling * share,
            format!("{threads} core(s) with the widest vector units built, at the highest clock possible"),
        );
    if args.nominal > 0.0 {
        series = series.nominally(args.nominal * share, args.nominal_why.clone());
    }
    let checks = vec![repeats(&first, &c), residual(n, &a, &b, &c, &mut rng)];
    let notes = vec![format!("n = {n}, residual of {CHECKED_ROWS} rows")];
    Ok(child.outcome(
        &case::<T>(threads),
        Outcome::Measured(Measured {
            series: vec![series],
            checks: checks.into(),
            notes: notes.into(),
            pace: pace.map(Box::new),
            ..Measured::default()
        }),
    )?)
}

fn repeats<T: Element>(first: &[T], last: &[T]) -> Check {
    let differing = first.iter().zip(last).filter(|(x, y)| x.bits() != y.bits()).count();
    Check::new(
        CheckName::Repeat,
        differing == 0,
        format!("{differing} of {} elements differ between the first and the last product", first.len()),
    )
}

/// The largest error of sampled rows in units of its bound `n u |a||b|`.
fn residual<T: Element>(n: usize, a: &[T], b: &[T], c: &[T], rng: &mut fastrand::Rng) -> Check {
    let mut rows: Vec<(usize, Exact)> = (0..CHECKED_ROWS.min(n)).map(|_| (rng.usize(..n), Exact::zero(n))).collect();
    // By rows of `b`: going down its columns would miss the caches with each element.
    for (k, of_b) in b.chunks_exact(n).enumerate() {
        for (row, exact) in &mut rows {
            exact.add(a[*row * n + k], of_b);
        }
    }
    let mut worst = (0.0f64, 0, 0);
    for (row, exact) in &rows {
        for column in 0..n {
            let bound = n as f64 * T::ROUNDOFF * exact.magnitude[column];
            let error = (c[row * n + column].to_f64() - (exact.sum[column] + exact.low[column])).abs();
            let ratio = if error.is_finite() { error / bound.max(f64::MIN_POSITIVE) } else { f64::INFINITY };
            if ratio > worst.0 {
                worst = (ratio, *row, column);
            }
        }
    }
    let (ratio, row, column) = worst;
    Check::new(
        CheckName::Residual,
        ratio <= 1.0,
        format!("largest error is {ratio:.2e} of its bound, at row {row}, column {column}"),
    )
}

/// A row of a product in double-double arithmetic (Ogita, Rump, Oishi: Dot2), and its sums of magnitudes.
struct Exact {
    sum: Vec<f64>,
    low: Vec<f64>,
    magnitude: Vec<f64>,
}

impl Exact {
    fn zero(n: usize) -> Self {
        Exact { sum: vec![0.0; n], low: vec![0.0; n], magnitude: vec![0.0; n] }
    }

    /// Adds `x` times a row.
    fn add<T: Element>(&mut self, x: T, row: &[T]) {
        let x = x.to_f64();
        let sums = self.sum.iter_mut().zip(&mut self.low).zip(&mut self.magnitude);
        // With the widest vectors that the processor has: the product's low part is a fused multiply-add.
        pulp::Arch::new().dispatch(|| {
            for (((sum, low), magnitude), y) in sums.zip(row) {
                let y = y.to_f64();
                let product = x * y;
                let product_low = x.mul_add(y, -product);
                let next = *sum + product;
                let part = next - *sum;
                *low += (*sum - (next - part)) + (product - part) + product_low;
                *sum = next;
                *magnitude += product.abs();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product<T: Element>(n: usize) -> (Vec<T>, Vec<T>, Vec<T>, fastrand::Rng) {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut random = || (0..n * n).map(|_| T::from_f64(rng.f64() * 2.0 - 1.0)).collect::<Vec<T>>();
        let (a, b) = (random(), random());
        let mut c = vec![T::ZERO; n * n];
        multiply(n, &a, &b, &mut c, 1);
        (a, b, c, rng)
    }

    #[test]
    fn right_products_pass_and_a_wrong_column_does_not() {
        let (a, b, mut c, mut rng) = product::<f64>(96);
        assert!(residual(96, &a, &b, &c, &mut rng).ok);
        let good = c.clone();
        for row in 0..96 {
            c[row * 96 + 5] *= 1.0 + 1e-9;
        }
        assert!(!residual(96, &a, &b, &c, &mut rng).ok);
        assert!(!repeats(&good, &c).ok);
        assert!(repeats(&good, &good).ok);
    }

    #[test]
    fn not_a_number_is_a_wrong_answer() {
        let (a, b, mut c, mut rng) = product::<f32>(64);
        assert!(residual(64, &a, &b, &c, &mut rng).ok);
        c.fill(f32::NAN);
        assert!(!residual(64, &a, &b, &c, &mut rng).ok);
    }
}
