// SPDX-License-Identifier: Apache-2.0
//! The matrix: all cells, which of them a run takes, and running them.

use crate::lab::changed::{self, COMPRESSED_GUEST, COMPRESSIONS, REFUSALS, Refusal};
use crate::lab::fit::{FITS, Fit, Tools};
use crate::lab::guest::{Built, Guest, Purpose};
use crate::lab::guests::{GUESTS, guest};
use crate::lab::listing::check_checkers;
use crate::lab::live::{LIVES, Live};
use crate::lab::network::{MOVES, Move};
use crate::lab::restore::Restore;
use crate::lab::{activation, initramfs, nbd_boot};
use crate::run::{Failure, Result};
use crate::step::{Steps, Tally};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a cell does with its guest.
#[derive(Clone, Copy)]
enum Kind {
    Restore(Restore),
    Fit(&'static Fit),
    Refusal(&'static Refusal),
    Compression(&'static str),
    /// A kernel unpacks an initramfs of this compression that was extended; there is no guest.
    Unpack(&'static str),
    /// Encrypted volumes, activated by a distribution's kernel; there is no guest.
    Activation,
    /// A guest boots from `unmoor nbd`.
    NbdBoot,
    /// A guest moves from one machine that starts from the network to another.
    Move(&'static Move),
    /// A guest captures itself while it is used.
    Live(&'static Live),
}

/// A cell of the matrix.
pub(crate) struct Cell {
    /// What it is called on the command line.
    pub(crate) name: String,
    kind: Kind,
}

/// Which cells a run takes.
pub(crate) enum Choice<'a> {
    /// Every one: hours.
    All,
    /// One that restores, one that fits and one that unpacks, others each day: what a run on a machine that has built no guest
    /// yet can do in the time that CI gives it.
    OfTheDay,
    /// Those whose names are given.
    Named(&'a [String]),
}

/// All cells.
pub(crate) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |name: String, kind| cells.push(Cell { name, kind });
    for guest in GUESTS.iter().filter(|guest| guest.purpose == Purpose::Restore) {
        let restore = Restore { guest: guest.name, bigger: 0, image: "image.qcow2" };
        add(format!("restore-{}", guest.name), Kind::Restore(restore));
        add(format!("restore-{}-bigger", guest.name), Kind::Restore(Restore { bigger: 3 << 30, ..restore }));
        add(format!("restore-{}-raw", guest.name), Kind::Restore(Restore { image: "image.raw", ..restore }));
    }
    for fit in FITS {
        add(fit.name.to_owned(), Kind::Fit(fit));
    }
    for refusal in REFUSALS {
        add(refusal.name.to_owned(), Kind::Refusal(refusal));
    }
    for kind in COMPRESSIONS {
        add(format!("initramfs-{kind}"), Kind::Compression(kind));
    }
    for kind in initramfs::compressions() {
        add(format!("unpack-{kind}"), Kind::Unpack(kind));
    }
    add("activation".to_owned(), Kind::Activation);
    add("nbd-boot".to_owned(), Kind::NbdBoot);
    for row in MOVES {
        add(row.name.to_owned(), Kind::Move(row));
    }
    for live in LIVES {
        add(live.name.to_owned(), Kind::Live(live));
    }
    cells
}

impl Cell {
    /// The name of its guest, if it has one.
    fn guest(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Restore(restore) => Some(restore.guest),
            Kind::Fit(fit) => Some(fit.guest),
            Kind::Refusal(refusal) => Some(refusal.guest),
            Kind::Compression(_) => Some(COMPRESSED_GUEST),
            Kind::NbdBoot => Some(nbd_boot::GUEST),
            Kind::Move(row) => Some(row.guest),
            Kind::Live(live) => Some(live.guest),
            Kind::Unpack(_) | Kind::Activation => None,
        }
    }

    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        match self.kind {
            Kind::Restore(restore) => restore.title(),
            Kind::Fit(fit) => fit.title(),
            Kind::Refusal(refusal) => format!("{}: {} is refused", refusal.name, refusal.guest),
            Kind::Compression(kind) => format!("initramfs-{kind}: {COMPRESSED_GUEST} is fitted"),
            Kind::Unpack(kind) => format!("unpack-{kind}: a kernel unpacks what was appended"),
            Kind::Move(row) => row.title(),
            Kind::Live(live) => live.title(),
            Kind::Activation => "activation: encrypted volumes are opened without userland".to_owned(),
            Kind::NbdBoot => {
                format!("nbd-boot: {} boots from its image before it is copied", nbd_boot::GUEST)
            }
        }
    }

    fn run(&self, guests: &[Built], tools: &Tools) -> Result {
        let guest = || {
            let name = self.guest();
            guests
                .iter()
                .find(|guest| Some(guest.name) == name)
                .ok_or_else(|| Failure::new("its guest is not there"))
        };
        match self.kind {
            Kind::Restore(restore) => restore.run(guest()?, &tools.unmoor),
            Kind::Fit(fit) => fit.run(guest()?, tools),
            Kind::Refusal(refusal) => refusal.run(guest()?, tools),
            Kind::Compression(kind) => changed::compression(kind, guest()?, tools),
            Kind::Unpack(kind) => initramfs::boot(kind, None),
            Kind::Activation => activation::test(),
            Kind::NbdBoot => nbd_boot::run(guest()?, &tools.unmoor),
            Kind::Move(row) => row.run(guest()?, &tools.unmoor).map(drop),
            Kind::Live(live) => live.run(guest()?, &tools.unmoor),
        }
    }
}

/// The cells of a choice.
fn chosen(choice: &Choice<'_>) -> Result<Vec<Cell>> {
    let cells = cells();
    match choice {
        Choice::All => Ok(cells),
        Choice::OfTheDay => {
            let day = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() / 86_400);
            Ok(of_day(cells, day))
        }
        Choice::Named(names) => {
            for name in *names {
                if cells.iter().all(|cell| cell.name != *name) {
                    let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
                    return Err(Failure::new(format!(
                        "there is no cell {name}: there are {}",
                        names.join(", ")
                    )));
                }
            }
            Ok(cells.into_iter().filter(|cell| names.contains(&cell.name)).collect())
        }
    }
}

/// Cells beside those that restore which a run takes its daily choice from; the others are run by name, and by `--all`. A cell is
/// added here when it has passed, unless dracut's guests, which take twice the time of others, are in it.
const DAILY: &[&str] = &[
    "a",
    "no-driver",
    "c",
    "boot-full",
    "d",
    "no-initramfs",
    "f",
    "corrupt-initramfs",
    "initramfs-none",
    "unknown-loader",
    "initramfs-xz",
    "initramfs-zstd",
    "initramfs-lz4",
    "initramfs-gzip",
    "signed-uki",
];

/// One cell that restores, one that fits a guest and one that unpacks, by the number of the day.
fn of_day(cells: Vec<Cell>, day: u64) -> Vec<Cell> {
    let mut kinds: [Vec<Cell>; 3] = Default::default();
    let [restores, fits, unpacked] = &mut kinds;
    for cell in cells {
        match cell.kind {
            Kind::Restore(_) => restores.push(cell),
            Kind::Unpack(_) => unpacked.push(cell),
            _ if DAILY.contains(&cell.name.as_str()) => fits.push(cell),
            _ => {}
        }
    }
    kinds
        .into_iter()
        .filter_map(|mut kind| {
            let index = usize::try_from(day).unwrap_or(0).checked_rem(kind.len())?;
            Some(kind.swap_remove(index))
        })
        .collect()
}

/// Builds the guests of the chosen cells and runs these, two at a time.
pub(crate) fn run(steps: &mut Steps, tools: &Tools, choice: &Choice<'_>) -> Result {
    let cells = chosen(choice)?;
    let guests: Vec<&Guest> =
        GUESTS.iter().filter(|guest| cells.iter().any(|cell| cell.guest() == Some(guest.name))).collect();
    let built: Mutex<Vec<Built>> = Mutex::default();
    steps.tests("lab: building the guests", || {
        Ok(in_parallel(&guests, |guest| {
            let built_guest = guest.build()?;
            if guest.purpose == Purpose::Restore {
                check_checkers(&built_guest.listing()?)?;
            }
            lock(&built).push(built_guest);
            Ok(())
        }))
    });
    let built = built.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("==> lab: {} cells", cells.len());
    let steps = Mutex::new(steps);
    in_parallel(&cells, |cell| {
        let start = Instant::now();
        let outcome = cell.run(&built, tools);
        let tally = outcome.map(|()| Tally { passed: 1, failed: 0 });
        lock(&steps).record(&cell.title(), start.elapsed().as_secs_f64(), tally);
        Ok(())
    });
    Ok(())
}

/// Boots guests on the hardware of their cells without fitting them; all have to fail.
pub(crate) fn control(steps: &mut Steps, names: &[String]) -> Result {
    for fit in FITS.iter().filter(|fit| names.is_empty() || names.iter().any(|name| name == fit.name)) {
        let built = guest(fit.guest)?.build()?;
        steps.check(&format!("control of {}", fit.title()), || {
            println!("    {}", fit.control(&built)?);
            Ok(())
        });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::{DAILY, cells, of_day};
    use std::collections::BTreeSet;

    #[test]
    fn every_cell_has_a_name_of_its_own_and_a_guest_and_its_day() {
        let names: BTreeSet<String> = cells().into_iter().map(|cell| cell.name).collect();
        assert_eq!(names.len(), cells().len());
        for cell in cells() {
            if let Some(name) = cell.guest() {
                crate::lab::guests::guest(name).unwrap();
            }
        }
        let daily: BTreeSet<String> =
            (0..31).flat_map(|day| of_day(cells(), day)).map(|cell| cell.name).collect();
        let of = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
        assert_eq!(daily.len(), of("restore-") + of("unpack-") + DAILY.len());
        assert!(DAILY.iter().all(|name| daily.contains(*name)));
    }

    #[test]
    fn each_day_has_one_cell_that_restores_one_that_fits_and_one_that_unpacks() {
        for day in 20_000..20_040 {
            let names: Vec<String> = of_day(cells(), day).into_iter().map(|cell| cell.name).collect();
            assert_eq!(names.len(), 3, "{names:?}");
            assert!(names[0].starts_with("restore-") && names[2].starts_with("unpack-"), "{names:?}");
        }
    }
}
