//! A trainer that saves, a hot and a cold place, and a watch between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{Dir, Done, Result, done};

/// Bytes of a file of a save; which save and rank it is of decides all of them.
pub fn content(step: u64, rank: u64, bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(step * 1000 + rank);
    let mut out = vec![0u8; bytes];
    rng.fill(&mut out);
    out
}

/// Saves as GPT-NeoX does: a file a rank, then the pointer.
pub struct Trainer {
    pub dir: PathBuf,
    pub ranks: u64,
    pub bytes: usize,
}

impl Trainer {
    pub fn new(dir: PathBuf, ranks: u64, bytes: usize) -> Self {
        Trainer { dir, ranks, bytes }
    }

    pub fn save(&self, step: u64) -> std::io::Result<()> {
        let folder = self.dir.join(format!("global_step{step}"));
        fs::create_dir_all(&folder)?;
        for rank in 0..self.ranks {
            let path = folder.join(format!("mp_rank_{rank:02}_model_states.pt"));
            fs::write(path, content(step, rank, self.bytes))?;
        }
        fs::write(self.dir.join("latest"), format!("global_step{step}"))
    }

    /// Several, apart in time.
    pub fn saves(&self, steps: &[u64]) -> std::io::Result<()> {
        steps.iter().try_for_each(|step| {
            self.save(*step)?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        })
    }

    /// Whether a save lies whole in a place.
    pub fn is_whole(&self, place: &Path, name: &str, step: u64) -> bool {
        let file = |rank: u64| place.join(name).join(format!("mp_rank_{rank:02}_model_states.pt"));
        (0..self.ranks).all(|r| fs::read(file(r)).is_ok_and(|got| got == content(step, r, self.bytes)))
    }

    /// A save is nowhere partial under its own name, and somewhere whole.
    pub fn assert_kept(&self, cold: &Path, step: u64, when: &str) {
        let name = format!("global_step{step}");
        let whole = [&self.dir, cold].map(|p| self.is_whole(p, &name, step));
        let aside = fs::read_dir(&self.dir).into_iter().flatten().flatten().any(|e| {
            let file = e.file_name().to_string_lossy().into_owned();
            file.starts_with(".gonogo-moved.")
                && file.ends_with(&format!(".{name}"))
                && self.is_whole(&self.dir, &file, step)
        });
        assert!(whole.contains(&true) || aside, "{name} is lost, {when}");
        assert!(!cold.join(&name).exists() || whole[1], "{name} is partial in the cold place, {when}");
        assert!(!self.dir.join(&name).exists() || whole[0], "{name} is partial in the hot place, {when}");
    }
}

/// A hot and a cold place with a plan that moves at once whatever is complete.
pub struct Lab {
    pub dir: Dir,
    pub hot: PathBuf,
    pub cold: PathBuf,
}

impl Lab {
    pub fn new(watch: &str) -> Result<Self> {
        let dir = Dir::new()?;
        let (hot, cold) = (dir.path("hot"), dir.path("cold"));
        fs::create_dir(&hot)?;
        fs::create_dir(&cold)?;
        let lab = Lab { dir, hot, cold };
        lab.plan("", &format!("cold = {:?}\nhigh = 0.000001\nlow = 0.000001\n{watch}", lab.cold))?;
        Ok(lab)
    }

    pub fn plan(&self, checkpoint: &str, watch: &str) -> Result {
        let text = format!("[checkpoint]\ndir = {:?}\n{checkpoint}\n[watch]\nevery = \"0.02s\"\n{watch}\n", self.hot);
        Ok(fs::write(self.dir.path("run.toml"), text)?)
    }

    pub fn command(&self) -> Command {
        self.dir.command(&["watch", "--plan", "run.toml", "--quiet", "--out", "out"])
    }

    pub fn start(&self) -> Result<Watching> {
        let child = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Watching(Some(child)))
    }

    pub fn trainer(&self, ranks: u64, bytes: usize) -> Trainer {
        Trainer::new(self.hot.clone(), ranks, bytes)
    }

    pub fn journal(&self) -> String {
        fs::read_to_string(self.dir.path("out/journal.jsonl")).unwrap_or_default()
    }

    /// The record as JSON, by `gonogo report`.
    pub fn report(&self) -> Result<serde_json::Value> {
        let done = self.dir.run(&["report", "out", "--format", "json"])?;
        Ok(serde_json::from_str(&done.out).map_err(|e| format!("{e}: {}{}", done.out, done.err))?)
    }
}

/// A watch that runs; killed when nobody needs it.
pub struct Watching(pub Option<Child>);

impl Watching {
    pub fn signal(&self, signal: rustix::process::Signal) -> Result {
        let pid = self.0.as_ref().and_then(|c| rustix::process::Pid::from_raw(c.id() as i32)).ok_or("no process")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    pub fn end(mut self) -> Result<Done> {
        self.signal(rustix::process::Signal::TERM)?;
        self.wait()
    }

    pub fn wait(&mut self) -> Result<Done> {
        Ok(done(self.0.take().ok_or("no process")?.wait_with_output()?))
    }

    pub fn kill(mut self) -> Result {
        let mut child = self.0.take().ok_or("no process")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
