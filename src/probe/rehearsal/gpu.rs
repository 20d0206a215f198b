//! The rehearsal on GPUs: one rank a GPU, products by cuBLASLt in bf16 on one stream, messages by NCCL on another, timed by events.
//!
//! Ranks of each dimension have a communicator of their own. All of a rank's messages go one behind the other on one stream, in an order
//! that is the same on all ranks: no two can wait for each other.

use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::measure::RankSteps;
use crate::plan::{Dimension, Message, Product, Training};
use crate::probe::ProbeError;
use crate::probe::collective::cost::Link;
use crate::probe::collective::nccl::{self, Met, NcclFault, call_by_numbers, faults, give_up, meet, patience};
use crate::probe::gpu::{self, GpuState, Session};
use crate::probe::rehearsal::fit::{Fit, fit};
use crate::probe::rehearsal::{Args, NOTHING_FITS, PASSES, RankReport, rounds, tell, waive};
use crate::sys::cublaslt::{self, Lt, Types};
use crate::sys::cuda::{Arg, Event, Memory, Stream};
use crate::sys::nccl::{Comm, ID_BYTES, Span};
use crate::work::Collective;

/// Of the datasheet's rate, what a layer's products reach about; and the rate of a GPU whose datasheet is not known.
const REACHES: f64 = 0.5;
const UNKNOWN_RATE: f64 = 50e12;
/// What a message is reckoned to take, before any has gone: 20 us and 20 GB/s.
const RECKONED: Link = Link { latency: 20e-6, per_byte: 5e-11 };
/// Of the memory that is free on the fullest GPU, what matrices and messages may take. They are reckoned at four bytes an element.
const SHARE: f64 = 0.5;
/// How long an abort of a communicator may take.
const ABORT: Duration = Duration::from_secs(1);
/// cuBLASLt's workspace of each product, and the sides of its matrices: tensor cores take multiples of 16.
const WORKSPACE: usize = 32 << 20;
const SIDE: u64 = 16;
/// An element of bf16, and its number in kernels.cu.
const BF16: (u32, usize) = (2, 2);

/// GPU processes, libraries, and a communicator a dimension.
pub(super) fn start_ms(nodes: u32, gpus: u32, training: &Training) -> u64 {
    let communicators = Dimension::ALL.into_iter().filter(|by| training.sends_among(*by)).count() as u64;
    500 + gpu::start_ms(gpus as usize) + communicators * nccl::start_ms(nodes, gpus)
}

