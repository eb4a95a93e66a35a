// SPDX-License-Identifier: Apache-2.0
//! The seam for captures: what takes an image, be it a store that this process has opened or a server before one.

use std::fmt::Debug;

use super::{Store, Summary, Writer, WriterOptions};
use crate::manifest::Manifest;
use crate::merkle::{Hash, Leaves};
use crate::{BlockSink, ExtentMap, Monitor, Result};

/// Where images can be stored.
pub trait Receiver: Debug + Send + Sync {
    /// Begins a capture of `machine`.
    fn begin(
        &self,
        machine: &str,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn Receiving>>;
}

/// A capture that has begun.
#[must_use = "a capture that is not committed leaves packs that no image uses"]
pub trait Receiving: Send + Sync {
    /// The time of the image that is looked at first.
    fn since(&self) -> Option<String>;

    /// True if a leaf is there already; this capture may then name it without sending it. A receiver that cannot tell says false.
    fn rely(&self, hash: &Hash) -> bool {
        let _ = hash;
        false
    }

    /// Where a disk of `size` bytes goes.
    fn sink(&self, size: u64) -> Box<dyn BlockSink + '_>;

    /// Makes the image: `disks` are its disks' maps and leaves in the manifest's order. Answers its time, and what was stored.
    fn commit(
        self: Box<Self>,
        manifest: Manifest,
        disks: &[(&ExtentMap, &Leaves)],
        read_bytes: u64,
    ) -> Result<(String, Summary)>;
}

impl Receiver for Store {
    fn begin(
        &self,
        machine: &str,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn Receiving>> {
        Ok(Box::new(Writer::begin(self, machine, options, monitor)?))
    }
}

impl Receiving for Writer {
    fn since(&self) -> Option<String> {
        self.parent().map(|image| image.time.clone())
    }

    fn rely(&self, hash: &Hash) -> bool {
        self.has(hash)
    }

    fn sink(&self, size: u64) -> Box<dyn BlockSink + '_> {
        Box::new(Self::sink(self, size))
    }

    fn commit(
        self: Box<Self>,
        manifest: Manifest,
        disks: &[(&ExtentMap, &Leaves)],
        read_bytes: u64,
    ) -> Result<(String, Summary)> {
        let (image, summary) = Self::commit(*self, manifest, disks, read_bytes)?;
        Ok((image.time, summary))
    }
}
