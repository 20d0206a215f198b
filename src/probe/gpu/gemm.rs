//! `gemm` on GPUs by cuBLASLt: normal random inputs made on the device, the fastest of the algorithms that the library proposes;
//! burst (cool and short), and sustained on all GPUs of the node at once until clocks have settled. Both labelled: they differ
//! by 5 to 25 %.
//!
//! Sampled elements are held against sums in double precision; repeats of one algorithm must be identical to the bit, and so
//! must the results of all GPUs of one model.

use std::time::{Duration, Instant};

use crate::cluster::{Child, Step};
use crate::measure::{Bits, Check, Measured, Outcome};
use crate::plan::{CheckPlan, Tier};
use crate::probe::gpu::{GpuArgs, GpuState, LEAST_BLOCKS, Session, gpu_step, open_own, run_all};
use crate::probe::{Probe, ProbeError};
use crate::sys::cublaslt::{Lt, Product, Types};
use crate::sys::cuda::{Arg, Memory};
use crate::topology::Machine;
use crate::work::{Case, CheckName, Dtype, Load, Metric};

/// A type of product.
struct Kind {
    dtype: Dtype,
    types: Types,
    /// Numbers of kernels.cu for the types of input and output, and bytes of an element of each.
    input: (u32, usize),
    output: (u32, usize),
    /// The largest difference from an exact sum over the norm of its products: what rounding of results (4 standard deviations)
    /// and of inputs (tf32) explains, with room.
    tolerance: f32,
}

const KINDS: &[Kind] = &[
    Kind { dtype: Dtype::Bf16, types: Types::BF16, input: (2, 2), output: (2, 2), tolerance: 0.04 },
    Kind { dtype: Dtype::F16, types: Types::F16, input: (3, 2), output: (3, 2), tolerance: 0.006 },
    Kind { dtype: Dtype::Fp8, types: Types::FP8, input: (4, 1), output: (2, 2), tolerance: 0.06 },
    Kind { dtype: Dtype::Tf32, types: Types::TF32, input: (1, 4), output: (1, 4), tolerance: 0.006 },
    Kind { dtype: Dtype::F32, types: Types::F32, input: (1, 4), output: (1, 4), tolerance: 2e-5 },
    Kind { dtype: Dtype::F64, types: Types::F64, input: (0, 8), output: (0, 8), tolerance: 1e-13 },
];

/// Algorithms that are tried.
const ALGORITHMS: usize = 8;
/// What Hopper's and later algorithms want at the most.
const WORKSPACE: usize = 64 << 20;
/// Sampled elements.
const SAMPLES: u32 = 512;
/// A block: long beside the half microsecond that an event resolves.
const BLOCK_S: f64 = 0.02;
/// What the GPU cools before a burst.
const COOL: Duration = Duration::from_millis(200);
/// Of a burst, the time in which it is measured.
const BURST_S: f64 = 0.25;
/// What a test takes beside measuring: memory, inputs, the choice of the algorithm, cooling, the check.
const AROUND_MS: u64 = 550;
/// The search for the fastest algorithm ends after this long: one product of doubles takes a second where a part has few units for
/// them.
const SEARCH: Duration = Duration::from_millis(250);
/// By so much another algorithm must be faster than the library's first. They are tried while the GPU is cold, and those that are alike
/// there need not be so at its power cap: of fp8 products on an H100 one as fast as the first was 4 % slower (2026-11-26).
const CLEARLY: f64 = 0.02;
/// The library itself, when it is first loaded.
const LIBRARY_MS: u64 = 300;

/// A type, m (n and k are 8192 where m is larger), a length.
fn tests(tier: Tier) -> Vec<Case> {
    use Dtype::{Bf16, F16, F32, F64, Fp8, Tf32};
    use Load::{Burst, Sustained};
    let mut out = vec![(Bf16, 8192, Burst), (Fp8, 8192, Burst)];
    if !tier.is_short() {
        out.extend([(Bf16, 16384, Burst), (F16, 8192, Burst), (Tf32, 8192, Burst), (F32, 8192, Burst)]);
    }
    out.extend([(F64, 4096, Burst), (Bf16, 8192, Sustained)]);
    if !tier.is_short() {
        out.push((Fp8, 8192, Sustained));
    }
    out.into_iter().map(|(dtype, m, load)| Case::GpuGemm { dtype, m, load, gpu: 0 }).collect()
}

