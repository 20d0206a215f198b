//! A check under way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::baseline::Expectation;
use crate::cluster::{GroupOutcome, Launcher, PRESENCE, Shape, Step};
use crate::id::{NodeName, ProbeName};
use crate::judge;
use crate::localise::{self, Plane};
use crate::measure::{Facts, FailKind, Measured, Outcome, WaiveKind};
use crate::plan::{CheckPlan, Tier, Time};
use crate::probe::{self, Means};
use crate::record::{End, Header, OutcomeLine, Record, Spent, Writer};
use crate::schedule::fleet::Fleet;
use crate::schedule::network::{Net, driver_answers};
use crate::schedule::{fit, network};
use crate::topology::Machine;
use crate::work::{Carrier, Case, Fact, Presence, RoundKind, When};

/// Kept of the budget for judging and printing.
pub const RESERVE: Duration = Duration::from_millis(400);
/// Rounds of measuring open cases again.
const ROUNDS: u32 = 3;
/// Pair rounds that the schedule keeps time for: three of all nodes, three to confirm.
const PAIR_ROUNDS: u64 = 6;
/// Steps that say what became of the nodes themselves.
const JOIN: Presence = Presence::Join;
const STAY: Presence = Presence::Stay;

/// Who watches: a progress bar, or nobody.
pub trait Watch {
    fn steps(&self, total: u64);
    fn step(&self, text: &str);
    fn done(&self);
}

/// A check under way on a fleet.
pub struct Schedule<'a, F: Fleet> {
    pub record: Record,
    /// The first write to the record that failed; measuring goes on.
    pub lost: Option<std::io::Error>,
    writer: Option<&'a mut Writer>,
    fleet: &'a mut F,
    watch: &'a dyn Watch,
    started: Instant,
    spent: Vec<Spent>,
}

/// A step as planned, and its parameters where they differ from node to node.
struct Planned {
    step: Step,
    args: HashMap<NodeName, serde_json::Value>,
}

/// What one kind of step has become on machines unlike each other: the name that all share, and where its variants stand.
type Variants = HashMap<String, Vec<usize>>;

impl<'a, F: Fleet> Schedule<'a, F> {
    /// `writer` keeps the record on disk; without one it lives in memory only.
    pub fn new(
        header: Header,
        fleet: &'a mut F,
        writer: Option<&'a mut Writer>,
        watch: &'a dyn Watch,
        started: Instant,
    ) -> Self {
        let mut this =
            Schedule { record: Record::new(header), lost: None, writer, fleet, watch, started, spent: Vec::new() };
        let header = this.record.header.clone();
        this.keep(|w| w.header(&header));
        this
    }

    /// The record, and the first write to it on disk that failed.
    pub fn end(self) -> (Record, Option<std::io::Error>) {
        (self.record, self.lost)
    }

    fn left(&self) -> Duration {
        self.record.header.plan.budget.0.saturating_sub(RESERVE).saturating_sub(self.started.elapsed())
    }

    fn is_cluster(&self) -> bool {
        self.record.header.launcher.is_some()
    }

    /// Everything, to the end of the record. `limits` are what open cases are held against.
    pub fn go(&mut self, limits: &[Expectation]) {
        if self.is_cluster() {
            self.presence(JOIN);
            self.daemons("start");
        }
        let machines = self.discover();
        self.fabric(&machines, When::Before);
        self.absent(&machines);
        let postponed = self.alone(&machines);
        if self.is_cluster() {
            // Who is slow alone is confirmed before the network is looked at: there is time for it now.
            let reserve = self.network_time() + self.end_time(&machines);
            self.again(limits, reserve);
        }
        if self.is_cluster() && self.fleet.nodes().len() > 1 {
            self.together();
            let tcp = Net::host(Plane::TCP);
            self.pairs(&tcp, None);
            let alive = self.fleet.nodes();
            let there: Vec<_> = machines.iter().filter(|(n, _)| alive.contains(n)).cloned().collect();
            self.groups(&tcp, None);
            self.rails(&there);
            self.devices(&there);
            self.nccl(&there);
            self.rehearse(&there);
        }
        for p in postponed {
            self.run_or_waive(p, self.end_time(&machines));
        }
        self.again(limits, self.end_time(&machines));
        self.fabric(&machines, When::After);
        self.gpus(&machines);
        if self.is_cluster() {
            self.fleet.listen();
            self.daemons("end");
            self.presence(STAY);
        }
        let spent = std::mem::take(&mut self.spent);
        let end = End { ended: Timestamp::now(), interrupted: self.fleet.interrupted(), spent };
        self.keep(|w| w.end(&end));
        self.record.end = Some(end);
    }

