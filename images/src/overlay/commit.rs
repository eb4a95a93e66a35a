// SPDX-License-Identifier: Apache-2.0
//! Deciding a change, and carrying out what is decided: as often as it takes, with the same result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::changes::stop;
use super::record::{self, DiskChange, Range, Record};
use super::{About, Changed, Overlays, Target, base, changes, lock, open, path_for};
use crate::formats::Patcher;
use crate::manifest::{Manifest, hex, path_for as manifest_path, sync_folder, write_map};
use crate::monitor::{Event, Phase};
use crate::{BlockSource, Error, ErrorKind, Monitor, RangeSet, Result, ResultExt};

const EXCLUSIVE: FlockArg = FlockArg::LockExclusiveNonblock;
/// Bytes of a range in a record at most.
pub(super) const PIECE: u64 = 1 << 20;

/// What a commit changed.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// Bytes that differ from before, for each image.
    pub changed_bytes: Vec<u64>,
}

/// Copies what the overlays hold into their images, whose maps and manifest follow.
///
/// # Errors
///
/// Up to the record nothing has been changed. After it an error leaves the record: the next command carries it on.
#[allow(clippy::needless_pass_by_value, reason = "what is committed cannot be changed any more")]
pub fn commit(overlays: Overlays, about: &About, monitor: &dyn Monitor) -> Result<Committed> {
    let targets = overlays.targets();
    let Some(first) = targets.first() else { return Ok(Committed::default()) };
    let mut found = changes(&overlays, monitor)?;
    let changed_bytes: Vec<u64> = found.iter_mut().map(|disk| disk.changed.bytes()).collect();
    if changed_bytes.iter().all(|bytes| *bytes == 0) {
        return Ok(Committed { changed_bytes });
    }
    let mut manifest = Manifest::beside(&first.image)?.map(|(manifest, _)| manifest);
    let mut undecided = Undecided { record: record::path_for(&first.image), files: Vec::new() };
    let mut disks = Vec::new();
    for (target, disk) in targets.iter().zip(&mut found) {
        let map = match &mut manifest {
            Some(manifest) => {
                undecided.files.extend(next_map(manifest, &target.image));
                update(manifest, target, disk, about, monitor)?
            }
            None => None,
        };
        let ranges = ranges(&disk.source, &mut disk.changed, monitor)?;
        disks.push(DiskChange { image: name(&target.image), image_format: target.format, ranges, map });
    }
    let manifest = manifest.filter(|_| disks.iter().any(|disk| disk.map.is_some()));
    let manifest = manifest.map(|manifest| (manifest_file(&first.image), manifest));
    stop(monitor)?;
    for other in targets.iter().skip(1) {
        let pointer = record::path_for(&other.image);
        undecided.files.push(pointer.clone());
        Record::pointer(&first.image).write(&pointer)?;
    }
    Record::new(disks, manifest).write(&undecided.record)?;
    drop(undecided);
    // The record was read back from what is on the disk: it is what a later run would read.
    carry_out(&first.image, false, monitor)?;
    Ok(Committed { changed_bytes })
}

/// Files of a commit that is not decided yet: removed when dropped, as long as there is no record that needs them.
struct Undecided {
    record: PathBuf,
    files: Vec<PathBuf>,
}

impl Drop for Undecided {
    fn drop(&mut self) {
        if !self.record.exists() {
            // What stays is in nobody's way, and goes with the next run.
            self.files.iter().for_each(|file| drop(fs::remove_file(file)));
        }
    }
}

/// Where the new map of an image lies until its change is carried out.
pub(super) fn next_map(manifest: &Manifest, image: &Path) -> Option<PathBuf> {
    let name = name(image);
    let record = manifest.disks.iter().find(|disk| disk.image == name)?;
    Some(image.with_file_name(format!("{}.next", record.map.file)))
}

/// Carries on a change of `image` (or of another disk of its machine) that was decided and not completed. True if there was one.
///
/// # Errors
///
/// `Refused` while another run is at it.
pub fn finish_interrupted(image: &Path, monitor: &dyn Monitor) -> Result<bool> {
    let own = record::path_for(image);
    let Some(found) = Record::read(&own)? else { return Ok(false) };
    let Some(leader) = &found.leader else {
        let _locks = lock_all(image, &found)?;
        return carry_out(image, true, monitor);
    };
    let leader = image.with_file_name(leader);
    let named = |record: &Record| record.disks.iter().any(|disk| disk.image == name(image));
    match Record::read(&record::path_for(&leader))? {
        Some(record) if named(&record) => {
            let _locks = lock_all(&leader, &record)?;
            carry_out(&leader, true, monitor)
        }
        // It was never decided, or is complete.
        _ => {
            let _lock = lock(image, EXCLUSIVE)?;
            remove(&own)?;
            remove(&path_for(image))?;
            Ok(false)
        }
    }
}

fn lock_all(leader: &Path, record: &Record) -> Result<Vec<Flock<File>>> {
    record.disks.iter().map(|disk| lock(&leader.with_file_name(&disk.image), EXCLUSIVE)).collect()
}