pub(super) fn run(child: &mut Child, args: &Args) -> Result<(), ProbeError> {
    call_by_numbers(child, &args.numbers);
    let met = match meet(child, args.gpus, false)? {
        Ok(met) => met,
        Err(outcome) => return give_up(child, outcome),
    };
    let budget = child.share(1).as_secs_f64();
    let rate = met.session.spec.as_ref().and_then(|s| s.rate("bf16")).map_or(UNKNOWN_RATE, |r| REACHES * r);
    let rates = child.exchange(&rate)?.all(child)?;
    let rate = rates.into_iter().fold(f64::INFINITY, f64::min);
    let limits = (budget / PASSES, SHARE * met.free() as f64);
    let Some(fit) = fit(&args.training, rate, RECKONED, limits) else {
        return waive(child, args, NOTHING_FITS.to_owned());
    };
    let training = args.training.narrowed(fit.narrow);
    let joined = join(child, &training, &met)?;
    let all = child.exchange(&joined.as_ref().map(|_| ()).map_err(NcclFault::clone))?.all(child)?;
    if let Some(outcome) = faults(child, "making the communicators", &all) {
        give_up(child, outcome)?;
        child.retire();
        joined.into_iter().flatten().for_each(|(_, comm)| comm.abort(ABORT));
        return Ok(());
    }
    let Ok(comms) = joined else { return Ok(()) };
    let lt = GpuState::of(child).lt(&met.session);
    // What failed may be under way still, and would be freed under its feet: it stays until the process ends.
    let rank = Rank::new(&met.session, lt.as_ref(), comms, &training, child.step.seed).map(ManuallyDrop::new);
    let patience = patience(child);
    let once = rank.as_ref().map_err(NcclFault::clone).and_then(|rank| {
        let start = Instant::now();
        rank.round(&training, fit.layers, patience, &mut RankSteps::default())?;
        let warm = start.elapsed();
        rank.round(&training, fit.layers, patience, &mut RankSteps::default())?;
        Ok((start.elapsed() - warm).as_secs_f64())
    });
    let all = child.exchange(&once)?.all(child)?;
    if let Some(outcome) = faults(child, "a first step", &all) {
        give_up(child, outcome)?;
        child.retire();
        return Ok(());
    }
    let (Ok(rank), Ok(once)) = (rank, once) else { return Ok(()) };
    let rounds = match rounds(child, once, budget)? {
        Ok(rounds) => rounds,
        Err(why) => {
            drop(ManuallyDrop::into_inner(rank));
            return waive(child, args, why);
        }
    };
    let mut times = RankSteps::default();
    // Of the time that is left now: a wait must end before the step is ended.
    let patience = nccl::patience(child);
    let done = (0..rounds).try_for_each(|_| rank.round(&training, fit.layers, patience, &mut times));
    let told = args.numbers.get(child.rank as usize).copied().or_else(|| met.session.number());
    let number = told.unwrap_or(child.rank % args.gpus.max(1));
    let node = child.members.get((child.rank / args.gpus.max(1)) as usize).cloned();
    let times = RankSteps { node, gpu: Some(number), ..times };
    if report(child, args, fit, done.map(|()| RankReport { times, wrong: 0, counters: None }), &met.session)? {
        drop(ManuallyDrop::into_inner(rank));
    }
    Ok(())
}

/// Tells what all ranks timed, or what went wrong: whether all went well.
fn report(
    child: &mut Child,
    args: &Args,
    fit: Fit,
    own: Result<RankReport, NcclFault>,
    session: &Session,
) -> Result<bool, ProbeError> {
    let all = child.exchange(&own)?.all(child)?;
    if let Some(outcome) = faults(child, "the rehearsed steps", &all) {
        give_up(child, outcome)?;
        child.retire();
        return Ok(false);
    }
    if child.rank > 0 {
        return Ok(true);
    }
    let all = all.into_iter().filter_map(Result::ok).collect();
    let spec = session.spec.as_ref().and_then(|s| Some((s.rate("bf16")?, s)));
    let nominal = spec.map(|(rate, s)| (rate, format!("{} bf16, dense: {}", s.name, s.source)));
    tell(child, args, fit, all, (format!("bf16 on {}", session.gpu.name), nominal))?;
    Ok(true)
}

/// This rank's communicators.
type Comms = Vec<(Dimension, Comm)>;

fn join(child: &mut Child, training: &Training, met: &Met) -> Result<Result<Comms, NcclFault>, ProbeError> {
    // In the same order on all ranks.
    let groups: Vec<(Dimension, Vec<u32>)> = Dimension::ALL
        .into_iter()
        .filter(|by| training.sends_among(*by))
        .map(|by| (by, training.world.group(by, child.rank)))
        .collect();
    // The first rank of a group makes its id.
    let id = |(_, group): &(Dimension, Vec<u32>)| {
        (group[0] == child.rank).then(|| met.nccl.unique_id().map(|id| id.to_vec()).ok()).flatten()
    };
    let ids: Vec<Option<Vec<u8>>> = groups.iter().map(id).collect();
    let all = child.exchange(&ids)?.all(child)?;
    let patience = patience(child);
    let one = |(i, (by, group)): (usize, &(Dimension, Vec<u32>))| -> Result<(Dimension, Comm), NcclFault> {
        let id = all.get(group[0] as usize).and_then(|ids| ids.get(i)?.clone());
        let id = id.and_then(|id| <[u8; ID_BYTES]>::try_from(id).ok());
        let id = id.ok_or_else(|| ProbeError::Broken("the first rank of a group published no unique id".to_owned()))?;
        let place = group.iter().position(|r| *r == child.rank).unwrap_or(0);
        Ok((*by, Comm::join(&met.nccl, &met.session.gpu, (place, group.len()), id, patience)?))
    };
    // One that was made stays until the process ends where another was not: the others of its group have it still.
    let mut made = ManuallyDrop::new(Vec::new());
    for (i, group) in groups.iter().enumerate() {
        match one((i, group)) {
            Ok(comm) => made.push(comm),
            Err(fault) => return Ok(Err(fault)),
        }
    }
    Ok(Ok(ManuallyDrop::into_inner(made)))
}

