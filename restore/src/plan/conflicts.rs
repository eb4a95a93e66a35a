// SPDX-License-Identifier: Apache-2.0
//! Targets that are the same disk, or the image that is to be read.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use unmoor_images::manifest::{self, Manifest};
use unmoor_images::{Error, Result};

use super::Target;
use crate::image::Image;

/// What a path leads to, whatever it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    /// A block device, by its number.
    Device(u64),
    /// A file, by the numbers of its filesystem and inode.
    File(u64, u64),
    /// A file that is not there yet, in a folder that is.
    New(PathBuf),
}

/// Refuses what would destroy what it reads, or write two disks to one place.
pub(super) fn check(pairs: &[(Image, Target)]) -> Result<()> {
    let targets: Vec<Vec<Thing>> = pairs.iter().map(|(_, target)| things(target.path())).collect();
    for (index, (_, target)) in pairs.iter().enumerate() {
        let own = targets.get(index).map_or(&[][..], Vec::as_slice);
        let shared = targets.iter().take(index).any(|other| overlap(other, own));
        if shared {
            return Err(refused("two disks would be restored to it", target));
        }
        for (image, _) in pairs {
            if overlap(&files_of(image), own) {
                let because = format!("it is the image {} itself, or a file of it", image.path.display());
                return Err(refused(&because, target));
            }
        }
        if let Target::File { path, .. } = target
            && let Ok(Some(_)) = Manifest::beside(path)
        {
            let manifest = manifest::path_for(path);
            let because = format!(
                "it is a captured image, of which {} would speak falsely afterwards: choose another name, or remove both",
                manifest.display()
            );
            return Err(refused(&because, target));
        }
    }
    Ok(())
}

fn refused(because: &str, target: &Target) -> Error {
    Error::refused("restoring to", because.to_owned()).path(target.path())
}

fn overlap(a: &[Thing], b: &[Thing]) -> bool {
    a.iter().any(|thing| b.contains(thing))
}

/// The image, its manifest and its map.
fn files_of(image: &Image) -> Vec<Thing> {
    let mut found = things(&image.path);
    if let Some(record) = &image.record {
        found.extend(things(&manifest::path_for(&image.path)));
        found.extend(things(&image.path.with_file_name(&record.map.file)));
    }
    found
}

/// A loop device is also the file that it shows.
fn things(path: &Path) -> Vec<Thing> {
    let Ok(metadata) = fs::metadata(path) else {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return match (fs::canonicalize(folder), path.file_name()) {
            (Ok(folder), Some(name)) => vec![Thing::New(folder.join(name))],
            _ => Vec::new(),
        };
    };
    let mut found = vec![thing(&metadata)];
    if let Some(Thing::Device(number)) = found.first() {
        let backing =
            format!("/sys/dev/block/{}:{}/loop/backing_file", libc::major(*number), libc::minor(*number));
        if let Ok(backing) = fs::read_to_string(backing)
            && let Ok(metadata) = fs::metadata(backing.trim_end_matches('\n'))
        {
            found.push(thing(&metadata));
        }
    }
    found
}

fn thing(metadata: &Metadata) -> Thing {
    if metadata.file_type().is_block_device() {
        Thing::Device(metadata.rdev())
    } else {
        Thing::File(metadata.dev(), metadata.ino())
    }
}
