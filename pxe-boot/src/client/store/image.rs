// SPDX-License-Identifier: Apache-2.0
//! The image of a job, read through the server.

use std::sync::Arc;

use unmoor_images::manifest::{decode_map, hex};
use unmoor_images::merkle::Leaves;
use unmoor_images::store::ImageRecord;
use unmoor_images::{Error, ErrorKind, ExtentMap, Result, ResultExt};

use super::{Rate, RemoteDisk};
use crate::client::Job;

/// Most bytes of a disk's map.
const MOST_MAP: u64 = 1 << 30;

/// An image.
pub struct RemoteImage {
    job: Job,
    record: ImageRecord,
    rate: Arc<Rate>,
}

impl RemoteImage {
    /// Asks for the job's image; `rate_limit` in bytes per second, 0 for none.
    pub fn open(job: &Job, rate_limit: u64) -> Result<Self> {
        let record = job.get_json("image", "asking the server for the image")?;
        Ok(Self { job: job.clone(), record, rate: Arc::new(Rate::new(rate_limit)) })
    }

    /// Its object.
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }

    /// One disk, with its map, which has the hash that the image's manifest says.
    pub fn disk(&self, number: usize) -> Result<(RemoteDisk, ExtentMap, Leaves)> {
        let doing = || format!("asking the server for the map of disk {number}");
        let record = self.record.manifest.disks.get(number);
        let record = record.ok_or_else(|| Error::malformed(doing(), "the image has no such disk"))?;
        let bytes = self.job.get_bytes(&format!("image/disks/{number}/map"), MOST_MAP, "fetching a map")?;
        let (extents, leaves) = decode_map(&bytes).doing(doing)?;
        if extents.size() != record.size || leaves.size() != record.size || hex(&leaves.root()) != record.root
        {
            return Err(
                Error::new(ErrorKind::Mismatch, doing()).because("it is not that of the image's manifest")
            );
        }
        let disk = RemoteDisk::new(&self.job, number, leaves.clone(), record.sector_size, &self.rate);
        Ok((disk, extents, leaves))
    }
}
