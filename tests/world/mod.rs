//! Agents of one cluster as processes on this machine, for tests.

#[path = "../port/mod.rs"]
mod port;

use std::process::{Child, Command, Output, Stdio};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

pub const TOKEN: &str = "0f1e5a3c9b7d2846e1c0a9f83b6d5247";

pub struct World {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub size: u32,
}

impl World {
    pub fn new(size: u32) -> Result<Self> {
        Ok(World { dir: tempfile::tempdir()?, port: port::free()?, size })
    }

    pub fn command(&self, rank: u32, extra: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_gonogo"));
        let (rank, size) = (rank.to_string(), self.size.to_string());
        let at = format!("127.0.0.1:{}", self.port);
        c.args(["check", "--quiet", "--rank", &rank, "--nodes", &size]);
        for (flag, value) in [("--rendezvous", at.as_str()), ("--join-timeout", "30s")] {
            if !extra.contains(&flag) {
                c.args([flag, value]);
            }
        }
        c.args(["--only", "environment,tcp", "--format", "json", "--out", &format!("rec-{rank}")])
            .args(extra)
            .current_dir(self.dir.path())
            .env("GONOGO_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        c
    }

    pub fn start(&self, rank: u32, extra: &[&str]) -> Result<Child> {
        Ok(self.command(rank, extra).spawn()?)
    }
}

/// Exit code, the report, what was said on stderr.
pub fn end(child: Child) -> Result<(i32, serde_json::Value, String)> {
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let report = serde_json::from_slice(&stdout).unwrap_or_default();
    Ok((status.code().unwrap_or(-1), report, String::from_utf8_lossy(&stderr).into_owned()))
}

/// `CODE node` of every finding from `hold` up.
pub fn against(report: &serde_json::Value) -> Vec<String> {
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let heavy = |f: &&serde_json::Value| matches!(f["severity"].as_str(), Some("fail" | "hold"));
    let show = |f: &serde_json::Value| format!("{} {}", f["code"].as_str().unwrap_or("?"), f["subject"]);
    findings.iter().filter(heavy).map(show).collect()
}
