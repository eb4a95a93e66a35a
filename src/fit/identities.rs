// SPDX-License-Identifier: Apache-2.0
//! Other identities for what lies on the disks, written when all files are and everything is unmounted.
//!
//! A filesystem gets its own through its own device, which writes to every member of an array and into an opened container. What
//! devices are made from follows when they are gone, unless it lies in a container itself.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use unmoor_convert::identity::carry_out::{self, DiskWrites};
use unmoor_convert::plan::{Identified, IdentityEdit};
use unmoor_images::formats::raw::RawSource;
use unmoor_images::layout::DiskLayout;
use unmoor_images::{BlockSource, Error, Result, ResultExt};
use unmoor_initramfs::activate::Activated;

/// Of what is reached through devices only.
pub(super) fn on_devices(edits: &[IdentityEdit], disks: &[PathBuf], activated: &Activated) -> Result<()> {
    for edit in edits {
        if let Identified::Filesystem { disk, place, .. } = &edit.of {
            let path = activated.node(*disk, place)?;
            let source = opened(path)?;
            write(path, carry_out::filesystem_writes(&source, &edit.of)?)?;
        }
    }
    let paths = || disks.iter().chain(activated.opened.iter().map(|opened| &opened.path));
    for edit in edits.iter().filter(|edit| is_inside(edit, disks)) {
        let sources = paths().map(|path| opened(path)).collect::<Result<Vec<_>>>()?;
        let sources: Vec<&dyn BlockSource> = sources.iter().map(|source| source as _).collect();
        for (disk, at, bytes) in carry_out::writes(&sources, &activated.layouts, &edit.of)? {
            let path = paths().nth(disk).filter(|_| disk >= disks.len());
            let path = path.ok_or_else(|| {
                let because = "it lies partly within a container and partly outside";
                Error::refused(format!("changing the identity of {}", edit.of.what()), because)
            })?;
            write(path, vec![(at, bytes)])?;
        }
    }
    Ok(())
}

/// Of the rest, in the order in which it was planned.
pub(super) fn on_disks(edits: &[IdentityEdit], disks: &[PathBuf], layouts: &[DiskLayout]) -> Result<()> {
    // Layouts of what was opened describe disks that are gone.
    let layouts = layouts.get(..disks.len()).unwrap_or(layouts);
    for edit in edits.iter().filter(|edit| !is_inside(edit, disks)) {
        let sources = disks.iter().map(|path| opened(path)).collect::<Result<Vec<_>>>()?;
        let sources: Vec<&dyn BlockSource> = sources.iter().map(|source| source as _).collect();
        let writes: DiskWrites = carry_out::writes(&sources, layouts, &edit.of)?;
        for (disk, at, bytes) in writes {
            if let Some(path) = disks.get(disk) {
                write(path, vec![(at, bytes)])?;
            }
        }
    }
    Ok(())
}

fn is_inside(edit: &IdentityEdit, disks: &[PathBuf]) -> bool {
    !matches!(edit.of, Identified::Filesystem { .. })
        && edit.of.disks().iter().any(|disk| *disk >= disks.len())
}

/// Anew each time: a kernel keeps what it read of a device, and writes to it past that.
fn opened(path: &Path) -> Result<RawSource> {
    let doing = || format!("opening {}", path.display());
    let file = File::open(path).doing(doing)?;
    // What was read before is forgotten; where the kernel does not do that, nothing was read.
    let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    RawSource::open(path).doing(doing)
}

fn write(path: &Path, writes: Vec<(u64, Vec<u8>)>) -> Result<()> {
    let doing = || format!("writing to {}", path.display());
    let file = File::options().read(true).write(true).open(path).doing(doing)?;
    for (at, bytes) in writes {
        file.write_all_at(&bytes, at).map_err(|error| Error::io(doing(), error).at(at))?;
    }
    file.sync_all().doing(doing)
}
