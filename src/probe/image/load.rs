//! Loading a library in a process of its own: it may crash, hang or print, and two versions in one process would be mixed.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::probe::image::{KINDS, NEWEST_PLUGIN};
use crate::sys::signal;
use crate::sys::software::load;
use crate::sys::wait;
use crate::work::Software;

/// A library of 750 MB takes a tenth of it from a cold disk.
const PATIENCE: Duration = Duration::from_secs(2);
const HANG: &str = "loading it did not end";
/// What the answer's line begins with: libraries print, too.
const MARK: &str = "gonogo-loaded ";
/// More than any answer has.
const MOST: u64 = 1 << 20;

/// What a library that was loaded says.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The file that the loader took.
    pub(super) taken: Option<PathBuf>,
    pub(super) version: Option<String>,
    pub(super) cuda: Option<String>,
    pub(super) stub: bool,
    pub(super) offers: Vec<u32>,
}

/// Loads a library of a part, by name or by path, and asks it; else says why that cannot be done.
pub(super) fn ask(what: Software, library: &Path) -> Result<Answer, String> {
    let program = std::env::current_exe().map_err(|e| format!("gonogo's own binary: {e}"))?;
    let mut child = Command::new(program)
        .args(["load", what.name()])
        .arg(library)
        // NCCL would write over the user's file as soon as it has anything to say.
        .env_remove("NCCL_DEBUG_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("cannot start a process for it: {e}"))?;
    let Some(stdout) = child.stdout.take() else { return Err("no output of its process".to_owned()) };
    // What is printed is read while it is waited for: a full pipe would look like a hang.
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let mut bytes = Vec::new();
        let _ = stdout.take(MOST).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let ended = wait(&mut child, Instant::now() + PATIENCE, Duration::from_millis(2), &|| false);
    let Some(status) = ended.map_err(|e| e.to_string())? else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{HANG} in {} s", PATIENCE.as_secs()));
    };
    if let Some(number) = status.signal() {
        return Err(format!("the process that loads it is killed by {}", signal::describe(number)));
    }
    let text = reader.join().unwrap_or_default();
    let line = text.lines().rev().find_map(|l| l.split_once(MARK).map(|(_, json)| json));
    let answer: Option<Result<Answer, String>> = line.and_then(|json| serde_json::from_str(json).ok());
    answer.unwrap_or_else(|| Err(format!("the process that loads it ended with {}", status.code().unwrap_or(-1))))
}

/// Whether an error says that a library hangs.
pub(super) fn is_hang(error: &str) -> bool {
    error.starts_with(HANG)
}

/// The other side: loads, asks, and gives the line to print.
pub fn load_library(part: &str, library: &Path) -> String {
    let Some(kind) = KINDS.iter().find(|k| k.what.name() == part) else { return String::new() };
    let answer: Result<Answer, String> = load(library).map(|loaded| Answer {
        version: loaded.version(kind.version),
        cuda: loaded.version(kind.cuda),
        stub: kind.what == Software::Driver && loaded.is_stub(),
        offers: (2..=NEWEST_PLUGIN)
            .filter(|v| kind.what == Software::NcclNet && loaded.has(&format!("ncclNetPlugin_v{v}")))
            .collect(),
        taken: loaded.file,
    });
    format!("\n{MARK}{}", serde_json::to_string(&answer).unwrap_or_default())
}
