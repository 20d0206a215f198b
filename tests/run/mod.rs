//! gonogo run in a directory of one test.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The directory of one test.
pub struct Dir(pub tempfile::TempDir);

pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Dir {
    pub fn new() -> Result<Self> {
        Ok(Dir(tempfile::tempdir()?))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Outside of any job of Slurm, whatever runs the tests.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_gonogo"));
        c.args(args).current_dir(self.0.path()).env("COLUMNS", "100").stdin(Stdio::null());
        for name in ["SLURM_JOB_NODELIST", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"] {
            c.env_remove(name);
        }
        c
    }

    pub fn run(&self, args: &[&str]) -> Result<Done> {
        Ok(done(self.command(args).output()?))
    }
}

pub fn done(o: Output) -> Done {
    Done {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    }
}
