//! What the probes have in common on GPUs: one process a GPU, all at once or in turn, and the load that the driver saw
//! meanwhile.

mod copy;
mod gemm;
mod memory;
mod monitor;
mod state;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nvml_wrapper::Nvml;
use serde::{Deserialize, Serialize};

use crate::cluster::{Child, Processes, Step};
use crate::measure::{Facts, FailKind, Measured, Outcome, WaiveKind};
use crate::plan::CheckPlan;
use crate::probe::{Probe, ProbeError, step};
use crate::sys::cublaslt::LtError;
use crate::sys::cuda::{Arg, Cuda, CudaError, Event, Gpu, Kernels, Memory, Stream};
use crate::topology::{GpuSpec, Machine, gpu_spec};
use crate::work::Case;

use monitor::{HostLink, Monitor, ask};
pub(super) use state::GpuState;

pub use copy::Copy;
pub(super) use gemm::{again_ms as gemm_again_ms, is_gemm, run as run_gemm, step as gemm_step};
pub(super) use memory::{is_memory, run as run_memory, step as memory_step};

/// What an interval of the median needs, with room for two that were disturbed.
pub(super) const LEAST_BLOCKS: usize = 8;

impl From<CudaError> for ProbeError {
    fn from(e: CudaError) -> Self {
        if e.is_of_hardware() { ProbeError::Gpu(e.to_string()) } else { ProbeError::Broken(e.to_string()) }
    }
}

impl From<LtError> for ProbeError {
    fn from(e: LtError) -> Self {
        ProbeError::Broken(e.to_string())
    }
}

/// What every GPU step is told.
#[derive(Serialize, Deserialize)]
struct GpuArgs {
    gpu: String,
    /// Each of GPU 0, whichever GPU it is for.
    tests: Vec<Case>,
    /// A rank each.
    places: Vec<Place>,
}

impl GpuArgs {
    /// Whether a test is to run. Again, it may be for one GPU alone; the others work along, as they did the first time.
    fn wants(&self, child: &Child, test: &Case) -> bool {
        self.places.iter().any(|p| child.wants(&test.of_gpu(p.number)))
    }
}

/// A GPU of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// NVML's, which nvidia-smi shows and cases bear.
    pub number: u32,
    pub pci: String,
}

/// GPUs that a step may use, in CUDA's order: those that programs of this job see, or, where the driver could not be asked, those on the
/// PCI bus.
pub fn gpus(machine: &Machine) -> Vec<Place> {
    if let Some(n) = machine.driver().filter(|n| !n.gpus.is_empty()) {
        let shown = n.shown(machine.environment.get("CUDA_VISIBLE_DEVICES").map(String::as_str));
        // A list that names none is an error that every GPU then tells.
        let shown = if shown.is_empty() { n.gpus.iter().collect() } else { shown };
        return shown.into_iter().map(|g| Place { number: g.index, pci: g.pci.clone() }).collect();
    }
    let seen = machine.gpus.iter().filter(|g| g.is_nvidia());
    seen.zip(0..).map(|(g, number)| Place { number, pci: g.pci.clone() }).collect()
}

pub(super) fn count(machine: &Machine) -> usize {
    gpus(machine).len()
}

/// A test that takes so much longer than all of its step should does not end any more.
const HANGS: Duration = Duration::from_secs(8);

/// How long the GPU processes of a node take to start: the driver, a context and the kernels on every GPU, which the driver makes
/// one after the other in part.
pub(super) fn start_ms(gpus: usize) -> u64 {
    700 + 150 * gpus as u64
}

/// A step with a rank for each GPU; a case for each test and GPU. `None` where there is no NVIDIA GPU.
fn gpu_step(
    probe: &dyn Probe,
    plan: &CheckPlan,
    machine: &Machine,
    what: &str,
    tests: &[Case],
    ms: u64,
) -> Option<Step> {
    let places = gpus(machine);
    if places.is_empty() {
        return None;
    }
    let gpus = places.len();
    let cases = tests.iter().flat_map(|t| places.iter().map(|p| t.of_gpu(p.number))).collect();
    let args = GpuArgs { gpu: what.to_owned(), tests: tests.to_vec(), places };
    let step = step(probe, plan, cases, args, ms);
    let name = format!("{}-gpu", probe.name());
    Some(Step { name, ranks: gpus as u32, processes: Processes::Gpus, ..step })
}

/// One GPU, open, with what works on it. Fields are dropped in this order.
pub(super) struct Session {
    pub stream: Stream,
    pub kernels: Kernels,
    pub counted: Memory,
    pub gpu: Gpu,
    pub spec: Option<GpuSpec>,
    link: HostLink,
    /// `None` where the driver could not be asked in time.
    nvml: Option<Arc<Nvml>>,
    pub notes: Vec<String>,
}