fn sustained_ms(tier: Tier) -> u64 {
    tier.pick(2500, 12_000, 90_000)
}

pub(in crate::probe) fn step(probe: &dyn Probe, plan: &CheckPlan, machine: &Machine) -> Option<Step> {
    let mut tests = tests(plan.tier);
    // bf16 and tf32 came with compute capability 8.0, fp8 with 8.9; the driver told which it is, or nobody knows.
    let least = machine.nvidia.iter().flat_map(|n| &n.gpus).filter_map(|g| g.capability).min();
    if let Some(least) = least {
        tests.retain(|t| match parse(t).map(|(kind, ..)| kind.dtype) {
            Some(Dtype::Fp8) => least >= (8, 9),
            Some(Dtype::Bf16 | Dtype::Tf32) => least >= (8, 0),
            _ => true,
        });
    }
    let sustained = tests.iter().filter(|t| is_sustained(t)).count() as u64;
    let ms = LIBRARY_MS + fixed_ms(&tests) + sustained * sustained_ms(plan.tier);
    gpu_step(probe, plan, machine, "gemm", &tests, ms).map(|s| Step { start_ms: LIBRARY_MS, ..s })
}

fn is_sustained(test: &Case) -> bool {
    parse(test).is_some_and(|(_, _, load)| load == Load::Sustained)
}

/// What tests take however long the sustained ones last.
fn fixed_ms(tests: &[Case]) -> u64 {
    let bursts = tests.iter().filter(|t| !is_sustained(t)).count() as u64;
    AROUND_MS * tests.len() as u64 + (BURST_S * 1e3) as u64 * bursts
}

/// A sustained load again lasts as long as it did: a shorter one would end before the GPU is as warm.
pub(in crate::probe) fn again_ms(step: &Step, cases: &[Case]) -> Option<u64> {
    let args: GpuArgs = serde_json::from_value(step.args.clone()).ok().filter(|a: &GpuArgs| a.gpu == "gemm")?;
    let sustained = |tests: &[Case]| tests.iter().filter(|t| is_sustained(t)).count() as u64;
    let again = |t: &&Case| args.places.iter().any(|p| cases.contains(&t.of_gpu(p.number)));
    let wanted: Vec<Case> = args.tests.iter().filter(again).cloned().collect();
    let each = step.measuring_ms().saturating_sub(fixed_ms(&args.tests)) / sustained(&args.tests).max(1);
    Some(fixed_ms(&wanted) + each * sustained(&wanted))
}

pub(in crate::probe) fn is_gemm(child: &Child) -> bool {
    child.args::<GpuArgs>().is_ok_and(|a| a.gpu == "gemm")
}

fn parse(test: &Case) -> Option<(&'static Kind, u64, Load)> {
    let Case::GpuGemm { dtype, m, load, .. } = test else { return None };
    Some((KINDS.iter().find(|k| k.dtype == *dtype)?, u64::from(*m), *load))
}

pub(in crate::probe) fn run(child: &mut Child, flops: &Metric) -> Result<(), ProbeError> {
    let args: GpuArgs = child.args()?;
    let tests = &args.tests;
    // When time is short the sustained load is what gives way; the rest takes what it takes.
    let wanted: Vec<Case> = tests.iter().filter(|t| args.wants(child, t)).cloned().collect();
    let sustained = wanted.iter().filter(|t| is_sustained(t)).count().max(1) as f64;
    let sustained_s = child.step.measuring_ms().saturating_sub(fixed_ms(&wanted)) as f64 / 1e3 / sustained;
    let kept = GpuState::of(child);
    // Before a test's clock runs: 700 MB may come from a slow disk. What goes wrong is told by the first test.
    if let Ok(session) = open_own(child, &args) {
        let _ = kept.lt(&session);
    }
    run_all(
        child,
        &args,
        tests,
        |_| false,
        |session, place, child| {
            let (kind, m, length) =
                parse(&tests[place]).ok_or_else(|| ProbeError::Broken(format!("`{}` is no test", tests[place])))?;
            let lt = kept.lt(session)?;
            measure(session, &lt, kind, m, length, sustained_s, child.step.seed, flops)
        },
    )
}

