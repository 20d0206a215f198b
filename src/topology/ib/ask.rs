//! The tools that read a fabric, run.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::id::clean;

/// What is run, and what each is called when it is kept.
pub const TOOLS: &[&[&str]] =
    &[&["ibnetdiscover"], &["iblinkinfo", "-l"], &["ibqueryerrors"], &["sminfo"], &["saquery", "SMIR"]];
/// Largest capture that is read: a fabric of a hundred thousand ports has some 10 MB.
pub const MAX_CAPTURE: u64 = 256 << 20;

/// Runs a tool to its end or its deadline; what it said. Its exit code says whether there are errors in the fabric, not
/// whether it ran. The error says why there is nothing.
pub fn ask(tool: &[&str], patience: Duration) -> Result<String, String> {
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                "not installed (apt: infiniband-diags), or in no folder of the PATH".to_owned()
            }
            _ => e.to_string(),
        })?;
    let collect = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.map(|p| p.take(MAX_CAPTURE).read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = collect(child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let err = collect(child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>));
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no end after {} s", patience.as_secs()));
            }
        }
    }
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if out.trim().is_empty() {
        let said = err.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("it said nothing");
        return Err(format!("{}; is this run as root, on a node with an active port?", clean(said)));
    }
    Ok(out)
}