    /// What became of every node that should be there, as the coordinator sees it.
    fn presence(&mut self, when: Presence) {
        let case = Case::Fact(Fact::Presence(when));
        let step = Step::new(case.to_string(), PRESENCE, vec![case.clone()]);
        let mut known: Vec<(NodeName, String)> = Vec::new();
        for line in &self.record.outcomes {
            if let (true, Outcome::Failed { error, .. }) = (line.probe == PRESENCE, &line.outcome) {
                known.push(((*line.node).clone(), error.clone()));
            }
        }
        self.plan_steps(vec![step.clone()]);
        let node_faults = self.fleet.node_faults();
        // Who asked to join is told with those who did; who called, when nobody calls any more.
        let outsiders = Some(self.fleet.outsiders()).filter(|o| when == JOIN && !o.is_empty());
        let unauthenticated = Some(self.fleet.unauthenticated()).filter(|s| when == STAY && !s.is_empty());
        let mut facts = outsiders.map(Facts::Outsiders).or(unauthenticated.map(Facts::Unauthenticated));
        for node in self.record.header.nodes.clone() {
            let new = |t: &&crate::cluster::NodeFault| {
                t.node == node && !known.iter().any(|(n, e)| *n == t.node && *e == t.error)
            };
            let outcome = match node_faults.iter().find(new) {
                Some(t) => Outcome::error(t.kind, t.error.clone()),
                None if known.iter().any(|(n, _)| *n == node) && when == STAY => {
                    Outcome::waived(WaiveKind::Absent, "it was not part of the run")
                }
                None => Outcome::Measured(Measured { facts: facts.take().map(Box::new), ..Measured::default() }),
            };
            self.write(line(&step, GroupOutcome { node, case: case.clone(), outcome, load: None, blame: None }));
        }
    }

    /// Whether each node's Slurm daemon is there: the launch needs it.
    fn daemons(&mut self, when: &str) {
        let plan = &self.record.header.plan;
        let by_slurm = self.record.header.launcher.as_deref() == Some(Launcher::Slurm.name());
        if by_slurm && plan.wants("environment") && !self.fleet.interrupted() {
            let mut step = probe::launcher_step(plan, when);
            step.shape = Shape::Alone(self.fleet.nodes());
            self.plan_steps(vec![step.clone()]);
            // The look of a moment: it is taken whatever is left of the budget, as the verdict needs it.
            let at_most = Duration::from_secs(2);
            self.run(&Planned { step, args: HashMap::new() }, at_most);
        }
    }

    /// Discovery first: the other steps are planned on the machines that it finds.
    fn discover(&mut self) -> Vec<(NodeName, Machine)> {
        let plan = self.record.header.plan.clone();
        if plan.tier == Tier::Image {
            // An image is not the machine that it is looked at on.
            return self.fleet.nodes().into_iter().map(|n| (n, Machine::default())).collect();
        }
        let looks = probe::find("environment").map(|p| p.steps(&plan, &Machine::default())).unwrap_or_default();
        let wanted = plan.wants("environment");
        let from = self.record.outcomes.len();
        for mut step in looks {
            if self.is_cluster() {
                step.shape = Shape::Alone(self.fleet.nodes());
            }
            let planned = Planned { step, args: HashMap::new() };
            if wanted {
                self.plan_steps(vec![planned.step.clone()]);
            }
            // A budget is a promise; discovery alone may take what it needs, or nothing could be said at all.
            let at_most = planned.step.deadline();
            self.run(&planned, at_most);
        }
        let found: HashMap<NodeName, Machine> = self.record.outcomes[from..]
            .iter()
            .filter_map(|l| Some(((*l.node).clone(), machine_of(&l.outcome)?)))
            .collect();
        self.fleet.nodes().into_iter().map(|n| (n.clone(), found.get(&n).cloned().unwrap_or_default())).collect()
    }

