//! The rehearsal on hosts: one rank a node, products by its cores in f32, messages over TCP or RDMA.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::measure::{RankSteps, stats};
use crate::plan::{Dimension, Message, Product, Training, World};
use crate::probe::ProbeError;
use crate::probe::collective::cost::{self, Algorithm, Link};
use crate::probe::collective::mesh::Mesh;
use crate::probe::collective::verify::Buffers;
use crate::probe::collective::{Port, connect, neighbours, tune};
use crate::probe::rehearsal::fit::fit;
use crate::probe::rehearsal::{Args, NOTHING_FITS, PASSES, RankReport, rounds, tell, waive};
use crate::sys::gemm::multiply_of;
use crate::sys::pages::huge_vec;

/// The most memory that a rank's matrices may take, bytes.
const MOST_MEMORY: f64 = 256.0 * 1024.0 * 1024.0;
/// What a host's rate is tried with: a product of this order, for so long.
const TRIAL: u64 = 256;
const TRIAL_TIME: Duration = Duration::from_millis(60);

pub(super) fn run(child: &mut Child, args: &Args) -> Result<(), ProbeError> {
    let (rank, ranks) = (child.rank, child.ranks);
    let port = args.device.as_deref().map(Port::of).transpose()?;
    let before = port.as_ref().map(Port::counters);
    let (mut mesh, link) = if ranks > 1 {
        let mut mesh = connect(child, args.threads + 1, port.as_ref(), &talks(args.training.world))?;
        let link = tune(child, &mut mesh)?;
        (Some(mesh), link)
    } else {
        (None, Link { latency: 0.0, per_byte: 0.0 })
    };
    // All decide alike, by the middle of what all computed.
    let rates = child.exchange(&rate(args.threads))?.all(child)?;
    let rate = stats::median(&rates).max(1.0);
    let budget = child.share(1).as_secs_f64();
    let Some(fit) = fit(&args.training, rate, link, (budget / PASSES, MOST_MEMORY)) else {
        return waive(child, args, NOTHING_FITS.to_owned());
    };
    let training = args.training.narrowed(fit.narrow);
    let mut products = Products::new(&training.products, args.threads);
    let mut messages = Messages::new(&training, rank, link, child.step.seed);
    // Once to warm up, and to see how long it takes.
    let start = Instant::now();
    round(mesh.as_mut(), &mut products, &mut messages, &training, fit.layers, &mut RankSteps::default())?;
    let mut wrong = messages.wrong();
    let rounds = match rounds(child, start.elapsed().as_secs_f64(), budget)? {
        Ok(rounds) => rounds,
        Err(why) => return waive(child, args, why),
    };
    let mut times = RankSteps::default();
    for _ in 0..rounds {
        round(mesh.as_mut(), &mut products, &mut messages, &training, fit.layers, &mut times)?;
    }
    wrong += messages.wrong();
    let node = child.members.get(rank as usize).cloned();
    let counters = port.zip(before).and_then(|(port, before)| port.moved(&before, child));
    let own = RankReport { times: RankSteps { node, ..times }, wrong, counters };
    let all = child.exchange(&own)?;
    if rank > 0 {
        return Ok(());
    }
    let all = all.all(child)?;
    let threads = if args.threads == 1 { "thread" } else { "threads" };
    tell(child, args, fit, all, (format!("f32 on {} {threads} of each host", args.threads), None))
}

/// Whether two ranks ever talk: in rings of their groups, in all-to-alls of experts, in barriers.
fn talks(world: World) -> impl Fn(usize, usize) -> bool {
    let any = neighbours(world.ranks() as usize);
    move |a: usize, b: usize| {
        let in_group = |by: Dimension| {
            let group = world.group(by, a as u32);
            let place = |rank: usize| group.iter().position(|g| *g as usize == rank);
            let (Some(x), Some(y)) = (place(a), place(b)) else { return false };
            let n = group.len();
            by == Dimension::Expert
                || (x + n - y) % n == 1
                || (y + n - x) % n == 1
                || (x ^ y).is_power_of_two()
                || x.abs_diff(y) == 1 << n.ilog2()
        };
        any(a, b) || Dimension::ALL.into_iter().any(in_group)
    }
}

/// Operations a second of this host, by a small product.
fn rate(threads: usize) -> f64 {
    let product = Product { m: TRIAL, n: TRIAL, k: TRIAL, times: 1 };
    let mut products = Products::new(&[product], threads);
    let (start, mut done) = (Instant::now(), 0u32);
    while done < 3 || start.elapsed() < TRIAL_TIME {
        products.run(false);
        done += 1;
    }
    product.flops() * f64::from(done) / start.elapsed().as_secs_f64()
}

/// The products of a layer, and matrices large enough for any of them.
struct Products {
    forward: Vec<Product>,
    backward: Vec<Product>,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    threads: usize,
}