impl Session {
    fn open(cuda: &Rc<Cuda>, index: usize) -> Result<Self, CudaError> {
        let gpu = Gpu::open(cuda, index)?;
        let (nvml, link) = ask(&gpu.uuid).unzip();
        let link = link.unwrap_or_default();
        let notes = vec![format!("{} {} {}", gpu.name, gpu.pci, gpu.uuid)];
        Ok(Session {
            stream: gpu.stream()?,
            kernels: gpu.kernels()?,
            counted: gpu.alloc(64)?,
            spec: gpu_spec(&gpu.name),
            link,
            nvml,
            gpu,
            notes,
        })
    }

    /// NVML's number of it, which nvidia-smi shows; `None` where the driver does not answer.
    pub fn number(&self) -> Option<u32> {
        self.nvml.as_ref()?.device_by_uuid(self.gpu.uuid.as_str()).ok()?.index().ok()
    }

    /// The hash of what lies in `memory`.
    fn digest(&self, memory: &Memory) -> Result<u64, CudaError> {
        self.stream.fill(&self.counted, 0)?;
        let args = [Arg::Memory(memory), Arg::U64(memory.len() as u64 / 4), Arg::Memory(&self.counted)];
        self.kernels.launch(&self.stream, c"digest", None, &args)?;
        self.stream.read_u64(&self.counted)
    }

    fn pattern(&self, memory: &Memory, seed: u64, flip: u32) -> Result<(), CudaError> {
        let args = [Arg::Memory(memory), Arg::U64(memory.len() as u64 / 4), Arg::U64(seed), Arg::U32(flip)];
        self.kernels.launch(&self.stream, c"pattern_fill", None, &args)
    }

    /// Words of `memory` that are not those of the pattern.
    fn wrong(&self, memory: &Memory, seed: u64, flip: u32) -> Result<u64, CudaError> {
        self.stream.fill(&self.counted, 0)?;
        let (wrong, first) = (Arg::Memory(&self.counted), Arg::At(&self.counted, 8));
        let args =
            [Arg::Memory(memory), Arg::U64(memory.len() as u64 / 4), Arg::U64(seed), Arg::U32(flip), wrong, first];
        self.kernels.launch(&self.stream, c"pattern_check", None, &args)?;
        self.stream.read_u64(&self.counted)
    }

    /// Seconds of one `work`, block by block: blocks of `block_s` at the most follow each other without a gap, each between two
    /// events, until `budget_s` has gone; at least `least` blocks, shorter ones where time is short.
    ///
    /// # Errors
    /// [`ProbeError::NoTime`] where so many blocks, of one `work` each, take far longer than the budget.
    fn blocks(
        &self,
        least: usize,
        block_s: f64,
        budget_s: f64,
        mut work: impl FnMut() -> Result<(), ProbeError>,
    ) -> Result<(Vec<f64>, u64), ProbeError> {
        const MOST: usize = 4096;
        /// The step's deadline leaves so much more than its budget, and so many seconds in any case: what is slow by design (doubles
        /// on many parts, copies without a direct way) is measured rather than left open.
        const OVER: f64 = 2.5;
        const LEAST_S: f64 = 3.0;
        let (begin, end) = (self.gpu.event()?, self.gpu.event()?);
        work()?;
        self.stream.record(&begin)?;
        work()?;
        self.stream.record(&end)?;
        end.synchronize()?;
        let once = end.seconds_since(&begin)?.max(1e-6);
        if least as f64 * once > (OVER * budget_s).max(LEAST_S) {
            return Err(ProbeError::NoTime(format!(
                "{least} blocks of one operation each take {:.2} s, and it has {budget_s:.2} s: give more --budget",
                least as f64 * once
            )));
        }
        let each = ((block_s.min(budget_s / least as f64) / once) as u64).clamp(1, 100_000);
        let blocks = ((budget_s / (once * each as f64)) as usize).clamp(least, MOST);
        let mut events: Vec<Event> = vec![self.gpu.event()?];
        self.stream.record(&events[0])?;
        for i in 1..=blocks {
            for _ in 0..each {
                work()?;
            }
            events.push(self.gpu.event()?);
            self.stream.record(&events[i])?;
            // One block runs while the next is queued; more would be lost when time is up.
            events[i - 1].synchronize()?;
        }
        events[blocks].synchronize()?;
        let seconds: Result<Vec<f64>, CudaError> = events.windows(2).map(|w| w[1].seconds_since(&w[0])).collect();
        Ok((seconds?.iter().map(|s| s / each as f64).collect(), each))
    }
}

/// The GPU that CUDA counts as `index`, as this process keeps it, where its place on the bus is given, that one; an outcome says why not.
pub(super) fn open(child: &mut Child, index: usize, at: Option<&str>) -> Result<Rc<Session>, Outcome> {
    let state = GpuState::of(child);
    let opened = at.map_or_else(|| state.session(index), |pci| state.session_at(index, pci));
    opened.map_err(|e| {
        // What is half made is made anew by another process.
        child.retire();
        match e {
            e if e.is_absent() => Outcome::waived(WaiveKind::Absent, e.to_string()),
            CudaError::NoDevice { wanted, count } => {
                let visible = std::env::var("CUDA_VISIBLE_DEVICES")
                    .map_or(String::new(), |v| format!(" (CUDA_VISIBLE_DEVICES={})", crate::id::clean(&v)));
                let what = format!("no GPU {wanted} for CUDA, which shows {count}{visible}");
                Outcome::error(FailKind::Error, format!("{what}; unset it, or check where the job has all GPUs"))
            }
            e if e.is_of_hardware() => Outcome::error(FailKind::Gpu, e.to_string()),
            e => Outcome::error(FailKind::Error, e.to_string()),
        }
    })
}