    /// The GPUs once more, on every node whose driver could be asked.
    fn gpus(&mut self, machines: &[(NodeName, Machine)]) {
        let plan = self.record.header.plan.clone();
        let alive = self.fleet.nodes();
        let answered = |(n, m): &&(NodeName, Machine)| alive.contains(n) && driver_answers(m);
        let nodes: Vec<NodeName> = machines.iter().filter(answered).map(|(n, _)| n.clone()).collect();
        if plan.wants("environment") && !nodes.is_empty() && !self.fleet.interrupted() {
            let step = Step { shape: self.alone_on(nodes), ..probe::gpus_step(&plan) };
            self.plan_steps(vec![step.clone()]);
            // Its time was kept; it is taken whatever became of it, as the verdict needs it.
            let at_most = step.deadline();
            self.run(&Planned { step, args: HashMap::new() }, at_most);
        }
    }

    /// The fabric as one node sees it, the first that has a port in it.
    fn fabric(&mut self, machines: &[(NodeName, Machine)], when: When) {
        let plan = self.record.header.plan.clone();
        let alive = self.fleet.nodes();
        let one = |(node, machine): &(NodeName, Machine)| {
            let step = probe::fabric_step(&plan, machine, when).filter(|_| alive.contains(node))?;
            Some(Step { shape: self.alone_on(vec![node.clone()]), ..step })
        };
        // Counters that nobody read before cannot be differenced after.
        let counted = || {
            self.record.outcomes.iter().any(|l| matches!(l.case, Case::Fabric { .. }) && l.outcome.measured().is_some())
        };
        if plan.wants("fabric")
            && (when == When::Before || counted())
            && let Some(step) = machines.iter().find_map(one)
        {
            self.between(step);
        }
    }