impl Products {
    fn new(forward: &[Product], threads: usize) -> Self {
        let backward: Vec<Product> = forward.iter().flat_map(Product::backward).collect();
        let most =
            |size: &dyn Fn(&Product) -> u64| forward.iter().chain(&backward).map(size).max().unwrap_or(0) as usize;
        let mut rng = fastrand::Rng::with_seed(7);
        let mut random = |len: usize| {
            let mut m = huge_vec(len, 0.0f32);
            m.fill_with(|| rng.f32() - 0.5);
            m
        };
        let (a, b) = (random(most(&|p| p.m * p.k)), random(most(&|p| p.k * p.n)));
        let c = huge_vec(most(&|p| p.m * p.n), 0.0f32);
        Products { forward: forward.to_vec(), backward, a, b, c, threads }
    }

    /// Seconds that the products of a pass take.
    fn run(&mut self, backward: bool) -> f64 {
        let start = Instant::now();
        for p in if backward { &self.backward } else { &self.forward } {
            let [m, n, k] = [p.m, p.n, p.k].map(|v| v as usize);
            for _ in 0..p.times {
                multiply_of([m, n, k], &self.a[..m * k], &self.b[..k * n], &mut self.c[..m * n], self.threads);
            }
        }
        start.elapsed().as_secs_f64()
    }
}

/// One message, among whom, by which algorithm.
struct Sent {
    members: Vec<u32>,
    buffers: Buffers,
    algorithm: Algorithm,
}

/// What a rank sends in a step.
struct Messages {
    on_path: Vec<Sent>,
    /// What goes round, and how often forward and backward.
    ring: Option<(Sent, [u64; 2])>,
    stages: Vec<Sent>,
    gradients: Vec<Sent>,
}

impl Messages {
    fn new(training: &Training, rank: u32, link: Link, seed: u64) -> Self {
        let sent = |m: &Message| {
            let members = training.world.group(m.among, rank);
            let place = members.iter().position(|r| *r == rank).unwrap_or(0) as u32;
            let ranks = members.len() as u32;
            let algorithm = cost::choose(m.op, ranks, m.bytes as usize, link);
            Sent { buffers: Buffers::new(m.op, place, ranks, m.bytes as usize, seed), members, algorithm }
        };
        Messages {
            on_path: training.on_path.iter().map(sent).collect(),
            ring: training.ring.map(|r| (sent(&r.message), r.times())),
            stages: training.between_stages.iter().map(sent).collect(),
            gradients: training.gradients.iter().map(sent).collect(),
        }
    }

    fn send(&mut self, mesh: &mut Mesh, what: Wish) -> Result<(), ProbeError> {
        let of = match what {
            Wish::OnPath => &mut self.on_path,
            Wish::Ring { backward } => {
                let Some((s, turns)) = &mut self.ring else { return Ok(()) };
                let mut turn = || mesh.among(&s.members, |mesh| s.buffers.run(mesh, s.algorithm));
                return (0..turns[usize::from(backward)]).try_for_each(|_| turn());
            }
            Wish::Stages => &mut self.stages,
            Wish::Gradients => &mut self.gradients,
        };
        of.iter_mut().try_for_each(|s| mesh.among(&s.members, |mesh| s.buffers.run(mesh, s.algorithm)))
    }

    /// Elements that came out wrong, of what was sent last.
    fn wrong(&mut self) -> usize {
        [&mut self.on_path, &mut self.stages, &mut self.gradients]
            .into_iter()
            .flatten()
            .chain(self.ring.as_mut().map(|(s, _)| s))
            .map(|s| s.buffers.wrong())
            .sum()
    }
}

/// What computing wants sent. All ranks want the same in the same order, and the wire serves them in it: no two can wait for each other.
#[derive(Debug, Clone, Copy)]
enum Wish {
    /// Computing waits for it.
    OnPath,
    Ring {
        backward: bool,
    },
    Stages,
    /// Goes beside computing.
    Gradients,
}

/// Computing alone, messages alone, both: one of each.
fn round(
    mesh: Option<&mut Mesh>,
    products: &mut Products,
    messages: &mut Messages,
    training: &Training,
    layers: u64,
    times: &mut RankSteps,
) -> Result<(), ProbeError> {
    let compute = |products: &mut Products| {
        let pass = |_| products.run(false) + products.run(true);
        (0..layers).map(pass).sum::<f64>()
    };
    let Some(mesh) = mesh else {
        let (alone, whole) = (compute(products), compute(products));
        times.alone.push(alone);
        times.whole.push(whole);
        times.beside.push(whole);
        return Ok(());
    };
    mesh.barrier()?;
    times.alone.push(compute(products));
    mesh.barrier()?;
    let (start, mut gradients, mut ring) = (Instant::now(), 0.0, 0.0);
    let mut timed = |mesh: &mut Mesh, what: Wish| -> Result<f64, ProbeError> {
        let start = Instant::now();
        messages.send(mesh, what)?;
        Ok(start.elapsed().as_secs_f64())
    };
    for backward in [false, true] {
        for _ in 0..layers {
            ring += timed(mesh, Wish::Ring { backward })?;
            timed(mesh, Wish::OnPath)?;
            if backward {
                gradients += timed(mesh, Wish::Gradients)?;
            }
        }
        timed(mesh, Wish::Stages)?;
    }
    times.communication.push(start.elapsed().as_secs_f64());
    times.gradients.push(gradients);
    if training.ring.is_some() {
        times.ring.push(ring);
    }
    mesh.barrier()?;
    let start = Instant::now();
    times.beside.push(whole(mesh, products, messages, training.overlap, layers)?);
    times.whole.push(start.elapsed().as_secs_f64());
    Ok(())
}

