//! Whether a checkpoint is complete: never by time alone.

use crate::measure::SaveState;
use crate::watch::survey::Tree;
use crate::work::Layout;

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
    /// The newest step that the trainer calls complete, where its layout has a file for that.
    pub pointer: Option<u64>,
    /// Files of the checkpoint before it and after it that are complete or have stopped growing.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// A later one is complete.
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
    let named = match (k.pointer, k.step) {
        (Some(newest), Some(step)) => step <= newest,
        _ => false,
    };
    if !named && !k.tree.committed {
        let speaks = k.pointer.is_some() || speaks(k.layout);
        return match (speaks, k.passed) {
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
        Tree { bytes: 1 << 20, files, ..Tree::default() }
    }

    fn known(tree: &Tree) -> Known<'_> {
        Known {
            layout: Layout::DeepSpeed,
            step: Some(1000),
            tree,
            marked_unfinished: false,
            still: true,
            was_complete: false,
            pointer: Some(1000),
            before: Some(8),
            after: None,
            passed: false,
        }
    }

    #[test]
    fn the_trainers_word_stillness_and_as_many_files_make_it_complete() {
        let whole = tree(8);
        assert_eq!(state(&known(&whole)), SaveState::Complete);
        assert_eq!(state(&Known { pointer: Some(500), ..known(&whole) }), SaveState::Writing);
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
        let committed = Tree { committed: true, ..tree(8) };
        assert_eq!(state(&Known { tree: &committed, ..plain }), SaveState::Complete);
        // Its trainer names complete ones, and has never named this one.
        assert_eq!(state(&Known { pointer: Some(500), passed: true, ..known(&whole) }), SaveState::Partial);
    }

    #[test]
    fn what_was_complete_stays_so_while_nobody_writes() {
        let whole = tree(8);
        // A run that was rewound: the pointer goes back behind what is there.
        let rewound = Known { was_complete: true, pointer: Some(500), ..known(&whole) };
        assert_eq!(state(&rewound), SaveState::Complete);
        assert_eq!(state(&Known { still: false, ..rewound }), SaveState::Writing);
    }
}
