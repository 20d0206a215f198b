//! What lies between two looks at a node, in words.

/// A stretch of time over which counters moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    Check,
    /// Under a watch: since what a check kept.
    Run,
    /// Under a watch that knows of no check.
    Watch,
}

impl Stretch {
    /// `3 PCIe replays during the check`
    pub(super) const fn during(self) -> &'static str {
        match self {
            Stretch::Check => "during the check",
            Stretch::Run => "since the check",
            Stretch::Watch => "since the watch began",
        }
    }

    /// `there at the beginning of the check, gone at its end`
    pub(super) const fn ends(self) -> [&'static str; 2] {
        match self {
            Stretch::Check => ["at the beginning of the check", "at its end"],
            Stretch::Run => ["at the check", "now"],
            Stretch::Watch => ["when the watch began", "now"],
        }
    }

    /// `since the check began, the driver wants a reset`
    pub(super) const fn since(self) -> &'static str {
        match self {
            Stretch::Check => "since the check began",
            Stretch::Run | Stretch::Watch => self.during(),
        }
    }
}
