//! The terminal around a command, and texts that go to it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cluster::Interrupt;
use crate::exit::Exit;
use crate::report::Style;

/// Width where nobody says: what fits everywhere.
const DEFAULT_WIDTH: usize = 100;

/// How to draw on stdout: colour on a terminal only, and not under NO_COLOR or TERM=dumb.
pub(super) fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    let width = columns().unwrap_or(DEFAULT_WIDTH).clamp(60, 140);
    Style { width, colour: terminal && !set("NO_COLOR") && !dumb }
}

fn columns() -> Option<usize> {
    let stated = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|w| usize::from(w.ws_col)).filter(|c| *c > 0);
    stated.or_else(asked)
}

/// Writes to stdout. A reader that closed the pipe (`| head`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The first signal ends the run in good order, with a report; the second at once.
pub(super) fn listen() -> anyhow::Result<Interrupt> {
    let interrupt: Interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(Exit::Hold.code());
        signal_hook::flag::register_conditional_shutdown(signal, code, interrupt.clone())
            .context("cannot listen for signals")?;
        signal_hook::flag::register(signal, interrupt.clone()).context("cannot listen for signals")?;
    }
    Ok(interrupt)
}
