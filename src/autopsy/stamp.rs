//! When a line was written, by what it says of itself.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// A time stands within so many bytes of a line's beginning.
const HEAD: usize = 160;

/// A time that a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub at: Timestamp,
    /// Whether it has no zone of its own, and was taken for UTC.
    pub local: bool,
}

/// The first time in a line. `now` gives the year where a line has none.
pub(super) fn stamp(line: &[u8], now: Timestamp) -> Option<Stamp> {
    let head = &line[..line.len().min(HEAD)];
    for at in 0..head.len() {
        let rest = &head[at..];
        let found = match rest[0] {
            b'1' | b'2' => iso(rest),
            b'E' | b'W' | b'I' | b'F' => glog(rest, now).map(local),
            b'A'..=b'Z' => named_month(rest, now).map(local),
            _ => None,
        };
        // Only where a word begins: digits within numbers are no year.
        let begins = at == 0 || !head[at - 1].is_ascii_alphanumeric();
        if begins && let Some(found) = found {
            return Some(found);
        }
    }
    None
}

fn local(at: Timestamp) -> Stamp {
    Stamp { at, local: true }
}

fn digits(text: &[u8], n: usize) -> Option<i64> {
    let part = text.get(..n)?;
    part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
}

/// `HH:MM:SS`, perhaps with a fraction; the rest after it.
fn clock(text: &[u8]) -> Option<(Time, &[u8])> {
    let (h, m, s) = (digits(text, 2)?, digits(text.get(3..)?, 2)?, digits(text.get(6..)?, 2)?);
    if text.get(2) != Some(&b':') || text.get(5) != Some(&b':') {
        return None;
    }
    let mut rest = text.get(8..)?;
    let mut nanoseconds = 0;
    if let [b'.' | b',', fraction @ ..] = rest {
        let n = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if n > 0 {
            let kept = n.min(9);
            nanoseconds = digits(fraction, kept)? * 10i64.pow(9 - kept as u32);
            rest = &fraction[n..];
        }
    }
    Some((Time::new(h as i8, m as i8, s as i8, nanoseconds as i32).ok()?, rest))
}

/// `2026-11-27 09:50:00`, with a `T` or `_` between, a fraction, a zone.
fn iso(text: &[u8]) -> Option<Stamp> {
    let (year, month, day) = (digits(text, 4)?, digits(text.get(5..)?, 2)?, digits(text.get(8..)?, 2)?);
    let dashed = text.get(4) == text.get(7) && matches!(text.get(4), Some(b'-' | b'/'));
    if !dashed || !matches!(text.get(10), Some(b' ' | b'T' | b'_')) {
        return None;
    }
    let date = Date::new(year as i16, month as i8, day as i8).ok()?;
    let (time, rest) = clock(text.get(11..)?)?;
    let offset = match rest {
        [b'Z', ..] => Some(0),
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let minutes = if zone.get(2) == Some(&b':') { zone.get(3..) } else { zone.get(2..) };
            let ahead = digits(zone, 2).zip(minutes.and_then(|m| digits(m, 2))).map(|(h, m)| h * 3600 + m * 60);
            ahead.map(|ahead| if *sign == b'-' { -ahead } else { ahead })
        }
        _ => None,
    };
    let at = at(DateTime::from_parts(date, time), offset.unwrap_or(0))?;
    Some(Stamp { at, local: offset.is_none() })
}

fn at(when: DateTime, offset: i64) -> Option<Timestamp> {
    let offset = Offset::from_seconds(i32::try_from(offset).ok()?).ok()?;
    TimeZone::fixed(offset).to_timestamp(when).ok()
}

/// `E1127 09:50:00.123456`, as glog and PyTorch write.
fn glog(text: &[u8], now: Timestamp) -> Option<Timestamp> {
    let (month, day) = (digits(text.get(1..)?, 2)?, digits(text.get(3..)?, 2)?);
    if text.get(5) != Some(&b' ') {
        return named_month(text, now);
    }
    latest(month, day, clock(text.get(6..)?)?.0, now)
}