/// This rank's GPU of a step on one node.
fn open_own(child: &mut Child, args: &GpuArgs) -> Result<Rc<Session>, Outcome> {
    let rank = child.rank as usize;
    open(child, rank, args.places.get(rank).map(|p| p.pci.as_str()))
}

/// Runs every test on all GPUs at once, or one after the other where `in_turn` says so of the test; rank 0 tells of all. `test` is
/// called with the place of the test. It exchanges nothing: a rank that fails must not leave others waiting.
fn run_all(
    child: &mut Child,
    args: &GpuArgs,
    tests: &[Case],
    in_turn: impl Fn(&Case) -> bool,
    mut test: impl FnMut(&Session, usize, &Child) -> Result<Measured, ProbeError>,
) -> Result<(), ProbeError> {
    let rank = child.rank as usize;
    let mut session = open_own(child, args);
    for (place, case) in tests.iter().enumerate() {
        if !args.wants(child, case) {
            continue;
        }
        let name = case.test();
        let turns = if in_turn(case) { child.ranks } else { 1 };
        let mut outcome = Outcome::error(FailKind::Error, "this GPU had no turn: a defect of gonogo, please report it");
        for turn in 0..turns {
            // Ranks begin together, or when it is their turn.
            child.barrier()?;
            if turns == 1 || turn == child.rank {
                outcome = match &session {
                    Err(outcome) => outcome.clone(),
                    Ok(session) => {
                        let number = args.places.get(rank).map_or(child.rank, |p| p.number);
                        let hang =
                            Watchdog::start(child, format!("GPU {number} ({}) did not end `{name}`", session.gpu.pci));
                        let outcome = watched(session, || test(session, place, child));
                        drop(hang);
                        outcome
                    }
                };
            }
        }
        if let (Outcome::Failed { error, .. }, Ok(open)) = (&outcome, &session) {
            // An error may stay with its context for ever: the next step gets a new one.
            child.retire();
            if open.gpu.synchronize().is_err() {
                let why = format!("`{name}` left the GPU's context unusable: {error}");
                session = Err(Outcome::waived(WaiveKind::NotReached, why));
            }
        }
        let all = child.exchange(&outcome)?;
        if child.rank == 0 {
            let all = all.all(child)?;
            tell(child, args, case, all)?;
        }
    }
    Ok(())
}

/// Ends this process when a test does not end: a call that hangs in the driver comes back never, and all other GPUs wait.
struct Watchdog {
    /// Dropped when the test has ended.
    _alive: Sender<()>,
}

impl Watchdog {
    fn start(child: &Child, what: String) -> Self {
        let limit = Duration::from_millis(child.step.measuring_ms()) + HANGS;
        let limit = limit.min(child.time_left().saturating_sub(Duration::from_secs(1)));
        let (alive, over) = channel::<()>();
        std::thread::spawn(move || {
            if over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let seconds = limit.as_secs_f64();
                eprintln!("{what} within {seconds:.0} s: it hangs; look for Xid in the kernel log, and reset it");
                // Read as a probe that gave up in good order.
                crate::sys::exit_now(1);
            }
        });
        Watchdog { _alive: alive }
    }
}

/// One test on one GPU, with what the driver saw meanwhile.
fn watched(session: &Session, test: impl FnOnce() -> Result<Measured, ProbeError>) -> Outcome {
    let monitor = Monitor::start(session.nvml.clone(), &session.gpu.uuid);
    let result = test();
    let load = monitor.stop();
    match result {
        Ok(mut measured) => {
            measured.notes.extend(session.notes.iter().cloned());
            measured.facts = measured.facts.or(load.map(|l| Box::new(Facts::GpuLoad(Box::new(l)))));
            Outcome::Measured(measured)
        }
        Err(e) => failed(e),
    }
}

/// What an error of a test makes of its case.
fn failed(e: ProbeError) -> Outcome {
    match e {
        ProbeError::NoTime(why) => Outcome::waived(WaiveKind::NoTime, why),
        ProbeError::Gpu(why) => Outcome::error(FailKind::Gpu, why),
        e => Outcome::error(FailKind::Error, e.to_string()),
    }
}

/// Reports the outcomes of all GPUs, after a look at whether like ones computed like bits.
fn tell(child: &mut Child, args: &GpuArgs, test: &Case, mut outcomes: Vec<Outcome>) -> Result<(), ProbeError> {
    gemm::compare_bits(&mut outcomes);
    for (place, outcome) in args.places.iter().zip(outcomes) {
        let case = test.of_gpu(place.number);
        if child.wants(&case) {
            child.outcome(&case, outcome)?;
        }
    }
    Ok(())
}