/// False where another run has completed it meanwhile.
fn carry_out(leader: &Path, again: bool, monitor: &dyn Monitor) -> Result<bool> {
    let own = record::path_for(leader);
    let Some(record) = Record::read(&own)? else { return Ok(false) };
    if again {
        monitor.note(format!("completing an interrupted change of {}", leader.display()));
    }
    for (index, disk) in record.disks.iter().enumerate() {
        let image = leader.with_file_name(&disk.image);
        let total_bytes = disk.ranges.iter().map(|range| range.end - range.start).sum();
        let doing = || format!("changing {}", image.display());
        monitor.event(Event::Started {
            disk: index,
            phase: Phase::Commit,
            total_bytes,
            name: disk.image.clone(),
        });
        copy(index, disk, &image, again, monitor).doing(doing)?;
        monitor.event(Event::Finished { disk: index });
    }
    let step = || monitor.event(Event::Advanced { disk: 0, done_bytes: 0, written_bytes: 0 });
    for map in record.disks.iter().filter_map(|disk| disk.map.as_ref()) {
        let (to, from) = (leader.with_file_name(map), leader.with_file_name(format!("{map}.next")));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("renaming the new map", error).path(&from));
            }
            _ => step(),
        }
    }
    if let Some((file, manifest)) = &record.manifest {
        sync_folder(leader)?;
        manifest.write(&leader.with_file_name(file))?;
        step();
    }
    sync_folder(leader)?;
    // A pointer without a record says nothing; a record without pointers says all.
    for disk in record.disks.iter().filter(|disk| disk.image != name(leader)) {
        remove(&record::path_for(&leader.with_file_name(&disk.image)))?;
        step();
    }
    remove(&own)?;
    sync_folder(leader)?;
    step();
    for disk in &record.disks {
        remove(&path_for(&leader.with_file_name(&disk.image)))?;
        step();
    }
    Ok(true)
}

/// Copies the ranges, or finds that they have been copied where the overlay is gone.
fn copy(index: usize, disk: &DiskChange, image: &Path, again: bool, monitor: &dyn Monitor) -> Result<()> {
    let target = Target::file(image.to_owned(), disk.image_format, 512);
    let overlay = path_for(image);
    let there = overlay.exists();
    let source: Box<dyn BlockSource> =
        if there { Box::new(open(&target, &overlay)?.source) } else { base(&target)? };
    let mut patcher = if there { Some(Patcher::open(image, disk.image_format, again)?) } else { None };
    let mut buffer = vec![0; PIECE as usize];
    let mut done_bytes = 0;
    for range in &disk.ranges {
        let len = (range.end - range.start).min(PIECE);
        let Some(part) = buffer.get_mut(..len as usize) else { continue };
        source.read_at(part, range.start)?;
        if hex(blake3::hash(part).as_bytes()) != range.blake3 {
            let because =
                "the change is not as it was decided: restore the image from a copy, or capture it again";
            return Err(Error::new(ErrorKind::Mismatch, "reading the overlay")
                .at(range.start)
                .because(because));
        }
        if let Some(patcher) = &mut patcher {
            patcher.write_at(part, range.start)?;
        }
        done_bytes += len;
        monitor.event(Event::Advanced { disk: index, done_bytes, written_bytes: done_bytes });
    }
    patcher.map_or(Ok(()), Patcher::finish)
}

/// Brings the manifest's record of this image, and its map, to what they will be; the map's name, where it has one.
fn update(
    manifest: &mut Manifest,
    target: &Target,
    disk: &mut Changed,
    about: &About,
    monitor: &dyn Monitor,
) -> Result<Option<String>> {
    let image = name(&target.image);
    let Some(record) = manifest.disks.iter_mut().find(|disk| disk.image == image) else { return Ok(None) };
    let folder = target.image.parent().unwrap_or(Path::new(""));
    let (extents, leaves) = record.read_map(folder)?;
    let (new_extents, new_leaves) = disk.record(record, (&extents, &leaves), about, monitor)?;
    let map = record.map.file.clone();
    let next = write_map(&folder.join(format!("{map}.next")), &new_extents, &new_leaves)?;
    record.map.bytes = next.bytes;
    record.map.blake3 = next.blake3;
    Ok(Some(map))
}

fn ranges(source: &dyn BlockSource, changed: &mut RangeSet, monitor: &dyn Monitor) -> Result<Vec<Range>> {
    let mut ranges = Vec::new();
    let mut buffer = vec![0; PIECE as usize];
    for range in changed.ranges() {
        let mut start = range.start;
        while start < range.end {
            stop(monitor)?;
            let end = range.end.min(start + PIECE);
            let Some(part) = buffer.get_mut(..(end - start) as usize) else { break };
            source.read_at(part, start)?;
            ranges.push(Range { start, end, blake3: hex(blake3::hash(part).as_bytes()) });
            start = end;
        }
    }
    Ok(ranges)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of the manifest that [`Manifest::beside`] found.
fn manifest_file(image: &Path) -> String {
    let own = manifest_path(image);
    let image_name = name(image);
    let candidates = std::iter::once(own.clone()).chain(
        image_name.rsplit_once(".disk").map(|(stem, _)| image.with_file_name(format!("{stem}.unmoor.json"))),
    );
    let names_it = |path: &PathBuf| {
        Manifest::read(path).is_ok_and(|manifest| manifest.disks.iter().any(|disk| disk.image == image_name))
    };
    let mut candidates = candidates;
    name(&candidates.find(names_it).unwrap_or(own))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("removing", error).path(path))
        }
        _ => Ok(()),
    }
}
