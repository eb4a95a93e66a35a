// SPDX-License-Identifier: Apache-2.0
//! Cells of the lab's matrix: a guest is captured, verified, restored onto a used disk, compared file by file, and booted.

use crate::lab::guest::{Built, GUESTS, Guest};
use crate::lab::listing::{check_checkers, compare, file_count, list, signatures};
use crate::lab::qemu::Writes;
use crate::lab::{Scratch, activation, old_content, proof};
use crate::run::{Failure, Result, While, as_root, output};
use crate::step::{Steps, Tally};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
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
    steps.check("lab: activating encrypted volumes", activation::test);
    let built: Mutex<Vec<Built>> = Mutex::default();
    steps.tests("lab: building the guests", || {
        Ok(in_parallel(GUESTS, |guest| {
            let guest = guest.build()?;
            check_checkers(&guest.listing()?)?;
            lock(&built).push(guest);
            Ok(())
        }))
    });
    let built = built.into_inner().unwrap_or_else(PoisonError::into_inner);
    let cells: Vec<Cell> = cells().into_iter().filter(|cell| all || !cell.long).collect();
    println!("==> lab: {} cells", cells.len());
    let steps = Mutex::new(steps);
    in_parallel(&cells, |cell| {
        let start = Instant::now();
        let guest = built.iter().find(|guest| guest.name == cell.guest.name);
        let outcome = guest
            .ok_or_else(|| Failure::new("its guest is not there"))
            .and_then(|guest| cell.run(guest, unmoor));
        let tally = outcome.map(|()| Tally { passed: 1, failed: 0 });
        lock(&steps).record(&cell.name(), start.elapsed().as_secs_f64(), tally);
        Ok(())
    });
}

impl Cell {
    fn run(&self, guest: &Built, unmoor: &Path) -> Result {
        let scratch = Scratch::new(self.guest.name)?;
        let image = scratch.path().join(self.image);
        let restored = scratch.path().join("restored.raw");
        let command = |arguments: &[&str], paths: &[&Path]| {
            // As root, for the loop device.
            output(as_root("env").arg(unmoor).args(arguments).args(paths)).map(drop)
        };
        command(&["capture"], &[&guest.disk, &image])?;
        if self.image.ends_with("qcow2") {
            output(Command::new("qemu-img").args(["check", "-q"]).arg(&image))?;
        }
        command(&["verify"], &[&image])?;
        old_content::fill(&restored, self.guest.size + self.bigger)?;
        // A block device keeps what is not written; a file might be replaced as a whole.
        let device = LoopDevice::attach(&restored)?;
        command(&["restore", "--yes"], &[&image, device.path()])?;
        command(&["verify"], &[&image, device.path()])?;
        drop(device);

        let before = guest.listing()?;
        let after = list(&restored)?;
        // A bigger disk has its backup GPT elsewhere, and its last volumes have grown.
        let but: &[&str] =
            if self.bigger == 0 { &[] } else { &["table", "signatures", "checker", "volumes"] };
        compare(&before, &after, but).while_doing("comparing the restored disk with the source")?;
        check_checkers(&after)?;
        if signatures(&before) != signatures(&after) {
            let (before, after) = (signatures(&before), signatures(&after));
            return Err(Failure::new(format!("probing found {before:?} before and {after:?} after")));
        }
        if file_count(&before) < 10_000 {
            return Err(Failure::new("the listing of the source has too few files to prove anything"));
        }
        proof::boot(&self.guest.machine(&restored, Writes::Dropped))?.check(self.guest)
    }
}

/// A file as a block device, detached when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn attach(file: &Path) -> Result<Self> {
        let device = output(as_root("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self(PathBuf::from(device.trim_end())))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = output(as_root("losetup").arg("--detach").arg(&self.0)) {
            println!("    {error}");
        }
    }
}

/// Does `work` for every item, two at a time, and counts what passed; failures are printed as they come.
pub(crate) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> Result + Sync) -> Tally {
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
    *lock(&tally)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
