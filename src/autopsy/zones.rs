//! Logs without a zone: hosts write local time and containers UTC. What a file's last line says and when the file was written last differ
//! by its zone, unless it was copied since.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Zones lie this far apart (those by a quarter of an hour have a few people and no cluster).
const APART: i64 = 30 * 60;
/// None is further from UTC.
const FURTHEST: i64 = 14 * 3600;
/// The last write comes so many seconds after the last time in it, at most: what ends a log has none.
const AFTER: i64 = 30;
/// Or before, by what clocks of a file server and a node differ.
const BEFORE: i64 = 2;
/// Of one file alone, chance says as much.
const FEWEST: usize = 2;

/// Minutes that each log's times are ahead of UTC, by its number, where that is not 0: its last time, taken for UTC, and the time of its file.
/// Nothing where most files fit no zone: they were copied, and their times are those of the copy.
pub(super) fn zones(logs: &[Option<(Timestamp, Timestamp)>]) -> BTreeMap<usize, i32> {
    let told: Vec<(usize, Option<i64>)> =
        logs.iter().enumerate().filter_map(|(i, log)| log.map(|(last, written)| (i, ahead(last, written)))).collect();
    let fit = told.iter().filter(|(_, ahead)| ahead.is_some()).count();
    if fit < FEWEST || 2 * fit <= told.len() {
        return BTreeMap::new();
    }
    let of = |(i, ahead): (usize, Option<i64>)| Some((i, (ahead? / 60) as i32)).filter(|(_, minutes)| *minutes != 0);
    told.into_iter().filter_map(of).collect()
}

/// Seconds that a clock is ahead of UTC which showed `last` shortly before a file was written.
fn ahead(last: Timestamp, written: Timestamp) -> Option<i64> {
    let gap = last.as_second() - written.as_second();
    let ahead = (gap + AFTER).div_euclid(APART) * APART;
    let late = ahead - gap;
    ((-BEFORE..=AFTER).contains(&late) && ahead.abs() <= FURTHEST).then_some(ahead)
}

/// A time of a clock that is so far ahead, in UTC.
pub(super) fn utc(at: Timestamp, minutes: i32) -> Timestamp {
    at.checked_sub(SignedDuration::from_mins(minutes.into())).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(last: &str, written: &str) -> Option<(Timestamp, Timestamp)> {
        Some((last.parse().ok()?, written.parse().ok()?))
    }

    #[test]
    fn a_file_tells_its_zone_unless_it_was_copied() {
        let berlin = || log("2026-11-27T11:00:00Z", "2026-11-27T10:00:12Z");
        let utc = || log("2026-11-27T10:00:05Z", "2026-11-27T10:00:05Z");
        let delhi = || log("2026-11-27T15:30:00Z", "2026-11-27T10:00:01Z");
        let pacific = || log("2026-11-27T02:00:09Z", "2026-11-27T10:00:08Z");
        let copied = || log("2026-11-27T10:00:05Z", "2026-11-27T13:17:00Z");
        assert_eq!(zones(&[berlin(), utc(), None, delhi(), pacific()]), [(0, 60), (3, 330), (4, -480)].into());
        // One that was copied keeps its time, and takes it from nobody else; most that were, from all.
        assert_eq!(zones(&[berlin(), utc(), copied()]), [(0, 60)].into());
        assert_eq!(zones(&[berlin(), utc(), copied(), copied()]), [].into());
        assert_eq!(zones(&[berlin()]), [].into());
        assert_eq!(zones(&[log("2026-11-27T11:00:00Z", "2027-01-27T10:00:00Z"), utc()]), [].into());
    }
}