    /// Probes that were chosen and that no node has anything for: what they need stands in the record, or it would look cut.
    fn absent(&mut self, machines: &[(NodeName, Machine)]) {
        let plan = self.record.header.plan.clone();
        let nodes = self.fleet.nodes();
        let gpus = network::with_gpus(machines).0;
        let nothing = |p: &&'static dyn probe::Probe| {
            let none = |m: &Machine| match p.name().as_str() {
                "fabric" => probe::fabric_step(&plan, m, When::Before).is_none(),
                // What one node cannot divide by itself all may.
                "rehearsal" => {
                    probe::rehearsal_steps(&plan, &nodes, &Means { cores: 1, gpus, ..Means::default() }).is_empty()
                }
                _ => p.steps(&plan, m).is_empty(),
            };
            p.name().as_str() != "environment"
                && plan.probes.contains(&p.name())
                && machines.iter().all(|(_, m)| none(m))
        };
        let absent: Vec<&'static dyn probe::Probe> = probe::PROBES.iter().copied().filter(nothing).collect();
        if self.fleet.interrupted() {
            return;
        }
        for p in absent {
            let step = Step::new(p.name().as_str(), p.name(), vec![Case::Fact(Fact::Device)]);
            let step = Step { shape: self.alone_on(self.fleet.nodes()), ..step };
            self.plan_steps(vec![step.clone()]);
            let not = if p.absence() == WaiveKind::Absent { "not here" } else { "not asked for; it needs" };
            let why = format!("{not}: {}", p.needs());
            self.waive(&Planned { step, args: HashMap::new() }, p.absence(), &why);
        }
    }

    /// What each node does by itself, planned on its own machine; nodes that do the same do it in one step. What the quick tier
    /// leaves out comes second.
    fn solo_steps(&self, machines: &[(NodeName, Machine)]) -> (Vec<Planned>, Vec<Step>) {
        let plan = &self.record.header.plan;
        let cluster = self.is_cluster() && machines.len() > 1;
        let mut out: Vec<(Planned, Vec<NodeName>)> = Vec::new();
        let mut variants = Variants::new();
        let mut left_out: Vec<(Step, Vec<NodeName>)> = Vec::new();
        for (node, machine) in machines {
            for step in probe::steps(plan, machine) {
                // Between nodes the network itself is measured.
                if matches!(step.probe.as_str(), "environment" | "fabric")
                    || (cluster && (is_loopback(plan, &step) || is_of_all(&step)))
                {
                    continue;
                }
                if is_left_out(plan, machine, &step) {
                    match left_out.iter_mut().find(|(s, _)| s.name == step.name && s.cases == step.cases) {
                        Some((_, nodes)) => nodes.push(node.clone()),
                        None => left_out.push((step, vec![node.clone()])),
                    }
                    continue;
                }
                let of_name = variants.entry(step.name.clone()).or_default();
                match of_name.iter().find(|i| out[**i].0.step.cases == step.cases) {
                    Some(same) => {
                        out[*same].1.push(node.clone());
                        out[*same].0.args.insert(node.clone(), step.args);
                    }
                    None => {
                        let args = HashMap::from([(node.clone(), step.args.clone())]);
                        let name = match of_name.len() {
                            0 => step.name.clone(),
                            others => format!("{}-v{}", step.name, others + 1),
                        };
                        of_name.push(out.len());
                        out.push((Planned { step: Step { name, ..step }, args }, vec![node.clone()]));
                    }
                }
            }
        }
        let planned = |(p, nodes): (Planned, _)| Planned { step: Step { shape: self.alone_on(nodes), ..p.step }, ..p };
        let left = |(step, nodes)| Step { shape: self.alone_on(nodes), ..step };
        (out.into_iter().map(planned).collect(), left_out.into_iter().map(left).collect())
    }

    /// Each of these nodes alone; a machine that is checked alone has no name among others.
    fn alone_on(&self, nodes: Vec<NodeName>) -> Shape {
        if self.is_cluster() { Shape::Alone(nodes) } else { Shape::Each }
    }

    /// Time for the last look at the GPUs: counters that nobody reads at the end prove nothing.
    fn end_time(&self, machines: &[(NodeName, Machine)]) -> Duration {
        let plan = &self.record.header.plan;
        let looks = plan.wants("environment") && machines.iter().any(|(_, m)| driver_answers(m));
        Duration::from_millis(if looks { probe::gpus_step(plan).estimate_ms } else { 0 })
    }

    /// Time that the steps between nodes will take, by their estimates.
    fn network_time(&self) -> Duration {
        let nodes = self.fleet.nodes();
        if !self.is_cluster() || nodes.len() < 2 {
            return Duration::ZERO;
        }
        let plan = &self.record.header.plan;
        let mut pair = probe::pair_step(plan, &Plane::TCP.probe, None);
        pair.shape = Shape::two_by_two(&nodes);
        let turns = u64::from(self.fleet.turns(&pair));
        let mut ms = 1500;
        if plan.wants("checkpoint") {
            ms += probe::checkpoint_steps(plan, &nodes).iter().map(|s| s.estimate_ms).sum::<u64>();
        }
        if plan.wants("rehearsal") {
            ms += probe::rehearsal_steps(plan, &nodes, &Means { cores: 1, ..Means::default() })
                .iter()
                .map(|s| s.estimate_ms)
                .sum::<u64>();
        }
        if plan.wants("tcp") {
            ms += PAIR_ROUNDS * turns * pair.estimate_ms;
        }
        for step in network::collectives(&self.record, plan, &nodes, &Net::host(Plane::TCP)) {
            ms += u64::from(self.fleet.turns(&step)) * step.estimate_ms;
        }
        Duration::from_millis(ms)
    }

    /// What each node does by itself. Returns what the time kept for the network left no room for: that may end early.
    fn alone(&mut self, machines: &[(NodeName, Machine)]) -> Vec<Planned> {
        let (planned, left_out) = self.solo_steps(machines);
        let reserve = self.network_time().min(self.left() * 2 / 3) + self.end_time(machines);
        let turns: Vec<u32> = planned.iter().map(|p| self.fleet.turns(&p.step)).collect();
        let (steps, cut) =
            fit::fit(planned.iter().map(|p| p.step.clone()).collect(), &turns, self.left().saturating_sub(reserve));
        // What was cut is tried last, worthiest first: steps that end early leave their time to it.
        let order: Vec<Step> = steps.into_iter().chain(cut.into_iter().rev()).collect();
        self.plan_steps(order.clone());
        self.watch.steps(order.len() as u64);
        let mut postponed = Vec::new();
        for step in order {
            let Some(p) = planned.iter().find(|p| p.step.name == step.name) else { continue };
            let (turns, left) = (self.fleet.turns(&step), self.left().saturating_sub(reserve));
            let fits = fit::shorten(&mut step.clone(), turns, left);
            let planned = Planned { step, args: p.args.clone() };
            if fits || self.fleet.interrupted() || !self.is_cluster() {
                self.run_or_waive(planned, reserve);
            } else {
                postponed.push(planned);
            }
        }
        // What was chosen and not planned stands in the record with its reason, or it would look lost.
        for step in left_out {
            self.plan_steps(vec![step.clone()]);
            let why = match self.record.header.plan.tier {
                Tier::Node => "left to the other tiers: the host's own loopback says little of a node",
                _ => "left to the standard tier: on a node with GPUs the quick tier measures what they do",
            };
            self.waive(&Planned { step, args: HashMap::new() }, WaiveKind::NotAsked, why);
        }
        postponed
    }

    /// Runs a step if time is left for it beside `reserve`; else says that it was cut.
    fn run_or_waive(&mut self, mut p: Planned, reserve: Duration) {
        let plan = &self.record.header.plan;
        let turns = self.fleet.turns(&p.step);
        if self.fleet.interrupted() {
            self.waive(&p, WaiveKind::Interrupted, "interrupted");
        } else if fit::shorten(&mut p.step, turns, self.left().saturating_sub(reserve)) {
            self.run(&p, self.left());
        } else {
            let why = format!("cut to fit the budget of {}", plan.budget);
            self.waive(&p, WaiveKind::NoTime, &why);
        }
        self.watch.done();
    }

    /// Clocks, and the checkpoint directory: all nodes in one group.
    fn together(&mut self) {
        let plan = self.record.header.plan.clone();
        let clock = plan.wants("environment").then(|| probe::clock_step(&plan));
        // Leaves that nobody told are inferred, where asking all about all is quick.
        let unknown = localise::leaves(&self.record).is_empty()
            && (localise::infer::FEWEST..=localise::MAX_INFERRED).contains(&self.fleet.nodes().len());
        let latency = (unknown && plan.wants("tcp")).then(|| probe::latency_step(&plan));
        let shared = if plan.wants("storage") { probe::shared_step(&plan) } else { None };
        for mut step in [clock, latency, shared].into_iter().flatten() {
            step.shape = Shape::Groups(vec![self.fleet.nodes()]);
            self.between(step);
        }
        if plan.wants("checkpoint") {
            for step in probe::checkpoint_steps(&plan, &self.fleet.nodes()) {
                self.between(step);
            }
        }
    }

    /// A step of the run's training, by all nodes.
    fn rehearse(&mut self, machines: &[(NodeName, Machine)]) {
        let plan = self.record.header.plan.clone();
        // Whoever has fewest cores computes as all do: their times are compared.
        let cores = machines.iter().map(|(_, m)| m.usable_cores()).min().unwrap_or(1);
        let alive = self.fleet.nodes();
        let (gpus, with) = network::with_gpus(machines);
        // A run on GPUs is rehearsed by the nodes that have as many as most.
        let nodes = if gpus > 0 { with.into_iter().filter(|n| alive.contains(n)).collect() } else { alive };
        if plan.wants("rehearsal") && !nodes.is_empty() {
            let devices = if plan.wants("rdma") { network::devices(machines) } else { Vec::new() };
            let means = Means { cores, gpus, device: devices.first().map(String::as_str), ..Means::default() };
            for step in probe::rehearsal_steps(&plan, &nodes, &means) {
                self.between(step);
            }
        }
    }

    /// Plans and runs a step of several nodes.
    fn between(&mut self, step: Step) {
        self.plan_steps(vec![step.clone()]);
        self.run_or_waive(Planned { step, args: HashMap::new() }, Duration::ZERO);
    }

    /// Rounds of pairs until the localiser knows enough, among all nodes or those of `only`.
    fn pairs(&mut self, net: &Net, only: Option<&[NodeName]>) {
        let plan = self.record.header.plan.clone();
        if !plan.wants(net.plane.probe.as_str()) {
            return;
        }
        let mut done: Vec<RoundKind> = Vec::new();
        while let Some((step, kind)) = network::next_pairs(&self.record, &plan, net, &self.alive(only), &done) {
            self.between(step);
            done.push(kind);
        }
    }

    /// The pairs of a network once more, after collectives that were slower than the pairs before them explain: a link that went bad
    /// meanwhile shows. Nothing was promised: without time for it the collectives stay open by themselves.
    fn pairs_late(&mut self, net: &Net, nodes: &[NodeName]) {
        let plan = self.record.header.plan.clone();
        if !plan.wants(net.plane.probe.as_str()) {
            return;
        }
        let late = Net { plane: Plane { late: true, ..net.plane.clone() }, gpus: net.gpus };
        let mut done: Vec<RoundKind> = Vec::new();
        while let Some((step, kind)) = network::next_pairs(&self.record, &plan, &late, &self.alive(Some(nodes)), &done)
        {
            let time = Duration::from_millis(step.estimate_ms) * self.fleet.turns(&step);
            if self.fleet.interrupted() || time > self.left() {
                break;
            }
            self.between(step);
            done.push(kind);
        }
    }

    fn alive(&self, only: Option<&[NodeName]>) -> Vec<NodeName> {
        self.fleet.nodes().into_iter().filter(|n| only.is_none_or(|only| only.contains(n))).collect()
    }

    /// The GPUs of all nodes that have as many as most, by NCCL. Whoever has fewer is named as different.
    fn nccl(&mut self, machines: &[(NodeName, Machine)]) {
        let (gpus, nodes) = network::with_gpus(machines);
        if gpus == 0 {
            return;
        }
        if nodes.len() < 2 {
            return self.unequal(machines, gpus, &nodes);
        }
        self.unequal(machines, gpus, &nodes);
        let net = Net::nccl(gpus);
        // Making a communicator takes seconds: when time is short, one of all nodes says the most.
        if !self.record.header.plan.tier.is_short() {
            self.pairs(&net, Some(&nodes));
        }
        self.groups(&net, Some(&nodes));
    }

    /// Nodes whose GPUs no communicator of all nodes can hold: they have fewer (or more) than most, as programs see them.
    fn unequal(&mut self, machines: &[(NodeName, Machine)], gpus: u32, like: &[NodeName]) {
        let other = |(n, m): &&(NodeName, Machine)| driver_answers(m) && !like.contains(n);
        let others: Vec<(NodeName, usize)> =
            machines.iter().filter(other).map(|(n, m)| (n.clone(), probe::visible_gpus(m).len())).collect();
        if others.is_empty() || !self.record.header.plan.wants("collective") || self.fleet.interrupted() {
            return;
        }
        let nodes = others.iter().map(|(n, _)| n.clone()).collect();
        let (probe, cases) = (ProbeName::new("collective"), vec![Case::Fact(Fact::GpuCount)]);
        let step = Step { shape: Shape::Alone(nodes), ..Step::new("collective-gpu-world", probe, cases) };
        self.plan_steps(vec![step.clone()]);
        for (node, count) in others {
            let error = format!(
                "a program sees {count} GPU(s) here and {gpus} on other nodes: NCCL over all nodes was not measured with this one; \
                 CUDA_VISIBLE_DEVICES, or what the job was granted"
            );
            let (case, outcome) = (step.cases[0].clone(), Outcome::error(FailKind::Error, error));
            self.write(line(&step, GroupOutcome { node, case, outcome, load: None, blame: None }));
        }
    }

    /// Each RDMA device that every node has: pairs, and all-reduce, over the first in all topologies; then all at once.
    fn devices(&mut self, machines: &[(NodeName, Machine)]) {
        let devices = network::devices(machines);
        let plan = self.record.header.plan.clone();
        for (i, device) in devices.iter().enumerate() {
            let plane = Plane::of_carrier(&Carrier::Rdma(device.as_str().into()));
            let net = Net::host(plane);
            self.pairs(&net, None);
            if plan.wants("rdma")
                && let Some(step) = network::gpu_pairs(&plan, device, machines, &self.fleet.nodes())
            {
                self.between(step);
            }
            if i == 0 { self.groups(&net, None) } else { self.rail(&net.plane) }
        }
        if plan.wants("rdma")
            && let Some(step) = network::all_rails(&plan, &devices, &self.fleet.nodes())
        {
            self.between(step);
        }
    }

    /// Each other interface like the one that the control channel uses: pairs, and an all-reduce of all nodes.
    fn rails(&mut self, machines: &[(NodeName, Machine)]) {
        for rail in network::rails(&self.record, machines) {
            let net = Net::host(Plane { rail: Some(rail.clone()), ..Plane::TCP });
            self.pairs(&net, None);
            self.rail(&net.plane);
        }
    }

    fn rail(&mut self, plane: &Plane) {
        let plan = self.record.header.plan.clone();
        let nodes = self.good_nodes(plane);
        if nodes.len() > 1
            && plan.wants("collective")
            && let Some(step) = network::rail_collective(&self.record, &plan, plane, nodes)
        {
            self.between(step);
        }
    }

    /// Survivors only: a node that is slow by itself makes every group slow, and is found already.
    fn good_nodes(&self, plane: &Plane) -> Vec<NodeName> {
        let bad = network::bad_nodes(&self.record, plane);
        self.fleet.nodes().into_iter().filter(|n| !bad.contains(n)).collect()
    }

    fn groups(&mut self, net: &Net, only: Option<&[NodeName]>) {
        let plan = self.record.header.plan.clone();
        let mut nodes = self.good_nodes(&net.plane);
        nodes.retain(|n| only.is_none_or(|only| only.contains(n)));
        let mut steps = network::collectives(&self.record, &plan, &nodes, net);
        if net.gpus > 0 && plan.tier.is_short() {
            steps.drain(..steps.len().saturating_sub(1));
        }
        let from = self.record.outcomes.len();
        for step in steps {
            self.between(step);
        }
        let share = self.fleet.turns(&Step { shape: Shape::two_by_two(&nodes), ..net.pair_step(&plan) }) > 1;
        if network::fell_behind(&self.record, from, net, share) {
            self.pairs_late(net, &nodes);
        }
        while let Some(step) = network::next_halving(&self.record, &plan, &self.alive(only), net) {
            // Nothing was promised: without time for it, the group stays named whole.
            let time = Duration::from_millis(step.estimate_ms) * self.fleet.turns(&step);
            if self.fleet.interrupted() || time > self.left() {
                break;
            }
            self.between(step);
        }
    }

    fn plan_steps(&mut self, steps: Vec<Step>) {
        self.keep(|w| w.steps(&steps));
        self.record.steps.extend(steps);
    }

    /// Open cases again, with more time each, while the budget lasts.
    fn again(&mut self, limits: &[Expectation], reserve: Duration) {
        for round in 1..=ROUNDS {
            if self.fleet.interrupted() {
                return;
            }
            let open = judge::judge(&self.record, &self.record.header.plan.run, limits).open_cases();
            let alive = self.fleet.nodes();
            let mut again: Vec<Planned> = Vec::new();
            for s in self.record.steps.iter().filter(|s| s.is_solo()) {
                let mut cases: Vec<Case> = Vec::new();
                let mut nodes: Vec<NodeName> = Vec::new();
                for o in open.iter().filter(|o| o.step == s.name && alive.contains(&o.node)) {
                    if !cases.contains(&o.case) {
                        cases.push(o.case.clone());
                    }
                    if !nodes.contains(&o.node) {
                        nodes.push(o.node.clone());
                    }
                }
                if !cases.is_empty() {
                    let cases: Vec<Case> = s.cases.iter().filter(|c| cases.contains(c)).cloned().collect();
                    let asked = probe::find(s.probe.as_str()).and_then(|p| p.again_ms(s, &cases));
                    let step =
                        Step { attempt: round + 1, shape: self.alone_on(nodes), ..fit::again(s, cases, 2, asked) };
                    again.push(Planned { step, args: HashMap::new() });
                }
            }
            if again.is_empty() {
                return;
            }
            let mut ran = false;
            for p in again {
                let turns = self.fleet.turns(&p.step);
                let left = self.left().saturating_sub(reserve);
                if Duration::from_millis(p.step.estimate_ms) * turns < left && !self.fleet.interrupted() {
                    self.watch.step(&format!("{} again: {} open", p.step.name, p.step.cases.len()));
                    self.run(&p, left);
                    ran = true;
                }
            }
            if !ran {
                return;
            }
        }
    }

    fn run(&mut self, p: &Planned, at_most: Duration) {
        let text = format!("{} ({})", p.step.name, Time(Duration::from_millis(p.step.estimate_ms)));
        self.watch.step(&text);
        let mut got = Vec::new();
        let began = Instant::now();
        let (writer, lost, watch) = (&mut self.writer, &mut self.lost, self.watch);
        let args = |node: &NodeName| p.args.get(node).cloned();
        self.fleet.run(&p.step, &args, at_most, &mut |o| {
            watch.step(&format!("{}: {}", p.step.name, o.case));
            let line = line(&p.step, o);
            if let Some(Err(error)) = writer.as_mut().map(|w| w.outcome(&line)) {
                lost.get_or_insert(error);
            }
            got.push(line);
        });
        self.record.outcomes.extend(got);
        self.spend(&p.step.probe, began.elapsed());
    }

    /// Counts time that a step took; a simulation's is not its nodes'.
    fn spend(&mut self, probe: &ProbeName, time: Duration) {
        let ms = time.as_millis() as u64;
        match self.spent.iter_mut().find(|s| s.probe == *probe) {
            _ if !self.fleet.takes_time() => {}
            Some(known) => known.ms += ms,
            None => self.spent.push(Spent { probe: probe.clone(), ms }),
        }
    }

    fn waive(&mut self, p: &Planned, kind: WaiveKind, why: &str) {
        let alive = self.fleet.nodes();
        let each = if p.step.shape == Shape::Each { alive.as_slice() } else { &[] };
        for group in each.iter().map(std::slice::from_ref).chain(p.step.groups()) {
            // What a lost node did not do any more is not for lack of time.
            let lost = group.iter().find(|n| !alive.contains(n)).cloned();
            let why = lost.as_ref().map_or_else(|| why.to_owned(), |n| format!("{n} was lost before it"));
            for case in &p.step.cases {
                let (node, outcome) = (group[0].clone(), Outcome::waived(kind, why.clone()));
                let case = case.clone();
                self.write(line(&p.step, GroupOutcome { node, case, outcome, load: None, blame: lost.clone() }));
            }
        }
    }

    fn write(&mut self, line: OutcomeLine) {
        self.keep(|w| w.outcome(&line));
        self.record.outcomes.push(line);
    }

    fn keep(&mut self, write: impl FnOnce(&mut Writer) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.writer.as_mut().map(|w| write(w)) {
            self.lost.get_or_insert(error);
        }
    }
}