#[expect(clippy::too_many_arguments, reason = "each is a number of the test; a struct would name them twice")]
fn measure(
    session: &Session,
    lt: &Lt,
    kind: &Kind,
    m: u64,
    length: Load,
    sustained_s: f64,
    seed: u64,
    flops: &Metric,
) -> Result<Measured, ProbeError> {
    let small = m.min(8192);
    let (n, k) = (small, small);
    let bytes = |elements: u64, size: usize| elements as usize * size;
    let a = session.gpu.alloc(bytes(m * k, kind.input.1))?;
    let b = session.gpu.alloc(bytes(k * n, kind.input.1))?;
    let c = session.gpu.alloc(bytes(m * n, kind.output.1))?;
    // The same inputs on every GPU: like GPUs must give like bits.
    for (memory, elements, seed) in [(&a, m * k, seed), (&b, k * n, seed ^ 0x5bd1_e995)] {
        let args = [Arg::Memory(memory), Arg::U64(elements), Arg::U64(seed), Arg::U32(kind.input.0)];
        session.kernels.launch(&session.stream, c"fill_normal", None, &args)?;
    }
    let product = lt.product(kind.types, (m, n, k), session.gpu.alloc(WORKSPACE)?, ALGORITHMS)?;
    // The first algorithm is the same on every GPU of a model; the fastest need not be.
    session.stream.fill(&c, 0xff)?;
    product.run(&session.stream, 0, &a, &b, &c)?;
    let bits = session.digest(&c)?;
    let best = fastest(session, &product, &a, &b, &c)?;
    let work = || Ok(product.run(&session.stream, best, &a, &b, &c)?);
    session.stream.fill(&c, 0xff)?;
    work()?;
    let first = session.digest(&c)?;
    let (mut seconds, block) = match length {
        Load::Burst => {
            session.stream.synchronize()?;
            std::thread::sleep(COOL);
            session.blocks(LEAST_BLOCKS, BLOCK_S, BURST_S, work)?
        }
        // The first half does not count.
        Load::Sustained => session.blocks(2 * LEAST_BLOCKS, BLOCK_S * 5.0, sustained_s, work)?,
    };
    if length == Load::Sustained {
        // The half in which clocks have settled.
        seconds.drain(..seconds.len() / 2);
    }
    let last = session.digest(&c)?;
    let worst = residual(session, kind, (m, n, k), (&a, &b, &c), seed)?;
    let operations = 2.0 * (m * n) as f64 * k as f64;
    let mut series = flops.series(seconds.iter().map(|s| operations / s).collect(), block);
    if let Some((rate, spec)) = session.spec.as_ref().and_then(|s| Some((s.rate(kind.dtype.name())?, s))) {
        let why = format!("{} {}, dense: {}", spec.name, kind.dtype.name(), spec.source);
        series = series.nominally(rate, why.clone()).bounded(1.1 * rate, why);
    }
    let checks = vec![
        Check::new(
            CheckName::Repeat,
            first == last,
            format!("digests {first:016x} and {last:016x} of the first and the last product"),
        ),
        Check::new(
            CheckName::Residual,
            worst <= kind.tolerance,
            format!(
                "{worst:.2e} of the products' norm at the most, {:.0e} allowed, {SAMPLES} elements",
                kind.tolerance
            ),
        ),
    ];
    let notes = vec![
        format!("{m} x {n} x {k}, algorithm {best} of {}, cuBLASLt {}", product.algorithms(), lt.version),
        format!("cuBLASLt is {}: {}", lt.found.path, lt.found.why),
    ];
    let bits = Bits { of: format!("{}, cuBLASLt {}", session.gpu.name, lt.version), digest: format!("{bits:016x}") };
    Ok(Measured {
        series: vec![series],
        checks: checks.into(),
        notes: notes.into(),
        bits: Some(Box::new(bits)),
        ..Measured::default()
    })
}

