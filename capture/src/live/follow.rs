// SPDX-License-Identifier: Apache-2.0
//! One capture after the other of the same disks, each of which reads what was written since the last.

use unmoor_images::{Monitor, Result};

use super::{Options, Session, open_disks};
use crate::capture::{Origin, Recorder, Report, capture_from};
use crate::disk::Disk;
use crate::request::{Request, Target, usage};

/// Follows disks until it is dropped. What it knows of them lives in memory: one that is started anew reads all once.
pub struct Follower<'a> {
    request: Request,
    disks: Vec<Disk<'a>>,
    session: Session,
}

impl<'a> Follower<'a> {
    /// Begins to follow the sources of `request`, which has live options and a store.
    pub fn start(request: Request, options: &Options, monitor: &'a dyn Monitor) -> Result<Self> {
        if !matches!(request.target, Target::Store { .. } | Target::Server { .. }) {
            return Err(usage(
                "following disks",
                "images that build upon each other need a store: dir:PATH/NAME or s3://BUCKET/NAME",
            ));
        }
        let disks = open_disks(&request, monitor)?;
        let session = Session::start(&request, options, &disks, monitor)?;
        Ok(Self { request, disks, session })
    }

    /// Captures the disks as they are now.
    ///
    /// # Errors
    ///
    /// Those of a capture; the next one goes on from there.
    pub fn capture(&mut self, monitor: &dyn Monitor) -> Result<Report> {
        capture_from(&self.request, &Origin::Live(&self.disks, &self.session), &Recorder::new(monitor))
    }

    /// Bytes that were written since the last capture; 0 where that is not known.
    pub fn pending_bytes(&self) -> u64 {
        self.session.pending_bytes(self.disks.len())
    }

    /// True if captures read only what was written; else each reads all.
    pub fn tracks(&self) -> bool {
        self.session.tracks()
    }
}
