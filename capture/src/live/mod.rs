// SPDX-License-Identifier: Apache-2.0
//! Disks that are in use, as if the machine had paused for one instant.
//!
//! ```text
//!   follow writes -> copy all -> copy what was written meanwhile, again and again -> little is left
//!     -> hooks -> sync -> freeze all filesystems -> what is used, anew -> copy the last of it -> nothing was lost? -> thaw -> hooks
//! ```
//!
//! Live migration of a machine's memory does the same. Used maps of mounted filesystems are hints, so that under the freeze they are
//! made anew, and what was never copied is. Who writes to a disk without a filesystem is not stopped by any freeze: if
//! that shows, it is said.

mod filesystems;
mod follow;
mod frozen;
mod held;
mod hooks;
mod limited;
mod passes;
mod session;
mod watchdog;

use std::path::PathBuf;
use std::time::Duration;

pub use follow::Follower;
pub(crate) use session::{Session, open_disks};

/// How to capture disks that are in use.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to know what was written meanwhile.
    pub method: Method,
    /// How long writers may have to wait, if it can be had.
    pub max_freeze: Duration,
    /// How long they wait at most, whatever happens.
    pub max_freeze_hard: Duration,
    /// Programs that are called before and after; none to call none.
    pub hooks: Option<PathBuf>,
    /// How long each of those may take.
    pub hook_limit: Duration,
    /// Bytes a second that are read before the freeze at most.
    pub rate_limit: Option<u64>,
    /// Called while all is frozen, after the last pass.
    #[cfg(test)]
    pub(crate) while_frozen: Option<Look>,
}

/// See [`Options::while_frozen`].
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct Look(pub(crate) std::sync::Arc<dyn Fn() + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Look")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            method: Method::Best,
            max_freeze: Duration::from_millis(800),
            max_freeze_hard: Duration::from_secs(10),
            hooks: Some("/etc/unmoor/freeze.d".into()),
            hook_limit: Duration::from_secs(30),
            rate_limit: None,
            #[cfg(test)]
            while_frozen: None,
        }
    }
}

/// How to know what was written while the disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Follow the writes; where the kernel cannot, read twice.
    Best,
    /// Follow the writes, or fail.
    Track,
    /// Read all once before the freeze and once under it.
    Converge,
}

#[cfg(test)]
mod tests;
