//! How far a run of agents is, by what rank 0 has written.

use std::time::{Duration, Instant};

use crate::world::{Result, World};

/// Waits until the record of rank 0 has this many lines: then everybody is in, and the run under way.
pub fn wait_for_lines(w: &World, lines: usize) -> Result {
    let record = w.dir.path().join("rec-0/record.jsonl");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&record).map_or(0, |text| text.lines().count()) < lines {
        if Instant::now() > end {
            return Err(format!("{} has no {lines} lines after a minute", record.display()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
