//! What the operator accepts, by name and until a day.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::judge::codes;
use crate::judge::codes::Code;
use crate::judge::finding::{Finding, Subject};
use crate::plan::RunPlan;

/// Marks waived findings. A waiver counts through its last day in UTC, by the day on which the record was made.
pub(super) fn apply(run: &RunPlan, measured: Timestamp, findings: &mut Vec<Finding>) {
    let today = TimeZone::UTC.to_datetime(measured).date();
    for waiver in &run.waive {
        let useless =
            |why: &str| Finding::new(Code::PLN_001, Subject::Run, format!("waiver of {}: {why}", waiver.code));
        if codes::find(&waiver.code).is_none() {
            findings.push(useless("no such code"));
        } else if waiver.until < today {
            findings.push(useless(&format!("expired on {}", waiver.until)));
        } else {
            for f in findings.iter_mut().filter(|f| f.code.as_str() == waiver.code) {
                f.waived = Some(crate::id::clean(&format!("{} (until {})", waiver.reason, waiver.until)).into_owned());
            }
        }
    }
}
