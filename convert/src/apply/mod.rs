// SPDX-License-Identifier: Apache-2.0
//! Carrying a plan out: every changed file keeps owner, mode and extended attributes, and a copy in /var/lib/unmoor/undo.
//!
//! ```text
//!   check (every `was`, room) -> undo copies + index, flushed -> all new files beside the old ones, flushed -> renames, flushed
//!                                     |                                                                      |
//!                                     +------------ undo: whatever of it happened is taken back <------------+
//! ```
//!
//! Before the first rename nothing of the guest is changed. A machine that loses power in between has every file either old or new,
//! and [`undo()`] brings all of them back. Where a filesystem has no room for all new files beside the old ones, they take turns.

mod check;
mod place;
mod room;
mod selinux;
mod stage;
#[cfg(test)]
mod tests;
mod undo;

use std::cell::Cell;

use unmoor_images::{Error, Result, ResultExt};

use crate::files::Directory;
use crate::plan::{Content, Plan};

pub(crate) use room::room;
pub use undo::{UndoOptions, Undone, changed_identities, undo};

/// Where undo copies lie in the guest.
pub const UNDO: &str = "/var/lib/unmoor/undo";

/// How to carry out.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Seconds since 1970: the undo copy's name.
    pub now: i64,
    /// Bytes that stay free on each filesystem.
    pub reserve: u64,
    /// Disks are changed after the files, which undo does not bring back.
    pub disks: bool,
    /// Fails at this step: for tests of what is left then.
    #[cfg(test)]
    pub(crate) fail_at: Option<u64>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Files that are changed, made or removed.
    pub changed: usize,
    /// The undo copy, by path in the guest; `None` where nothing was to be changed.
    pub undo: Option<String>,
    /// What the administrator should know: hard links that were separated.
    pub notes: Vec<String>,
}

/// Carries out the plan's edits of files below `root`.
///
/// # Errors
///
/// `Refused` where the plan is refused, where the guest is not as the plan was made for, or where there is no room: nothing was
/// written. Any other error: what had been done is taken back; where even that fails, the error says so.
pub fn apply(plan: &Plan, root: &Directory, options: &Options) -> Result<Applied> {
    if let Some(finding) =
        plan.findings.iter().find(|finding| finding.severity == crate::plan::Severity::Error)
    {
        return Err(Error::refused("applying the plan", finding.text.clone()));
    }
    if let Some(name) = undo::cut_off(root)? {
        return Err(Error::refused(
            "applying the plan",
            format!("an earlier run was cut off: take it back first (--undo; its copy is {UNDO}/{name})"),
        ));
    }
    let steps = Steps::new(options);
    let checked = check::check(plan, root, options)?;
    if checked.entries.is_empty() {
        return Ok(Applied::default());
    }
    let mut record = undo::Record::begin(&checked, root, options, &steps)
        .doing(|| "keeping copies of what is to be changed")?;
    let done = stage::carry_out(&checked, root, &steps).and_then(|()| record.complete(root, &steps));
    if let Err(error) = done {
        if steps.crashed() {
            return Err(error);
        }
        return Err(match undo::roll_back(root, record.name()) {
            Ok(()) => error,
            Err(second) => Error::new(
                error.kind(),
                format!("taking back what was changed ({}) after a failure", second.chain()),
            )
            .source(error),
        });
    }
    Ok(Applied {
        changed: checked.entries.len(),
        undo: Some(format!("{UNDO}/{}", record.name())),
        notes: checked.notes,
    })
}

/// The plan's writes to one disk, in the order in which they are to be made: those below 1 MiB, which make a disk look bootable,
/// last. Files must be written and unmounted by then.
pub fn disk_writes(plan: &Plan, disk: usize) -> Vec<(u64, &Content)> {
    const HEAD: u64 = 1 << 20;
    let edits = plan.disk.iter().filter(|edit| edit.disk == disk);
    let mut writes: Vec<(u64, &Content)> =
        edits.flat_map(|edit| edit.writes.iter().map(|(at, content)| (*at, content))).collect();
    writes.sort_by_key(|(at, _)| *at < HEAD);
    writes
}

/// Counts what changes the guest, so that tests can cut it off anywhere.
pub(crate) struct Steps {
    left: Cell<Option<u64>>,
    crashed: Cell<bool>,
}

impl Steps {
    fn new(options: &Options) -> Self {
        #[cfg(test)]
        let left = options.fail_at;
        #[cfg(not(test))]
        let left = None;
        let _ = options;
        Self { left: Cell::new(left), crashed: Cell::new(false) }
    }

    /// Before each change of the guest.
    fn step(&self) -> Result<()> {
        match self.left.get() {
            Some(0) => {
                self.crashed.set(true);
                Err(Error::io("writing", std::io::Error::other("the machine lost power")))
            }
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }

    fn crashed(&self) -> bool {
        self.crashed.get()
    }
}