/// A message with its buffers, on the communicator at a place.
struct Sent {
    comm: usize,
    op: Collective,
    /// Elements of four bytes, as the call counts them.
    count: usize,
    from: Memory,
    to: Memory,
}

/// One GPU at work. Fields are dropped in this order.
struct Rank<'s> {
    session: &'s Session,
    forward: Vec<(cublaslt::Product<'s>, u64)>,
    backward: Vec<(cublaslt::Product<'s>, u64)>,
    a: Memory,
    b: Memory,
    c: Memory,
    on_path: Vec<Sent>,
    /// What goes round, in the same buffers each turn, and how often forward and backward.
    ring: Vec<Sent>,
    turns: [u64; 2],
    stages: Vec<Sent>,
    gradients: Vec<Sent>,
    /// Of four bytes, for coming together.
    token: Memory,
    comms: Comms,
    messages: Stream,
}

/// Two moments on a stream.
type Interval = (Event, Event);

fn seconds(all: &[Interval]) -> Result<f64, NcclFault> {
    let mut sum = 0.0;
    for (begin, end) in all {
        sum += end.seconds_since(begin)?;
    }
    Ok(sum)
}

impl<'s> Rank<'s> {
    fn new(
        session: &'s Session,
        lt: Result<&'s Rc<Lt>, &cublaslt::LtError>,
        comms: Comms,
        training: &Training,
        seed: u64,
    ) -> Result<Self, NcclFault> {
        // A communicator that ends on one rank alone may wait for the others: where this fails it stays until the process ends.
        let comms = ManuallyDrop::new(comms);
        let lt = lt.map_err(|e| NcclFault::from(ProbeError::Broken(e.to_string())))?;
        let side = |v: u64| v.next_multiple_of(SIDE);
        let forward: Vec<Product> = training
            .products
            .iter()
            .map(|p| Product { m: side(p.m), n: side(p.n), k: side(p.k), times: p.times })
            .collect();
        let backward: Vec<Product> = forward.iter().flat_map(Product::backward).collect();
        let most = |size: fn(&Product) -> u64| forward.iter().chain(&backward).map(size).max().unwrap_or(0);
        let matrix = |elements: u64, seed: u64| -> Result<Memory, NcclFault> {
            let memory = session.gpu.alloc(elements as usize * BF16.1)?;
            let args = [Arg::Memory(&memory), Arg::U64(elements), Arg::U64(seed), Arg::U32(BF16.0)];
            session.kernels.launch(&session.stream, c"fill_normal", None, &args)?;
            Ok(memory)
        };
        let prepared = |all: &[Product]| -> Result<Vec<(cublaslt::Product<'s>, u64)>, NcclFault> {
            let one = |p: &Product| -> Result<_, NcclFault> {
                let workspace = session.gpu.alloc(WORKSPACE)?;
                let product = lt.product(Types::BF16, (p.m, p.n, p.k), workspace, 1);
                Ok((product.map_err(|e| NcclFault::from(ProbeError::from(e)))?, p.times))
            };
            all.iter().map(one).collect()
        };
        let sent = |m: &Message| Sent::new(session, &comms, m);
        Ok(Rank {
            a: matrix(most(|p| p.m * p.k), seed)?,
            b: matrix(most(|p| p.k * p.n), seed ^ 0x5bd1_e995)?,
            c: matrix(most(|p| p.m * p.n), seed)?,
            forward: prepared(&forward)?,
            backward: prepared(&backward)?,
            on_path: training.on_path.iter().map(sent).collect::<Result<_, _>>()?,
            ring: training.ring.iter().map(|r| sent(&r.message)).collect::<Result<_, _>>()?,
            turns: training.ring.map_or([0; 2], |r| r.times()),
            stages: training.between_stages.iter().map(sent).collect::<Result<_, _>>()?,
            gradients: training.gradients.iter().map(sent).collect::<Result<_, _>>()?,
            token: session.gpu.alloc(4)?,
            messages: session.gpu.stream()?,
            comms: ManuallyDrop::into_inner(comms),
            session,
        })
    }

    fn mark(&self, stream: &Stream) -> Result<Event, NcclFault> {
        let event = self.session.gpu.event()?;
        stream.record(&event)?;
        Ok(event)
    }

    /// The products of a layer's pass.
    fn pass(&self, backward: bool) -> Result<(), NcclFault> {
        for (product, times) in if backward { &self.backward } else { &self.forward } {
            for _ in 0..*times {
                let ran = product.run(&self.session.stream, 0, &self.a, &self.b, &self.c);
                ran.map_err(|e| NcclFault::from(ProbeError::from(e)))?;
            }
        }
        Ok(())
    }

    fn send(&self, all: &[Sent]) -> Result<(), NcclFault> {
        all.iter().try_for_each(|s| Ok(s.run(&self.comms[s.comm].1, &self.messages)?))
    }

    /// All ranks have come here before any goes on: a word through every dimension.
    fn together(&self) -> Result<(), NcclFault> {
        for (_, comm) in &self.comms {
            comm.all_reduce(&self.messages, Span::new(&self.token), Span::new(&self.token), 1)?;
        }
        let here = self.mark(&self.messages)?;
        Ok(self.session.stream.wait_for(&here)?)
    }

    /// Waits until both streams have nothing left to do, for no longer than `patience`.
    fn settle(&self, patience: Duration) -> Result<(), NcclFault> {
        for stream in [&self.messages, &self.session.stream] {
            if let Some((_, comm)) = self.comms.first() {
                comm.wait(stream, patience)?;
                continue;
            }
            let begin = Instant::now();
            while !stream.is_idle()? {
                if begin.elapsed() > patience {
                    let error = format!("what was queued on {} did not end within {patience:?}", self.session.gpu.pci);
                    return Err(ProbeError::Gpu(error).into());
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    /// Computing alone, messages alone, both: one of each.
    fn round(
        &self,
        training: &Training,
        layers: u64,
        patience: Duration,
        times: &mut RankSteps,
    ) -> Result<(), NcclFault> {
        self.together()?;
        let begin = self.mark(&self.session.stream)?;
        for backward in [false, true] {
            (0..layers).try_for_each(|_| self.pass(backward))?;
        }
        let alone = (begin, self.mark(&self.session.stream)?);
        self.settle(patience)?;
        times.alone.push(seconds(std::slice::from_ref(&alone))?);
        if !self.comms.is_empty() {
            let (all, gradients, ring) = self.messages_alone(layers, patience)?;
            times.communication.push(all);
            times.gradients.push(gradients);
            if !self.ring.is_empty() {
                times.ring.push(ring);
            }
        }
        let (whole, beside) = self.whole(training.overlap, layers, patience)?;
        times.whole.push(whole);
        times.beside.push(beside);
        Ok(())
    }

    /// Seconds of all messages, of the gradients among them, and of what goes round.
    fn messages_alone(&self, layers: u64, patience: Duration) -> Result<(f64, f64, f64), NcclFault> {
        self.together()?;
        let begin = self.mark(&self.messages)?;
        let timed = |send: &dyn Fn() -> Result<(), NcclFault>| -> Result<Interval, NcclFault> {
            let begin = self.mark(&self.messages)?;
            send()?;
            Ok((begin, self.mark(&self.messages)?))
        };
        let (mut gradients, mut ring) = (Vec::new(), Vec::new());
        for backward in [false, true] {
            for _ in 0..layers {
                let turns = self.turns[usize::from(backward)];
                ring.push(timed(&|| (0..turns).try_for_each(|_| self.send(&self.ring)))?);
                self.send(&self.on_path)?;
                if backward {
                    gradients.push(timed(&|| self.send(&self.gradients))?);
                }
            }
            self.send(&self.stages)?;
        }
        let all = (begin, self.mark(&self.messages)?);
        self.settle(patience)?;
        Ok((seconds(std::slice::from_ref(&all))?, seconds(&gradients)?, seconds(&ring)?))
    }

    /// Seconds of the step's layers with their messages, and of their products among them.
    fn whole(&self, overlap: bool, layers: u64, patience: Duration) -> Result<(f64, f64), NcclFault> {
        let compute = &self.session.stream;
        // What is sent after what was computed, and whether computing waits for it.
        let sent = |after: &Event, all: &[Sent], waits: bool| -> Result<(), NcclFault> {
            if all.is_empty() {
                return Ok(());
            }
            self.messages.wait_for(after)?;
            self.send(all)?;
            if waits {
                compute.wait_for(&self.mark(&self.messages)?)?;
            }
            Ok(())
        };
        self.together()?;
        let begin = self.mark(compute)?;
        let mut passes: Vec<Interval> = Vec::new();
        for backward in [false, true] {
            for _ in 0..layers {
                let begin = self.mark(compute)?;
                self.pass(backward)?;
                let end = self.mark(compute)?;
                (0..self.turns[usize::from(backward)]).try_for_each(|_| sent(&end, &self.ring, true))?;
                sent(&end, &self.on_path, true)?;
                if backward && overlap {
                    sent(&end, &self.gradients, false)?;
                }
                passes.push((begin, end));
            }
            if let Some((_, end)) = passes.last() {
                sent(end, &self.stages, true)?;
            }
        }
        if let Some((_, end)) = passes.last().filter(|_| !overlap) {
            (0..layers).try_for_each(|_| sent(end, &self.gradients, false))?;
        }
        compute.wait_for(&self.mark(&self.messages)?)?;
        let all = (begin, self.mark(compute)?);
        self.settle(patience)?;
        Ok((seconds(std::slice::from_ref(&all))?, seconds(&passes)?))
    }
}

impl Sent {
    fn new(session: &Session, comms: &Comms, message: &Message) -> Result<Self, NcclFault> {
        let place = comms.iter().position(|(by, _)| *by == message.among);
        let comm = place.ok_or_else(|| ProbeError::Broken("a message has no communicator".to_owned()))?;
        let ranks = comms[comm].1.ranks;
        let whole = (message.bytes as usize).div_ceil(4);
        let part = whole.div_ceil(ranks);
        let (count, from, to) = match message.op {
            Collective::AllGather => (part, part, part * ranks),
            Collective::ReduceScatter => (part, part * ranks, part),
            Collective::AllToAll => (part, part * ranks, part * ranks),
            Collective::AllReduce | Collective::Broadcast | Collective::SendReceive => (whole, whole, whole),
        };
        let (from, to) = (session.gpu.alloc(4 * from)?, session.gpu.alloc(4 * to)?);
        // Sums of what memory happens to hold may be slow numbers.
        session.stream.fill(&from, 0)?;
        Ok(Sent { comm, op: message.op, count, from, to })
    }

    fn run(&self, comm: &Comm, stream: &Stream) -> Result<(), crate::sys::nccl::NcclError> {
        let (from, to) = (Span::new(&self.from), Span::new(&self.to));
        match self.op {
            Collective::AllReduce => comm.all_reduce(stream, from, to, self.count),
            Collective::AllGather => comm.all_gather(stream, from, to, self.count),
            Collective::ReduceScatter => comm.reduce_scatter(stream, from, to, self.count),
            Collective::Broadcast => comm.broadcast(stream, from, to, self.count),
            Collective::AllToAll => comm.all_to_all(stream, from, to, self.count),
            Collective::SendReceive => comm.group(|| {
                let (rank, ranks) = (comm.rank, comm.ranks);
                comm.send(stream, from, self.count, (rank + 1) % ranks)?;
                comm.receive(stream, to, self.count, (rank + ranks - 1) % ranks)
            }),
        }
    }
}