const MONTHS: [&[u8]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// `Nov 27 09:50:00`, as syslog writes, with the year behind it as `dmesg -T` does.
fn named_month(text: &[u8], now: Timestamp) -> Option<Timestamp> {
    let month = MONTHS.iter().position(|m| text.starts_with(m))? as i64 + 1;
    let day = match text.get(3..6)? {
        [b' ', b' ', d] | [b' ', d, b' '] if d.is_ascii_digit() => i64::from(d - b'0'),
        [b' ', rest @ ..] => digits(rest, 2)?,
        _ => return None,
    };
    let clock_at = text.iter().skip(4).position(|b| *b == b':')? + 4;
    let (time, rest) = clock(text.get(clock_at.checked_sub(2)?..)?)?;
    match rest {
        [b' ', year @ ..] if digits(year, 4).is_some_and(|y| (1990..2200).contains(&y)) => {
            let date = Date::new(digits(year, 4)? as i16, month as i8, day as i8).ok()?;
            at(DateTime::from_parts(date, time), 0)
        }
        _ => latest(month, day, time, now),
    }
}

/// The latest such day that is not in the future, but for a day of zones.
fn latest(month: i64, day: i64, time: Time, now: Timestamp) -> Option<Timestamp> {
    let year = TimeZone::UTC.to_datetime(now).year();
    let of = |year: i16| at(DateTime::from_parts(Date::new(year, month as i8, day as i8).ok()?, time), 0);
    let limit = now.checked_add(SignedDuration::from_hours(24)).unwrap_or(now);
    [year + 1, year, year - 1].into_iter().filter_map(of).find(|t| *t <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-27T12:00:00Z".parse().unwrap_or_default()
    }

    #[test]
    fn times_as_logs_write_them() {
        for (line, wanted) in [
            ("[2026-11-27 09:50:18] vm:536:536 [0] init.cc:904 NCCL WARN x", Some("2026-11-27T09:50:18Z")),
            ("2026-11-27T09:50:18.250+01:00 node3 kernel: x", Some("2026-11-27T08:50:18.25Z")),
            ("2026-11-27T09:50:18-0530 x", Some("2026-11-27T15:20:18Z")),
            ("  time      : 2026-11-27_09:50:19", Some("2026-11-27T09:50:19Z")),
            ("[rank1]:[W1127 09:50:19.996939634 ProcessGroupNCCL.cpp:1575] x", Some("2026-11-27T09:50:19.996939634Z")),
            ("E1127 09:50:19.595000 515 torch/distributed", Some("2026-11-27T09:50:19.595Z")),
            ("Nov 27 09:50:00 node3 kernel: NVRM", Some("2026-11-27T09:50:00Z")),
            ("Nov  7 09:50:00 node3 kernel: NVRM", Some("2026-11-07T09:50:00Z")),
            ("[Fri Nov 27 09:50:00 2026] NVRM: Xid", Some("2026-11-27T09:50:00Z")),
            ("3: 2026-11-27 09:50:18,120 INFO step", Some("2026-11-27T09:50:18.12Z")),
            (
                "slurmstepd: error: *** STEP 12.0 ON node1 CANCELLED AT 2026-11-27T10:00:00 ***",
                Some("2026-11-27T10:00:00Z"),
            ),
            // A day that has not come yet this year was last year's.
            ("Dec 31 23:59:59 node3 kernel: x", Some("2025-12-31T23:59:59Z")),
            ("[12345.678901] NVRM: Xid", None),
            ("loss 2026-99-99 99:99:99 is no time", None),
            ("E9999 99:99:99", None),
            ("", None),
        ] {
            let wanted: Option<Timestamp> = wanted.and_then(|w| w.parse().ok());
            assert_eq!(stamp(line.as_bytes(), now()).map(|s| s.at), wanted, "{line}");
        }
    }

    #[test]
    fn a_zone_of_its_own_is_seen() {
        let local = |line: &str| stamp(line.as_bytes(), now()).map(|s| s.local);
        assert_eq!(local("2026-11-27T09:50:18Z x"), Some(false));
        assert_eq!(local("2026-11-27T09:50:18.250+01:00 x"), Some(false));
        assert_eq!(local("2026-11-27 09:50:18 x"), Some(true));
        assert_eq!(local("[Fri Nov 27 09:50:00 2026] x"), Some(true));
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read(line in "\\PC{0,200}", head in "[EWF]?[0-9 :.,TZ_/+-]{0,40}") {
            stamp(line.as_bytes(), now());
            stamp(head.as_bytes(), now());
        }
    }
}
