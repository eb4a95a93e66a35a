// SPDX-License-Identifier: Apache-2.0
//! NTFS: used clusters from `$Bitmap`, read through the master file table.
//!
//! Structures as in ntfs-3g's `layout.h` and Linux' `fs/ntfs3/ntfs.h`. A volume that Windows did not close
//! shows allocations that lag behind its journal or its hibernated memory, so it counts as used as a whole.

mod boot;
mod condition;
mod record;
#[cfg(test)]
mod tests;
mod volume;

use boot::Boot;
use record::{Stream, kind};
use volume::{Content, Volume};

use super::bit_runs::set_runs;
use super::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::{BlockSource, Error, RangeSet, Result};

/// Record number of the allocation bitmap.
const BITMAP: u64 = 6;
/// The bitmap is read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// NTFS by its boot sector, with what `$Volume`, `$LogFile` and `hiberfil.sys` say. BitLocker volumes have another
/// magic and are not NTFS.
pub(super) fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some(boot) = Boot::read(source)? else { return Ok(None) };
    let volume = Volume::open(source, boot)?;
    let (major, minor, _) = condition::volume_information(&volume)?;
    let boot = &volume.boot;
    Ok(Some(FilesystemFacts {
        kind: FilesystemKind::Ntfs,
        uuid: (boot.serial != 0).then(|| format!("{:016X}", boot.serial)),
        label: condition::label(&volume)?,
        block_size: boot.cluster_size,
        size_bytes: boot.counted_bytes.saturating_add(boot.sector_size.into()).min(source.size()),
        condition: condition::condition(&volume)?,
        max_sector_size: boot.sector_size,
        features: vec![format!("version {major}.{minor}")],
    }))
}

/// Clusters of `$Bitmap`, the rest behind the last whole cluster, and the backup boot sector, which no bitmap shows.
pub(super) fn used(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    if let Condition::Dirty(found) | Condition::Hibernated(found) = &facts.condition {
        return Ok(Used::everything(
            source.size(),
            format!(
                "{found}, so the allocation bitmap may lag behind; to capture used blocks only, boot Windows, turn \
                 Fast Startup and hibernation off ('powercfg /h off') and shut it down with 'shutdown /s /f /t 0'"
            ),
        ));
    }
    let boot = Boot::read(source)?
        .ok_or_else(|| Error::malformed("reading the NTFS boot sector", "its magic is missing"))?;
    let volume = Volume::open(source, boot)?;
    let cluster = u64::from(volume.boot.cluster_size);
    let mut ranges = RangeSet::new();
    let bitmap = bitmap(&volume)?;
    let mut piece = vec![0; PIECE as usize];
    let bytes = volume.boot.clusters.div_ceil(8);
    for at in (0..bytes).step_by(PIECE as usize) {
        let now = piece.get_mut(..(bytes - at).min(PIECE) as usize).unwrap_or_default();
        volume.read(&bitmap, at, now)?;
        let first = at * 8;
        set_runs(now, (volume.boot.clusters - first).min(PIECE * 8), |run| {
            ranges.insert((first + run.start) * cluster..(first + run.end) * cluster);
        });
    }
    check(&volume, &mut ranges)?;

    // The sectors behind the last whole cluster, with the backup boot sector. The bitmap's size tells the number of
    // clusters only to within 64, so that many more are kept should the boot sector say too little.
    let end = volume.boot.clusters * cluster;
    ranges.insert(end..facts.size_bytes.max(end.saturating_add(64 * cluster)).min(source.size()));
    // Windows looks for the backup in the last sector of the partition, which may be larger than the volume.
    let last = source.size().saturating_sub(1);
    ranges.insert(last - last % u64::from(volume.boot.sector_size)..source.size());
    Ok(Used { ranges, ..Used::default() })
}

/// Where `$Bitmap` lies, after checks that it can be believed.
fn bitmap(volume: &Volume<'_>) -> Result<Stream> {
    let broken = |because: &'static str| Error::malformed("reading the NTFS $Bitmap", because);
    let Some(Content::Stream(stream)) = volume.content(BITMAP, kind::DATA, "")? else {
        return Err(broken("its data is missing or resident"));
    };
    if !stream.plain || stream.runs.iter().any(|run| run.lcn.is_none()) {
        return Err(broken("it is sparse, compressed or encrypted"));
    }
    if stream.valid < volume.boot.clusters.div_ceil(8) || stream.size < stream.valid {
        return Err(broken("it is shorter than the volume"));
    }
    // It is padded to eight bytes. A longer one belongs to a volume larger than the boot sector says, unless the
    // backup boot sector says the same.
    let padded = volume.boot.clusters.div_ceil(8).next_multiple_of(8);
    if stream.size > padded && !volume.boot.is_backed_up(volume.source)? {
        return Err(broken("it is longer than the volume"));
    }
    if stream.clusters().checked_mul(volume.boot.cluster_size.into()) != Some(stream.allocated) {
        return Err(broken("its run list and its size differ"));
    }
    Ok(stream)
}

/// `$Bitmap` has no checksum; one that calls the system files' own clusters free is not the bitmap.
fn check(volume: &Volume<'_>, ranges: &mut RangeSet) -> Result<()> {
    let cluster = u64::from(volume.boot.cluster_size);
    for number in 0..=7 {
        for attribute in volume.record(number)?.attributes()? {
            // An extent that does not begin at 0 goes with an attribute list, whose records `bitmap` has read.
            if attribute.resident()?.is_some() || attribute.first_vcn()? != 0 {
                continue;
            }
            let mut stream = Stream::default();
            attribute.extend(&mut stream, volume.boot.clusters)?;
            for (lcn, len) in stream.runs.iter().filter_map(|run| Some((run.lcn?, run.len))) {
                if !ranges.covers(lcn * cluster..(lcn + len) * cluster) {
                    return Err(Error::malformed(
                        "checking the NTFS $Bitmap",
                        format!("clusters of file record {number} are free in it"),
                    )
                    .at(lcn * cluster));
                }
            }
        }
    }
    Ok(())
}
