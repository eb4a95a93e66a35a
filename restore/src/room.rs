// SPDX-License-Identifier: Apache-2.0
//! Whether targets that are files find room on their filesystems.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use unmoor_images::formats::Compression;
use unmoor_images::{BlockSource, Error, Monitor, Result, State, copy};

use crate::plan::{DiskPlan, Options, Plan, Target};
use crate::target::Partial;
use crate::view::View;

/// Compares what the plan's files will hold with the free room where they will be.
///
/// Content that compresses may fit all the same, which is only warned of.
///
/// # Errors
///
/// `Refused`, with the bytes that are missing.
pub fn check(plan: &Plan, options: &Options, monitor: &dyn Monitor) -> Result<()> {
    let mut folders: Vec<(u64, PathBuf, u64)> = Vec::new();
    for disk in &plan.disks {
        let Target::File { path, format } = &disk.target else { continue };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(metadata) = fs::metadata(folder) else { continue };
        let Some(free) = free(folder) else { continue };
        let taken = if options.resume { Partial::taken(path) } else { 0 };
        let free = free.saturating_add(taken);
        let before = folders.iter().find(|known| known.0 == metadata.dev()).map_or(0, |known| known.2);
        let mut needed = disk.extents.bytes(State::Data);
        if before.saturating_add(needed) > free {
            needed = known_data(disk)?;
        }
        let total = before.saturating_add(needed);
        if total > free {
            let because = format!(
                "{needed} bytes of data do not fit into the {} bytes that are free in {}: make {} bytes of room",
                free.saturating_sub(before),
                folder.display(),
                total - free
            );
            if !format.compresses() || options.compression == Compression::None {
                return Err(Error::refused("creating", because).path(path));
            }
            monitor.warn(format!("{because}, unless compression makes up for it"));
        }
        folders.retain(|known| known.0 != metadata.dev());
        folders.push((metadata.dev(), folder.to_owned(), total));
    }
    Ok(())
}

/// Bytes that the image itself does not know to be zero.
fn known_data(disk: &DiskPlan) -> Result<u64> {
    if disk.image.stream.is_some() {
        return Ok(disk.extents.bytes(State::Data));
    }
    let view = View::new(&*disk.image.source, &disk.pieces, &disk.patches, disk.size, disk.sector_size);
    let source: &dyn BlockSource = &view;
    Ok(copy::refine(source, &disk.extents)?.bytes(State::Data))
}

/// Bytes free to this process; root may use what is reserved.
fn free(folder: &Path) -> Option<u64> {
    let state = statvfs(folder).ok()?;
    let blocks =
        if nix::unistd::geteuid().is_root() { state.blocks_free() } else { state.blocks_available() };
    Some(blocks.saturating_mul(state.fragment_size()))
}
