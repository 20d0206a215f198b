//! What `lfs df` and `lfs quota` say; `quota` of NFS has the same columns. Sizes are in KiB.

use crate::topology::filesystem::{Quota, QuotaOf, Target};
use crate::unit::Bytes;

const KIB: u64 = 1024;
/// Targets that are kept of a file system.
const MOST: usize = 20_000;

/// The object targets of `lfs df -lv`: those of metadata hold no data.
///
/// ```text
/// UUID                   1K-blocks        Used   Available Use% Mounted on
/// scratch-OST0000_UUID 94181368000 56330708000 37850660000  60% /scratch[OST:0]
/// OST0001             : inactive device
/// ```
pub(super) fn targets(text: &str) -> Vec<Target> {
    let target = |line: &str| {
        let name = line.split_whitespace().next()?.trim_end_matches("_UUID");
        let word = |head: &str| head.contains("OST") && !head.trim().contains(char::is_whitespace);
        if let Some((head, _)) = line.split_once(':').filter(|(head, _)| word(head)) {
            let name = head.trim().trim_end_matches("_UUID").to_owned();
            return Some(Target { name, total: Bytes(0), available: Bytes(0), active: false });
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, total, _, available, _, place, ref state @ ..] = words[..] else { return None };
        let size = |word: &str| word.parse::<u64>().ok().map(|k| Bytes(k.saturating_mul(KIB)));
        let object = place.contains("[OST:");
        let (total, available) = (size(total)?, size(available)?);
        // Read-only, out of space, or no new objects: no file goes there.
        let active = !state.iter().any(|word| word.contains(['R', 'S', 'N']));
        object.then(|| Target { name: name.to_owned(), total, available, active })
    };
    text.lines().filter_map(target).take(MOST).collect()
}

/// The quota on a file system, by the name that the command has for it; `None` where nothing is limited.
///
/// ```text
/// Disk quotas for usr bob (uid 1000):
///      Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
///        /scratch   20480   40960   51200       -      12       0    1000       -
/// ```
pub(super) fn quota(text: &str, name: &str, of: QuotaOf, id: u32) -> Option<Quota> {
    let mut words = text.lines().skip_while(|l| !l.trim_start().starts_with("Filesystem")).skip(1);
    // A long name has a line of its own.
    let mut found = words.by_ref().skip_while(|l| l.split_whitespace().next() != Some(name));
    let first = found.next()?;
    let mut values: Vec<&str> = first.split_whitespace().skip(1).collect();
    if values.is_empty() {
        values = found.next()?.split_whitespace().collect();
    }
    let [used, soft, hard, _, files, files_soft, files_hard, ..] = values[..] else { return None };
    // What is over its limit bears a star; a value that a silent target makes uncertain stands in brackets.
    let number = |word: &str| word.trim_matches(['*', '[', ']']).parse::<u64>().ok();
    let lower = |a: &str, b: &str| [number(a), number(b)].into_iter().flatten().filter(|n| *n > 0).min();
    let limit = lower(soft, hard).map(|k| Bytes(k.saturating_mul(KIB)));
    let files_limit = lower(files_soft, files_hard);
    let used = Bytes(number(used)?.saturating_mul(KIB));
    let quota = Quota { of, id, limit, used, files_limit, files: number(files)? };
    (limit.is_some() || files_limit.is_some()).then_some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DF: &str = "\
UUID                   1K-blocks        Used   Available Use% Mounted on
scratch-MDT0000_UUID    91743280    10200240    81543040  12% /scratch[MDT:0]
scratch-OST0000_UUID  1000000000   600000000   400000000  60% /scratch[OST:0]
scratch-OST0001_UUID  1000000000   999000000     1000000 100% /scratch[OST:1]
OST0002             : inactive device
scratch-OST0003_UUID: Resource temporarily unavailable
scratch-OST0004_UUID  1000000000   600000000   400000000  60% /scratch[OST:4] R

filesystem_summary:   2000000000  1599000000   401000000  80% /scratch
";

    #[test]
    fn targets_are_told_with_those_that_do_not_answer() {
        let all = targets(DF);
        let names: Vec<(&str, bool)> = all.iter().map(|t| (t.name.as_str(), t.active)).collect();
        assert_eq!(
            names,
            [
                ("scratch-OST0000", true),
                ("scratch-OST0001", true),
                ("OST0002", false),
                ("scratch-OST0003", false),
                ("scratch-OST0004", false)
            ]
        );
        assert_eq!((all[1].total, all[1].available), (Bytes(1_024_000_000_000), Bytes(1_024_000_000)));
    }

    #[test]
    fn a_quota_is_read_however_its_lines_are_broken() {
        let head = "Disk quotas for usr bob (uid 1000):\n  Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace\n";
        let of = |rest: &str, name: &str| quota(&format!("{head}{rest}"), name, QuotaOf::User, 1000);
        let one = of("   /scratch   20480   40960   51200       -      12       0    1000       -\n", "/scratch");
        let Some(q) = &one else { panic!("no quota") };
        assert_eq!(
            (q.limit, q.left(), q.files_left()),
            (Some(Bytes(40960 << 10)), Some(Bytes(20480 << 10)), Some(988))
        );
        let broken = of("/scratch\n  20480*  40960  51200  6d  12  0  1000  -\n", "/scratch");
        assert_eq!(broken, one);
        // Nothing is limited, another file system, no table at all.
        assert_eq!(of("   /scratch   20480   0   0   -   12   0   0   -\n", "/scratch"), None);
        assert_eq!(of("   /home   1   2   3   -   4   5   6   -\n", "/scratch"), None);
        assert_eq!(quota("user bob has no quota\n", "/scratch", QuotaOf::User, 1000), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in "[ -~\\n]{0,300}", lines in "(Filesystem|/s|OST|[0-9]{1,22}|\\*|\\[OST:1\\]|\\n| : | ){0,40}") {
            for text in [text, lines] {
                let _ = (targets(&text), quota(&text, "/s", QuotaOf::User, 1));
            }
        }
    }
}
