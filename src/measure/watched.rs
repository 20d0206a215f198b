//! What a watcher saw of the checkpoints of a run.

use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::measure::OwnNode;
use crate::unit::Bytes;
use crate::work::Layout;

/// The checkpoint directory of a run, at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Watched {
    pub dir: PathBuf,
    #[schemars(with = "String")]
    pub since: Timestamp,
    /// When it was looked at.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Source and type of the mount: `srv:/x nfs4`.
    pub mount: String,
    /// How the trainer lays its checkpoints out, by those that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    pub space: Space,
    /// In the order in which they were written.
    pub saves: Vec<Save>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<Cold>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<Trouble>,
    /// What befell the node that the watch runs on, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<OwnNode>,
}

/// What may still be written.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Space {
    pub total: Bytes,
    pub available: Bytes,
    /// What sets the bound.
    pub bound: SpaceBound,
    /// Absent where the file system allots inodes as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes_free: Option<u64>,
}

/// What bounds the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpaceBound {
    #[default]
    FileSystem,
    UserQuota,
    GroupQuota,
    ProjectQuota,
}

impl SpaceBound {
    pub const fn text(self) -> &'static str {
        match self {
            SpaceBound::FileSystem => "the file system",
            SpaceBound::UserQuota => "the user's quota",
            SpaceBound::GroupQuota => "the group's quota",
            SpaceBound::ProjectQuota => "the project's quota",
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Save {
    pub name: String,
    pub step: Option<u64>,
    pub bytes: Bytes,
    pub files: u64,
    /// Times of its oldest and its newest file, by the file server's clock.
    #[schemars(with = "String")]
    pub began: Timestamp,
    #[schemars(with = "String")]
    pub ended: Timestamp,
    pub state: SaveState,
    /// What was in use when it was complete, with what had been moved away by then: as if nothing had been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bytes>,
}

/// What is known of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveState {
    /// It grows, or its trainer has not called it complete yet.
    Writing,
    /// Its trainer says so, it stopped growing, and it has as many files as its like.
    Complete,
    /// A later one is complete and this one never was.
    Partial,
    /// It stopped growing, and nothing says whether it is complete.
    Unclear,
    /// Its proven copy is in the cold place, and here it is no more.
    Moved,
}

impl SaveState {
    pub const fn name(self) -> &'static str {
        match self {
            SaveState::Writing => "writing",
            SaveState::Complete => "complete",
            SaveState::Partial => "partial",
            SaveState::Unclear => "unclear",
            SaveState::Moved => "moved",
        }
    }

    pub const fn text(self) -> &'static str {
        match self {
            SaveState::Writing => "being written",
            SaveState::Complete => "complete",
            SaveState::Partial => "never completed",
            SaveState::Unclear => "cannot tell",
            SaveState::Moved => "moved to cold",
        }
    }
}

/// Where finished checkpoints go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cold {
    /// A directory, or the command that takes them.
    pub place: String,
    /// Absent for a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Bytes>,
    /// Seconds that each move took, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves_s: Vec<f64>,
}

/// What went wrong, and stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A copy that was read back is not what was copied.
    CopyDiffers {
        save: String,
        path: String,
    },
    ColdFull {
        save: String,
        needed: Bytes,
        available: Bytes,
    },
    MoveFails {
        save: String,
        error: String,
        times: u32,
    },
    /// Another file system is mounted at the directory than when the watch began.
    OtherMount {
        was: String,
        now: String,
    },
    /// The directory cannot be read.
    Gone {
        error: String,
    },
    /// A link in the checkpoint leads out of it, or something there is no file.
    Unmovable {
        save: String,
        path: String,
        why: String,
    },
    /// A checkpoint that cannot be looked at: it counts for nothing, and is not moved.
    Unreadable {
        save: String,
        error: String,
    },
    /// What a move left behind and cannot take away.
    Leftover {
        path: String,
        error: String,
    },
    /// Cold and hot are one file system.
    SameFilesystem,
    /// The journal cannot be written.
    Journal {
        error: String,
    },
    /// The command for the alarm failed.
    Hook {
        error: String,
    },
}
