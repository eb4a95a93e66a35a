// SPDX-License-Identifier: Apache-2.0
//! Cells of the lab's matrix: a guest is captured, verified, restored onto a used disk, compared file by file, and booted.

use crate::lab::guest::{Built, GUESTS, Guest};
use crate::lab::listing::{compare, file_count, list};
use crate::lab::qemu::Writes;
use crate::lab::{Scratch, old_content, proof};
use crate::run::{Failure, Result, While, output};
use crate::step::{Steps, Tally};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// One cell.
pub(crate) struct Cell {
    guest: &'static Guest,
    /// How many bytes the target is bigger than the source.
    bigger: u64,
    /// The image's file name, which says its format.
    image: &'static str,
    /// Run only with `--all`.
    long: bool,
}

impl Cell {
    fn name(&self) -> String {
        let target = if self.bigger == 0 { "an equal" } else { "a bigger" };
        format!("{}: {} to {target} used disk", self.guest.name, self.image)
    }
}

/// All cells: each guest in short, every other way only in the long matrix.
pub(crate) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for guest in GUESTS {
        cells.push(Cell { guest, bigger: 0, image: "image.qcow2", long: false });
    }
    for guest in GUESTS {
        cells.push(Cell { guest, bigger: 3 << 30, image: "image.qcow2", long: true });
        cells.push(Cell { guest, bigger: 0, image: "image.raw", long: true });
    }
    cells
}

/// Builds the guests and runs the cells, two at a time.
pub(crate) fn run(steps: &mut Steps, unmoor: &Path, all: bool) {
    let built: Mutex<Vec<Built>> = Mutex::default();
    steps.tests("lab: building the guests", || {
        in_parallel(GUESTS, |guest| {
            let guest = guest.build()?;
            guest.listing()?;
            lock(&built).push(guest);
            Ok(())
        })
    });
    let built = built.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cells: Vec<Cell> = cells().into_iter().filter(|cell| all || !cell.long).collect();
    let outcomes: Mutex<Vec<(String, f64, Result)>> = Mutex::default();
    println!("==> lab: {} cells", cells.len());
    let _ = in_parallel(&cells, |cell| {
        let Some(guest) = built.iter().find(|guest| guest.name == cell.guest.name) else { return Ok(()) };
        let start = Instant::now();
        let outcome = cell.run(guest, unmoor);
        lock(&outcomes).push((cell.name(), start.elapsed().as_secs_f64(), outcome));
        Ok(())
    });
    for (name, seconds, outcome) in outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        steps.record(&name, seconds, outcome.map(|()| Tally { passed: 1, failed: 0 }));
    }
}

impl Cell {
    fn run(&self, guest: &Built, unmoor: &Path) -> Result {
        let scratch = Scratch::new(self.guest.name)?;
        let image = scratch.path().join(self.image);
        let restored = scratch.path().join("restored.raw");
        let command = |arguments: &[&str], paths: &[&Path]| {
            let mut command = Command::new(unmoor);
            command.args(arguments).args(paths);
            output(&mut command).map(drop)
        };
        command(&["capture"], &[&guest.disk, &image])?;
        if self.image.ends_with("qcow2") {
            output(Command::new("qemu-img").args(["check", "--quiet"]).arg(&image))?;
        }
        command(&["verify"], &[&image])?;
        old_content::fill(&restored, self.guest.size + self.bigger)?;
        command(&["restore", "--yes", "--force"], &[&image, &restored])?;
        command(&["verify"], &[&image, &restored])?;

        let before = guest.listing()?;
        let after = list(&restored)?;
        // A bigger disk has its backup GPT elsewhere, and its last volumes have grown.
        let but: &[&str] =
            if self.bigger == 0 { &[] } else { &["table", "signatures", "checker", "volumes"] };
        compare(&before, &after, but).while_doing("comparing the restored disk with the source")?;
        if file_count(&before) < 10_000 {
            return Err(Failure::new("the listing of the source has too few files to prove anything"));
        }
        proof::boot(&self.guest.machine(&restored, Writes::Dropped))?.check(self.guest)
    }
}

/// Does `work` for every item, two at a time, and counts what passed; failures are printed as they come.
pub(crate) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result + Sync) -> Result<Tally> {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = work(item);
                    if let Err(error) = &outcome {
                        println!("    {error}");
                    }
                    let (passed, failed) = if outcome.is_ok() { (1, 0) } else { (0, 1) };
                    *lock(&tally) += Tally { passed, failed };
                }
            });
        }
    });
    Ok(*lock(&tally))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