/// What all nodes do together where there are several.
fn is_of_all(step: &Step) -> bool {
    matches!(step.probe.as_str(), "checkpoint" | "rehearsal")
}

/// A host's own loopback in the quick tier.
fn is_loopback(plan: &CheckPlan, step: &Step) -> bool {
    plan.tier.is_short() && matches!(step.probe.as_str(), "tcp" | "collective") && step.rail.is_none()
}

/// What the quick tier leaves to a longer one on a node with GPUs, where what they do counts first, and the node tier on every node; unless
/// somebody asks for it.
fn is_left_out(plan: &CheckPlan, machine: &Machine, step: &Step) -> bool {
    (driver_answers(machine) || plan.tier == Tier::Node)
        && is_loopback(plan, step)
        && !plan.asks_for(step.probe.as_str())
}

/// The machine in an outcome of discovery.
pub fn machine_of(outcome: &Outcome) -> Option<Machine> {
    match outcome.measured()?.facts.as_deref()? {
        Facts::Machine(m) => Some((**m).clone()),
        _ => None,
    }
}

/// The steps that a plan makes for one machine, as fitted to its budget: for showing.
pub fn preview(plan: &CheckPlan, machine: &Machine) -> (Vec<Step>, Vec<Step>) {
    let mut steps = probe::steps(plan, machine);
    steps.retain(|s| !is_left_out(plan, machine, s));
    let turns = vec![1; steps.len()];
    fit::fit(steps, &turns, plan.budget.0.saturating_sub(RESERVE))
}

fn line(step: &Step, o: GroupOutcome) -> OutcomeLine {
    OutcomeLine {
        blame: o.blame.map(Box::new),
        node: o.node.into(),
        step: step.name.as_str().into(),
        probe: step.probe.clone(),
        case: o.case,
        attempt: step.attempt,
        load: o.load.map(Box::new),
        outcome: o.outcome,
    }
}
