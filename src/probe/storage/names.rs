//! What a file system does with names: a storm of small files, and renames that others watch.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Child;
use crate::measure::{Check, Measured, Outcome, Sampler};
use crate::probe::storage::failure;
use crate::work::{CheckName, Metric};

/// Files in a block of the storm; each is created, renamed and unlinked.
const FILES: usize = 64;
/// Bytes of a published file.
const PUBLISHED: usize = 64 << 10;

/// Create, rename, unlink: operations per second.
pub(super) fn storm(child: &Child, scratch: &Path) -> Result<Measured, Outcome> {
    let sampler = Sampler::new(child.share(8));
    let at = |prefix: &str, i: usize| scratch.join(format!("{prefix}{i}"));
    let samples = sampler.run(|| {
        for i in 0..FILES {
            let path = at("a", i);
            File::create(&path)
                .and_then(|mut f| f.write_all(b"x"))
                .map_err(|e| failure(&e, &format!("cannot create {}", path.display())))?;
        }
        for i in 0..FILES {
            fs::rename(at("a", i), at("b", i))
                .map_err(|e| failure(&e, &format!("cannot rename {}", at("a", i).display())))?;
        }
        for i in 0..FILES {
            fs::remove_file(at("b", i)).map_err(|e| failure(&e, &format!("cannot unlink {}", at("b", i).display())))?;
        }
        Ok(())
    })?;
    let series = Metric::Metadata.series(samples.rates(3.0 * FILES as f64), samples.block);
    Ok(Measured { series: vec![series], ..Measured::default() })
}

/// Publishes versions of a file by rename while a reader polls it: the reader must never see a part of one.
pub(super) fn rename(child: &Child, scratch: &Path) -> Result<Measured, Outcome> {
    let (target, temporary) = (scratch.join("published"), scratch.join("published.tmp"));
    let publish = |version: u8| -> Result<(), Outcome> {
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&vec![version; PUBLISHED])?;
            file.sync_all()?;
            fs::rename(&temporary, &target)?;
            File::open(scratch)?.sync_all()
        };
        write().map_err(|e| failure(&e, &format!("cannot publish {}", target.display())))
    };
    publish(0)?;
    let stop = AtomicBool::new(false);
    let budget = child.share(8);
    let (samples, (looks, torn)) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&target, &stop));
        let mut version = 0u8;
        let sampler = Sampler { max_blocks: 24, ..Sampler::new(budget) };
        let samples = sampler.run(|| {
            version = version.wrapping_add(1);
            publish(version)
        });
        stop.store(true, Ordering::Relaxed);
        (samples, watcher.join().unwrap_or((0, usize::MAX)))
    });
    let samples = samples?;
    let series = Metric::Publish.series(samples.seconds, samples.block);
    let detail = format!("{torn} of {looks} looks found the file missing, short or mixed while it was replaced");
    Ok(Measured {
        series: vec![series],
        checks: [Check::new(CheckName::Atomic, torn == 0 && looks > 0, detail)].into(),
        ..Measured::default()
    })
}

/// Reads the file over and over; counts looks, and those that did not find exactly one version.
fn watch(target: &Path, stop: &AtomicBool) -> (usize, usize) {
    let (mut looks, mut torn) = (0, 0);
    let started = Instant::now();
    while (!stop.load(Ordering::Relaxed) || looks == 0) && started.elapsed() < Duration::from_secs(60) {
        looks += 1;
        let whole = fs::read(target).is_ok_and(|d| d.len() == PUBLISHED && d.iter().all(|b| *b == d[0]));
        torn += usize::from(!whole);
        // A reader that never pauses would be what is measured.
        thread::sleep(Duration::from_micros(300));
    }
    (looks, torn)
}
