//! The exit codes: an API that job scripts branch on. Never renumber one.

use std::process::ExitCode;

/// How a gonogo command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: go. Every required check ran and passed, or the command did what it was asked.
    Go,
    /// 1: no-go. Something measured is bad enough to hold the launch.
    NoGo,
    /// 2: hold. What was measured does not allow a verdict; nothing is proven either way.
    Hold,
    /// 3: bad usage, a bad plan file, or a record that cannot be read.
    Usage,
    /// 4: gonogo itself failed.
    Internal,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Go => 0,
            Exit::NoGo => 1,
            Exit::Hold => 2,
            Exit::Usage => 3,
            Exit::Internal => 4,
        }
    }
}

impl Exit {
    /// Of the number that another process of the run was told.
    pub const fn of(code: u8) -> Exit {
        match code {
            0 => Exit::Go,
            1 => Exit::NoGo,
            2 => Exit::Hold,
            3 => Exit::Usage,
            _ => Exit::Internal,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
