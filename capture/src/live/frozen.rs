// SPDX-License-Identifier: Apache-2.0
//! All filesystems of some disks, frozen together, and thawed whatever happens.

use std::time::{Duration, Instant};

use unmoor_images::{Error, ErrorKind, Result};

use super::filesystems::Filesystem;
use super::watchdog::Watchdog;
use crate::sys::freeze;

/// Filesystems that are frozen. Dropping thaws them.
pub(super) struct Frozen<'a> {
    filesystems: &'a [Filesystem],
    watchdog: &'a Watchdog,
    /// Which of them are.
    frozen: Vec<usize>,
    began: Instant,
}

/// Freezes `filesystems` in order, for `limit` at most. What cannot be frozen (FAT) is synced; its name is in the second part of the answer.
pub(super) fn freeze_all<'a>(
    filesystems: &'a [Filesystem],
    watchdog: &'a Watchdog,
    limit: Duration,
) -> Result<(Frozen<'a>, Vec<String>)> {
    let mut frozen = Frozen { filesystems, watchdog, frozen: Vec::new(), began: Instant::now() };
    let mut left_out = Vec::new();
    for (index, filesystem) in filesystems.iter().enumerate() {
        watchdog.guard(index, limit);
        match freeze::freeze(&filesystem.file) {
            Ok(()) => frozen.frozen.push(index),
            Err(error) => {
                watchdog.release(index);
                match error.raw_os_error() {
                    Some(libc::EOPNOTSUPP) => {
                        let _ = freeze::sync(&filesystem.file);
                        left_out.push(format!("{} ({})", filesystem.at.display(), filesystem.kind));
                    }
                    Some(libc::EBUSY) => {
                        let because = "somebody else has frozen it: end that, or `fsfreeze --unfreeze` it";
                        return Err(Error::refused("freezing", because).path(&filesystem.at));
                    }
                    _ => return Err(Error::io("freezing", error).path(&filesystem.at)),
                }
            }
        }
    }
    watchdog.extend(limit);
    Ok((frozen, left_out))
}

impl Frozen<'_> {
    /// Since the first of them began to freeze.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Thaws them, and answers how long writers had to wait; an error if they were not frozen all the time.
    pub(super) fn thaw(mut self) -> Result<Duration> {
        let fired = self.watchdog.has_fired();
        let whole = self.thaw_all();
        let spent = self.began.elapsed();
        if fired || !whole {
            let because = match fired {
                true => "they were thawed after --max-freeze-hard, before the last pass was complete",
                false => "somebody else thawed one before the last pass was complete",
            };
            return Err(Error::new(ErrorKind::Mismatch, "holding the filesystems frozen").because(because));
        }
        Ok(spent)
    }

    /// True if all of them were frozen until now.
    fn thaw_all(&mut self) -> bool {
        let mut whole = true;
        for index in std::mem::take(&mut self.frozen).into_iter().rev() {
            if let Some(filesystem) = self.filesystems.get(index) {
                whole &= freeze::thaw(&filesystem.file).is_ok();
            }
            self.watchdog.release(index);
        }
        self.watchdog.stand_down();
        whole
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.thaw_all();
    }
}