/// The place of the fastest algorithm: the shortest of three runs each, after one that does not count; of as many as time allows. The
/// library's first choice stands unless another is faster by [`CLEARLY`].
fn fastest(session: &Session, product: &Product<'_>, a: &Memory, b: &Memory, c: &Memory) -> Result<usize, ProbeError> {
    let events = [session.gpu.event()?, session.gpu.event()?];
    let (mut best, mut shortest) = (0, f64::INFINITY);
    let begin = Instant::now();
    for place in 0..product.algorithms() {
        if shortest.is_finite() && begin.elapsed() > SEARCH {
            break;
        }
        // One that fails here is not the best; another may do.
        if product.run(&session.stream, place, a, b, c).is_err() {
            continue;
        }
        let mut own = f64::INFINITY;
        for _ in 0..3 {
            session.stream.record(&events[0])?;
            product.run(&session.stream, place, a, b, c)?;
            session.stream.record(&events[1])?;
            events[1].synchronize()?;
            own = own.min(events[1].seconds_since(&events[0])?);
            if begin.elapsed() > SEARCH {
                break;
            }
        }
        if own < shortest * (1.0 - CLEARLY) {
            (best, shortest) = (place, own);
        }
    }
    Ok(best)
}

fn residual(
    session: &Session,
    kind: &Kind,
    (m, n, k): (u64, u64, u64),
    (a, b, c): (&Memory, &Memory, &Memory),
    seed: u64,
) -> Result<f32, ProbeError> {
    session.stream.fill(&session.counted, 0)?;
    let args = [
        Arg::Memory(a),
        Arg::Memory(b),
        Arg::Memory(c),
        Arg::U64(m),
        Arg::U64(n),
        Arg::U64(k),
        Arg::U32(kind.input.0),
        Arg::U32(kind.output.0),
        Arg::U64(seed),
        Arg::Memory(&session.counted),
    ];
    session.kernels.launch(&session.stream, c"residual", Some(SAMPLES), &args)?;
    Ok(f32::from_bits(session.stream.read_u64(&session.counted)? as u32))
}

/// Adds to each outcome whether its GPU computed the bits that most of its model did.
pub(super) fn compare_bits(outcomes: &mut [Outcome]) {
    let all: Vec<Option<Bits>> = outcomes.iter().map(|o| o.measured()?.bits.as_deref().cloned()).collect();
    for (outcome, own) in outcomes.iter_mut().zip(&all) {
        let (Outcome::Measured(m), Some(own)) = (outcome, own) else { continue };
        let like: Vec<&Bits> = all.iter().flatten().filter(|b| b.of == own.of).collect();
        if like.len() > 1 {
            let same = like.iter().filter(|b| b.digest == own.digest).count();
            let detail = format!("{same} of {} GPUs of this model computed these bits", like.len());
            m.checks.push(Check::new(CheckName::SameBits, same * 2 > like.len(), detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_of_every_tier_is_understood() {
        for tier in [Tier::Quick, Tier::Standard, Tier::Soak] {
            assert!(tests(tier).iter().all(|t| parse(t).is_some()));
        }
    }

    #[test]
    fn the_gpu_that_computes_other_bits_is_told() {
        let gpu = |bits: &str| {
            let bits = Bits { of: "NVIDIA H200".to_owned(), digest: bits.to_owned() };
            Outcome::Measured(Measured { bits: Some(Box::new(bits)), ..Measured::default() })
        };
        let mut all = vec![gpu("a"), gpu("a"), gpu("b"), gpu("a")];
        compare_bits(&mut all);
        let ok: Vec<bool> = all.iter().filter_map(|o| Some(o.measured()?.checks.first()?.ok)).collect();
        assert_eq!(ok, [true, true, false, true]);
        let mut one = vec![gpu("a")];
        compare_bits(&mut one);
        assert!(one[0].measured().is_some_and(|m| m.checks.is_empty()));
    }
}
