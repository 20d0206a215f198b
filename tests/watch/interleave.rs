//! Saves, crashes, resumes, rewinds and a watch that comes, goes and is killed, in any order: after each, nothing is lost and nothing
//! partial bears a final name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::lab::{Lab, Watching, content};
use crate::run::Result;

const RANKS: u64 = 2;
const EVERY: u64 = 500;
/// Checkpoints that stay, unless the plan says otherwise.
const KEPT: usize = 2;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A whole save of the next step.
    Save,
    /// The first rank's file of the next.
    Half,
    /// The run dies, and goes on from its last save.
    Crash,
    /// It goes on from so many saves before.
    Rewind(u64),
    Start,
    Kill,
    Stop,
    Wait(u64),
}

/// What the trainer wrote: each step's versions, by the bytes of a file.
struct World {
    lab: Lab,
    watch: Option<Watching>,
    /// The step that the pointer names.
    latest: u64,
    next: u64,
    version: usize,
    /// Versions of a step that were complete and that nobody but the watch had a right to take away.
    kept: BTreeMap<u64, Vec<usize>>,
    trace: Vec<Op>,
}

fn name(step: u64) -> String {
    format!("global_step{step}")
}

fn file(rank: u64) -> String {
    format!("mp_rank_{rank:02}_model_states.pt")
}

fn is_whole(folder: &Path, step: u64, bytes: usize) -> bool {
    (0..RANKS).all(|r| fs::read(folder.join(file(r))).is_ok_and(|got| got == content(step, r, bytes)))
}

/// Where that version lies whole: under its name, one that was put aside, or one of gonogo's own while it goes.
fn lies(place: &Path, step: u64, bytes: usize) -> bool {
    let own = name(step);
    let of_step = |file: &str| {
        file == own
            || file.starts_with(&format!("{own}."))
            || file.starts_with(".gonogo-") && file.ends_with(&format!(".{own}"))
    };
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.filter(|e| of_step(&e.file_name().to_string_lossy())).any(|e| is_whole(&e.path(), step, bytes))
}

impl World {
    fn new() -> Result<Self> {
        let lab = Lab::new("")?;
        let (latest, next, version) = (0, EVERY, 20_000);
        Ok(World { lab, watch: None, latest, next, version, kept: BTreeMap::new(), trace: Vec::new() })
    }

    /// The files of the next step up to a rank; what lay there under its name is the trainer's to overwrite.
    fn write(&mut self, ranks: u64) -> Result {
        let (step, folder) = (self.next, self.lab.hot.join(name(self.next)));
        if folder.exists() {
            // Only what is in the cold place by now is beyond the trainer's reach.
            let cold = &self.lab.cold;
            self.kept.entry(step).or_default().retain(|bytes| lies(cold, step, *bytes));
            let _ = fs::remove_dir_all(&folder);
        }
        for rank in 0..ranks {
            // As every rank does before it writes.
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(file(rank)), content(step, rank, self.version))?;
        }
        Ok(())
    }

    fn apply(&mut self, op: Op) -> Result {
        self.trace.push(op);
        match op {
            Op::Save => {
                self.write(RANKS)?;
                fs::write(self.lab.hot.join("latest"), name(self.next))?;
                self.kept.entry(self.next).or_default().push(self.version);
                (self.latest, self.next) = (self.next, self.next + EVERY);
            }
            Op::Half => self.write(1)?,
            Op::Crash => (self.next, self.version) = (self.latest + EVERY, self.version + 1000),
            Op::Rewind(saves) => {
                let from = self.latest.saturating_sub(saves * EVERY);
                (self.next, self.version) = (from + EVERY, self.version + 1000);
            }
            Op::Start if self.watch.is_none() => self.watch = Some(self.lab.start()?),
            Op::Kill => self.watch.take().map_or(Ok(()), Watching::kill)?,
            Op::Stop => {
                if let Some(watch) = self.watch.take() {
                    let done = watch.end()?;
                    // Before it listens to signals, one ends it as any process.
                    assert!((-1..=2).contains(&done.code), "{}: {}", self.told(), done.err);
                }
            }
            Op::Wait(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Op::Start => {}
        }
        Ok(())
    }

    fn told(&self) -> String {
        format!("after {:?}", self.trace)
    }

    /// While a checkpoint goes from place to place a look may pass it by: three in a row do not.
    fn holds(&self, what: &str, mut look: impl FnMut() -> bool) {
        let mut tried = 0;
        while !look() {
            tried += 1;
            assert!(tried < 5, "{what}, {}\n{}", self.told(), self.lab.journal());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn check(&self) {
        let Lab { hot, cold, .. } = &self.lab;
        for (step, versions) in &self.kept {
            for bytes in versions {
                let there = || lies(hot, *step, *bytes) || lies(cold, *step, *bytes);
                self.holds(&format!("a version of {step} ({bytes}) is lost"), there);
            }
            // Under the name itself, in the cold place, lies a version that was complete once.
            let proper = || {
                let folder = cold.join(name(*step));
                !folder.exists() || (20_000..=self.version).step_by(1000).any(|b| is_whole(&folder, *step, b))
            };
            self.holds(&format!("{step} is partial in the cold place"), proper);
        }
        if let Some(newest) = self.kept.get(&self.latest).and_then(|v| v.last()) {
            // Unless it is being written again at this moment.
            let here = || self.next == self.latest || is_whole(&hot.join(name(self.latest)), self.latest, *newest);
            self.holds(&format!("the newest, {}, is not where the run looks for it", self.latest), here);
        }
    }
}

fn any(rng: &mut fastrand::Rng) -> Op {
    match rng.u32(0..20) {
        0..=6 => Op::Save,
        7 => Op::Half,
        8 => Op::Crash,
        9..=10 => Op::Rewind(rng.u64(1..4)),
        11..=13 => Op::Start,
        14..=15 => Op::Kill,
        16 => Op::Stop,
        _ => Op::Wait(rng.u64(5..150)),
    }
}

/// `GONOGO_INTERLEAVINGS=1000` tries more, from `GONOGO_SEED` on.
#[test]
fn in_any_order_nothing_is_lost() -> Result {
    let of = |name: &str, usual: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let first = of("GONOGO_SEED", 1);
    let (mut moved, mut replaced) = (0, 0);
    for seed in first..first + of("GONOGO_INTERLEAVINGS", 8) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new()?;
        world.apply(Op::Start)?;
        for _ in 0..16 {
            let op = any(&mut rng);
            world.apply(op).map_err(|e| format!("seed {seed}: {e}, {}", world.told()))?;
            world.check();
        }
        // At rest: whatever is not among the newest, and complete, has gone; and a watch finds nothing left half-done.
        for op in [Op::Save, Op::Save, Op::Start, Op::Wait(400), Op::Stop] {
            world.apply(op)?;
        }
        world.check();
        let complete = |step: &u64| {
            let versions = world.kept.get(step).map(Vec::as_slice).unwrap_or_default();
            versions.iter().any(|bytes| is_whole(&world.lab.hot.join(name(*step)), *step, *bytes))
        };
        let here = world.kept.keys().filter(|step| complete(step)).count();
        assert!(here >= KEPT, "seed {seed}: {here} of the newest are left, {}", world.told());
        moved += world.lab.journal().matches("\"moved\"").count();
        let names = fs::read_dir(&world.lab.cold)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        replaced += names.filter(|n| n.contains(".replaced-")).count();
    }
    println!("{moved} moved, {replaced} put aside for a later version");
    assert!(moved > 0, "nothing was tried");
    Ok(())
}
