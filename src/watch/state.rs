//! Whether a checkpoint is complete: never by time alone.

use crate::measure::SaveState;
use crate::watch::survey::{Pointer, Tree};
use crate::work::Layout;

/// A trainer's ranks do not end in the same moment: what is written so much later than what says "complete" belongs to it.
const TOGETHER_NS: i128 = 10_000_000_000;

/// What is known of a checkpoint and of those around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub layout: Layout,
    pub step: Option<u64>,
    pub tree: &'a Tree,
    /// A marker beside it says that it is being written.
    pub marked_unfinished: bool,
    /// It is as it was at the look before.
    pub still: bool,
    /// It was complete before, with these same files.
    pub was_complete: bool,
    /// What the trainer calls complete, where its layout has a file for that.
    pub pointer: Option<Pointer>,
    /// Files of the checkpoint before it and after it that are complete or have stopped growing.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// One of a later step, written later, is complete.
    pub passed: bool,
}

/// The framework's own word, no growth, no marker of work in progress, as many files as its predecessor; else it cannot be known.
pub(super) fn state(k: &Known<'_>) -> SaveState {
    if k.was_complete && k.still {
        return SaveState::Complete;
    }
    let growing = k.marked_unfinished || k.tree.unfinished || !k.still || k.tree.files == 0;
    if growing {
        // A marker that nobody takes away any more.
        return if k.passed && k.still { SaveState::Partial } else { SaveState::Writing };
    }
    // A word that is older than the files is about what lay there before.
    let newest = k.tree.newest.unwrap_or_default();
    let speaks_of_this = |at: i128| newest <= at.saturating_add(TOGETHER_NS);
    let named = match (k.pointer, k.step) {
        (Some(p), Some(step)) => step <= p.step && speaks_of_this(p.changed),
        _ => false,
    };
    let committed = k.tree.committed.is_some_and(speaks_of_this);
    if !named && !committed {
        // Left by a run that was rewound: its trainer's word is now about others.
        let behind = k.pointer.zip(k.step).is_some_and(|(p, step)| step > p.step && newest < p.changed);
        let speaks = k.pointer.is_some() || speaks(k.layout);
        return match (speaks && !behind, k.passed) {
            (true, true) => SaveState::Partial,
            // Its trainer will say so when it is.
            (true, false) => SaveState::Writing,
            (false, _) => SaveState::Unclear,
        };
    }
    // A restart on fewer nodes writes fewer files, and so does the save after it.
    let as_many = k.before.is_none_or(|files| k.tree.files >= files) || k.after == Some(k.tree.files);
    if as_many { SaveState::Complete } else { SaveState::Unclear }
}

/// Whether a layout has something that says when a checkpoint is complete.
const fn speaks(layout: Layout) -> bool {
    !matches!(layout, Layout::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: u64) -> Tree {
        Tree { bytes: 1 << 20, files, newest: Some(0), ..Tree::default() }
    }

    /// A pointer written a second after the files.
    fn at(step: u64) -> Option<Pointer> {
        Some(Pointer { step, changed: 1_000_000_000 })
    }

    fn known(tree: &Tree) -> Known<'_> {
        Known {
            layout: Layout::DeepSpeed,
            step: Some(1000),
            tree,
            marked_unfinished: false,
            still: true,
            was_complete: false,
            pointer: at(1000),
            before: Some(8),
            after: None,
            passed: false,
        }
    }

    #[test]
    fn the_trainers_word_stillness_and_as_many_files_make_it_complete() {
        let whole = tree(8);
        assert_eq!(state(&known(&whole)), SaveState::Complete);
        let later = Tree { newest: Some(2_000_000_000), ..tree(8) };
        assert_eq!(state(&Known { pointer: at(500), ..known(&later) }), SaveState::Writing);
        assert_eq!(state(&Known { still: false, ..known(&whole) }), SaveState::Writing);
        assert_eq!(state(&Known { marked_unfinished: true, ..known(&whole) }), SaveState::Writing);
        assert_eq!(state(&Known { before: Some(9), ..known(&whole) }), SaveState::Unclear);
        // Fewer ranks from here on.
        assert_eq!(state(&Known { before: Some(9), after: Some(8), ..known(&whole) }), SaveState::Complete);
        let writing = Tree { unfinished: true, ..tree(8) };
        assert_eq!(state(&known(&writing)), SaveState::Writing);
        assert_eq!(state(&Known { passed: true, ..known(&writing) }), SaveState::Partial);
        assert_eq!(state(&known(&tree(0))), SaveState::Writing);
    }

    #[test]
    fn time_alone_says_nothing() {
        let whole = tree(8);
        let plain = Known { layout: Layout::Plain, pointer: None, ..known(&whole) };
        assert_eq!(state(&plain), SaveState::Unclear);
        assert_eq!(state(&Known { passed: true, ..plain }), SaveState::Unclear);
        let committed = Tree { committed: Some(0), ..tree(8) };
        assert_eq!(state(&Known { tree: &committed, ..plain }), SaveState::Complete);
        // Its trainer names complete ones, and has never named this one.
        let later = Tree { newest: Some(2_000_000_000), ..tree(8) };
        assert_eq!(state(&Known { pointer: at(500), passed: true, ..known(&later) }), SaveState::Partial);
    }

    #[test]
    fn an_older_word_is_not_about_newer_files() {
        // Written again in place: what was said before is not about this.
        let rewritten = Tree { newest: Some(100_000_000_000), committed: Some(0), ..tree(8) };
        assert_eq!(state(&known(&rewritten)), SaveState::Writing);
        let hf = Known { layout: Layout::HuggingFace, pointer: None, ..known(&rewritten) };
        assert_eq!(state(&hf), SaveState::Writing);
        // A run that was rewound left it, and a watch that is new does not know it.
        let left = tree(8);
        assert_eq!(state(&Known { pointer: at(500), passed: true, ..known(&left) }), SaveState::Unclear);
    }

    #[test]
    fn what_was_complete_stays_so_while_nobody_writes() {
        let whole = tree(8);
        // A run that was rewound: the pointer goes back behind what is there.
        let rewound = Known { was_complete: true, pointer: at(500), ..known(&whole) };
        assert_eq!(state(&rewound), SaveState::Complete);
        assert_eq!(state(&Known { still: false, ..rewound }), SaveState::Writing);
    }
}