/// A step's layers forward and backward, with their messages. Returns the seconds of its products.
fn whole(
    mesh: &mut Mesh,
    products: &mut Products,
    messages: &mut Messages,
    overlap: bool,
    layers: u64,
) -> Result<f64, ProbeError> {
    let waits = Waits {
        ring: messages.ring.is_some(),
        on_path: !messages.on_path.is_empty(),
        stages: !messages.stages.is_empty(),
    };
    thread::scope(|scope| {
        let (wish, wishes) = channel();
        let (done, dones) = channel();
        let computing = scope.spawn(move || compute(products, overlap, layers, waits, &wish, &dones));
        for what in wishes {
            messages.send(mesh, what)?;
            // A rank whose computing has ended has nobody to tell.
            if !matches!(what, Wish::Gradients) && done.send(()).is_err() {
                break;
            }
        }
        computing.join().map_err(|_| ProbeError::Broken("a thread panicked".to_owned()))
    })
}

/// What there is to wait for.
#[derive(Clone, Copy)]
struct Waits {
    ring: bool,
    on_path: bool,
    stages: bool,
}

/// The computing side: says what is to be sent, and waits where its next product needs it. Ends early where nobody sends any more.
fn compute(
    products: &mut Products,
    overlap: bool,
    layers: u64,
    waits: Waits,
    wish: &Sender<Wish>,
    dones: &Receiver<()>,
) -> f64 {
    let wait = |what: Wish| wish.send(what).is_ok() && dones.recv().is_ok();
    let mut busy = 0.0;
    for backward in [false, true] {
        for _ in 0..layers {
            busy += products.run(backward);
            if waits.ring && !wait(Wish::Ring { backward }) || waits.on_path && !wait(Wish::OnPath) {
                return busy;
            }
            if backward && overlap && wish.send(Wish::Gradients).is_err() {
                return busy;
            }
        }
        if waits.stages && !wait(Wish::Stages) {
            return busy;
        }
    }
    if !overlap {
        // Nobody waits for what is sent when all is computed but the step's end, which the other side sees.
        let _ = (0..layers).try_for_each(|_| wish.send(Wish::Gradients));
    }
    busy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::RunPlan;

    fn plan(text: &str) -> RunPlan {
        crate::plan::parse(std::path::Path::new("p"), text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn training(text: &str, ranks: u32) -> Training {
        let Some(Ok(training)) = Training::of(&plan(text), ranks) else { panic!("{text}") };
        training
    }

    const SMALL: &str = "[model]\nlayers = 6\nhidden = 128\nffn = 512\nheads = 4\nvocab = 1000\nsequence = 64\n";

    #[test]
    fn a_rank_alone_times_its_products() {
        let t = training(SMALL, 1);
        let (mut products, mut messages) =
            (Products::new(&t.products, 1), Messages::new(&t, 0, Link { latency: 0.0, per_byte: 0.0 }, 1));
        let mut times = RankSteps::default();
        for _ in 0..3 {
            assert!(round(None, &mut products, &mut messages, &t, 2, &mut times).is_ok());
        }
        assert_eq!((times.alone.len(), times.whole.len(), times.communication.len()), (3, 3, 0));
        assert!(times.alone.iter().all(|s| *s > 0.0) && messages.wrong() == 0);
    }

    #[test]
    fn whoever_shares_a_message_has_a_connection() {
        let world = World { tp: 2, cp: 5, dp: 12, pp: 2, ep: 4 };
        let with = talks(world);
        for rank in 0..world.ranks() {
            for by in [Dimension::Data, Dimension::Context] {
                let group = world.group(by, rank);
                let at = group.iter().position(|r| *r == rank).unwrap_or(0);
                assert!(with(rank as usize, group[(at + 1) % group.len()] as usize), "{by:?}");
            }
            assert!(
                world.group(Dimension::Expert, rank).iter().all(|r| *r == rank || with(rank as usize, *r as usize))
            );
            assert!((0..world.ranks() as usize).all(|b| with(rank as usize, b) == with(b, rank as usize)));
        }
    }
}
