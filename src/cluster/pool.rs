//! The node's GPU processes, between steps.
//!
//! Making a context, loading the libraries and asking the driver take seconds on a node with eight GPUs: a process keeps them for
//! the next step. Whoever fails is not given back, and the next step starts another.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Instant;

use crate::cluster::process::{Event, LEAVE, Process};

type Job = Box<dyn FnOnce() + Send>;

/// Processes that wait for work, by place.
#[derive(Default)]
pub(super) struct Pool {
    idle: Vec<Option<Process>>,
    spawner: Option<Sender<Job>>,
}

impl Pool {
    /// The process of that place, or a new one where there is none that lives. It leaves the pool until it is given back.
    pub fn take(
        &mut self,
        place: u32,
        events: &Sender<Event>,
        program: &Path,
        arguments: &[String],
    ) -> std::io::Result<Process> {
        if let Some(mut process) = self.idle.get_mut(place as usize).and_then(Option::take) {
            if process.lives() && process.work_for(place, events) {
                return Ok(process);
            }
            process.kill();
            process.reap(Instant::now() + LEAVE);
        }
        let (program, arguments, events) = (program.to_owned(), arguments.to_vec(), events.clone());
        self.start(move || Process::start(&program, &arguments, place, events))
    }

    /// The kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), and steps run in threads that end: these
    /// processes are started by one that does not.
    fn start(&mut self, start: impl FnOnce() -> std::io::Result<Process> + Send + 'static) -> std::io::Result<Process> {
        let spawner = self.spawner.get_or_insert_with(|| {
            let (jobs, work) = channel::<Job>();
            thread::spawn(move || work.into_iter().for_each(|job| job()));
            jobs
        });
        let (sender, started) = channel();
        let gone = |_| std::io::Error::other("the thread that starts processes is gone");
        spawner
            .send(Box::new(move || {
                let _ = sender.send(start());
            }))
            .map_err(|_| gone(()))?;
        started.recv().map_err(|_| gone(()))?
    }

    pub fn give_back(&mut self, place: usize, mut process: Process) {
        process.rest();
        if self.idle.len() <= place {
            self.idle.resize_with(place + 1, || None);
        }
        // A step that was stopped may overlap the next: of two processes one stays.
        if let Some(mut other) = self.idle[place].replace(process) {
            other.kill();
            other.reap(Instant::now() + LEAVE);
        }
    }

    /// Ends all that wait: given a moment to give their contexts back, then killed.
    pub fn end(&mut self) {
        let mut all: Vec<Process> = self.idle.drain(..).flatten().collect();
        all.iter_mut().for_each(Process::dismiss);
        let until = Instant::now() + LEAVE;
        for process in &mut all {
            process.wait(until);
            process.kill();
        }
        // Reaped, so that no zombie stays; one deadline for all, as those that a dead GPU holds do not die.
        let until = Instant::now() + LEAVE / 4;
        for process in all {
            process.reap(until);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for process in self.idle.iter_mut().flatten() {
            process.kill();
        }
        self.end();
    }
}
