// SPDX-License-Identifier: Apache-2.0
//! Images copied from one store to another, whatever their keys and places: what the other has already is not read.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::image::ImageRecord;
use super::location::plain_time;
use super::pack::Content;
use super::pool::parallel;
use super::walk::cancelled;
use super::{ImageRef, Store, StoredDisk, Summary, Writer, WriterOptions};
use crate::monitor::{Event, Phase};
use crate::{BlockSource, LEAF, Monitor, Result, ResultExt, merkle};

/// Leaves that are read and sent together.
const TOGETHER: u64 = 16;
/// Pieces that are on their way at a time, which bounds memory to some 40 MiB and three packs.
const PIECES: usize = 8;

/// What was copied.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CopyReport {
    /// Images that were copied: machine and time, as they are called in the new store.
    pub copied: Vec<(String, String)>,
    /// Images that were there already.
    pub skipped: u64,
    /// Images that could not be copied: machine, time, why.
    pub failed: Vec<(String, String, String)>,
    /// Bytes that were read, before compression.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub stored_bytes: u64,
}

impl Store {
    /// Copies images to another store, the oldest of each machine first. One that cannot be read is left out, and is in the
    /// report; one that is there already is not copied again, so that a copy that was interrupted goes on.
    pub fn copy_images(
        &self,
        images: &[ImageRef],
        to: &Store,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<CopyReport> {
        let mut images = images.to_vec();
        images.sort_by(|one, two| {
            let key = |image: &ImageRef| {
                let (time, count) = super::policy::order(&image.time);
                (image.folder.clone(), time.to_owned(), count)
            };
            key(one).cmp(&key(two))
        });
        let mut report = CopyReport::default();
        for (number, image) in images.iter().enumerate() {
            if monitor.cancelled() {
                return Err(cancelled());
            }
            let record = match self.record(image) {
                Ok(record) => record,
                Err(error) => {
                    report.failed.push((image.folder.clone(), image.time.clone(), error.chain()));
                    continue;
                }
            };
            let machine = record.summary.machine.clone();
            let doing = || format!("copying {machine}@{}", image.time);
            if to.has_copy(&record).doing(doing)? {
                report.skipped += 1;
                continue;
            }
            match self.copy_image(number, image, to, options, monitor).doing(doing) {
                Ok((copied, summary)) => {
                    report.copied.push((machine, copied.time));
                    report.read_bytes += summary.added.read_bytes;
                    report.stored_bytes += summary.added.stored_bytes;
                }
                Err(error) if error.kind() == crate::ErrorKind::Cancelled => return Err(error),
                Err(error) => report.failed.push((machine, image.time.clone(), error.chain())),
            }
        }
        Ok(report)
    }

    /// True if an image of the same machine, second and content is here.
    fn has_copy(&self, record: &ImageRecord) -> Result<bool> {
        let time = plain_time(&record.summary.created)?;
        let same = |image: &ImageRef| {
            super::policy::order(&image.time).0 == time
                && self.record(image).is_ok_and(|other| other.trees == record.trees)
        };
        Ok(self.images_of(&record.summary.machine)?.iter().any(same))
    }

    fn copy_image(
        &self,
        number: usize,
        image: &ImageRef,
        to: &Store,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<(ImageRef, Summary)> {
        let opened = self.open_ref(image)?;
        opened.warnings.iter().for_each(|warning| monitor.warn(warning.clone()));
        let machine = &opened.record.summary.machine;
        let writer = Writer::begin(to, machine, options, monitor)?;
        let name = format!("{machine}@{}", image.time);
        let total_bytes = opened.record.summary.data_bytes;
        monitor.event(Event::Started { disk: number, phase: Phase::Capture, total_bytes, name });
        let read = AtomicU64::new(0);
        for disk in &opened.disks {
            copy_disk(number, disk, &writer, &read, monitor)?;
        }
        let maps: Vec<_> = opened.disks.iter().map(|disk| (&disk.extents, &disk.leaves)).collect();
        let done = writer.commit(opened.record.manifest.clone(), &maps, read.load(Ordering::Relaxed))?;
        monitor.event(Event::Finished { disk: number });
        Ok(done)
    }
}

/// Sends the leaves of a disk that the other store does not have.
fn copy_disk(
    number: usize,
    disk: &StoredDisk,
    writer: &Writer,
    read: &AtomicU64,
    monitor: &dyn Monitor,
) -> Result<()> {
    let size = disk.source.size();
    // (first leaf, how many)
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    for (first, count, hash) in disk.leaves.runs() {
        let bytes = ((first + count) * LEAF).min(size) - first * LEAF;
        if hash == merkle::zero_leaf(bytes.min(LEAF)) || writer.has(&hash) {
            continue;
        }
        // Of equal leaves one is enough.
        match pieces.last_mut() {
            Some((start, len)) if *start + *len == first && *len < TOGETHER => *len += 1,
            _ => pieces.push((first, 1)),
        }
    }
    parallel(&pieces, PIECES, |(first, count)| {
        if monitor.cancelled() {
            return Err(cancelled());
        }
        let start = first * LEAF;
        let mut data = vec![0; (((first + count) * LEAF).min(size) - start) as usize];
        disk.source.read_at(&mut data, start)?;
        let mut chunks = Vec::new();
        for (index, chunk) in (*first..).zip(data.chunks(LEAF as usize)) {
            if let Some(hash) = disk.leaves.get(index) {
                chunks.push((writer.id(&hash), chunk));
            }
        }
        writer.send(Content::Leaf, &chunks)?;
        let done = read.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
        monitor.event(Event::Advanced {
            disk: number,
            done_bytes: done,
            written_bytes: writer.stored_bytes(),
        });
        Ok(())
    })?;
    Ok(())
}
