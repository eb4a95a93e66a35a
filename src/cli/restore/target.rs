// SPDX-License-Identifier: Apache-2.0
//! What a target is, and whether it may be written to.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use unmoor_capture::disk::Device;
use unmoor_capture::facts::{Tree, describe_disk};
use unmoor_capture::in_use;
use unmoor_images::formats::Format;
use unmoor_images::layout::{self, Content, Hibernated};
use unmoor_images::manifest::DiskFacts;
use unmoor_images::monitor::Silent;
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result, ResultExt};
use unmoor_restore::plan::Target;
use unmoor_restore::target::{is_partition, is_read_only};

use super::Arguments;
use crate::output::size::show_size;

/// A device that nobody uses, or a file to create.
pub(super) fn find(path: &Path, arguments: &Arguments, monitor: &dyn Monitor) -> Result<Target> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !path.starts_with("/dev") => {
            return file(path, arguments);
        }
        Err(error) => return Err(Error::io("opening", error).path(path)),
    };
    if metadata.file_type().is_block_device() {
        return device(path, metadata.rdev(), arguments, monitor);
    }
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Usage, "opening")
            .path(path)
            .because("it is neither a block device nor a file"));
    }
    if !arguments.force {
        return Err(Error::refused("creating", "it exists: choose another name, or give --force").path(path));
    }
    file(path, arguments)
}

fn file(path: &Path, arguments: &Arguments) -> Result<Target> {
    let format = arguments.output.format.map(Into::into).or_else(|| Format::from_extension(path));
    let format = format.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "choosing a format for")
            .path(path)
            .because("its name ends in none of .qcow2, .raw, .vmdk and .vhdx: rename it, or give --format")
    })?;
    format.check_written().doing(|| format!("creating {}", path.display()))?;
    Ok(Target::File { path: path.to_owned(), format })
}

fn device(path: &Path, number: u64, arguments: &Arguments, monitor: &dyn Monitor) -> Result<Target> {
    let claim = in_use::claim(path)?;
    if !claim.users.is_empty() {
        let users: Vec<String> = claim.users.iter().map(in_use::User::explain).collect();
        return Err(Error::refused("restoring to", users.join("; ")).path(path));
    }
    if !claim.is_exclusive() {
        let because = "it is in use: mounted read-only, or part of a volume group or array; release it first";
        return Err(Error::refused("restoring to", because).path(path));
    }
    if is_read_only(number) {
        let because = "it is read-only: a switch on the card, or `blockdev --setrw`, makes it writable";
        return Err(Error::refused("restoring to", because).path(path));
    }
    let disk = Device::open(path)?;
    let facts = describe_disk(&Tree::default(), number).unwrap_or_default();
    refuse_removable(&facts, arguments.removable).map_err(|error| error.path(path))?;
    if is_partition(number) {
        monitor.warn(format!(
            "{} is a partition, not a whole disk: what is restored will lie inside it",
            path.display()
        ));
    }
    let identity = [facts.model, facts.serial].into_iter().flatten();
    let parts: Vec<String> =
        identity.chain([show_size(disk.size())]).chain(existing_content(&disk, monitor)).collect();
    Ok(Target::Device {
        path: path.to_owned(),
        size: disk.size(),
        sector_size: disk.sector_size(),
        description: parts.join(", "),
    })
}

fn refuse_removable(facts: &DiskFacts, allowed: bool) -> Result<()> {
    if facts.removable && !allowed {
        let because = "it is removable, or on USB: give --removable if you mean it";
        return Err(Error::refused("restoring to", because));
    }
    Ok(())
}

/// What will be lost, in a few words. What cannot be read is no obstacle to writing over it.
fn existing_content(disk: &Device, monitor: &dyn Monitor) -> Option<String> {
    let options = layout::Options { all: false, hibernated: Hibernated::Keep };
    if monitor.cancelled() {
        return None;
    }
    let mut layouts = layout::analyze(&[disk], &options, &Silent).ok()?;
    let layout = layouts.pop()?;
    let mut found = Vec::new();
    let mut waiting: Vec<&layout::Region> = layout.regions.iter().rev().collect();
    while let Some(region) = waiting.pop() {
        match &region.content {
            Content::Filesystem(facts) => found.push(match &facts.label {
                Some(label) => format!("{} {label:?}", facts.kind.name()),
                None => facts.kind.name().to_owned(),
            }),
            Content::PhysicalVolume { vg, .. } => {
                found.push(format!("LVM {}", vg.as_deref().unwrap_or("physical volume")));
            }
            Content::MdMember { .. } => found.push("md member".to_owned()),
            Content::Luks { .. } => found.push("LUKS".to_owned()),
            Content::BootArea | Content::Extended | Content::Unknown => {}
        }
        waiting.extend(region.children.iter().rev());
    }
    if found.is_empty() { None } else { Some(format!("holds {}", found.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removable_disk_is_refused_unless_it_is_asked_for() {
        let facts = |removable| DiskFacts { removable, ..DiskFacts::default() };
        assert_eq!(refuse_removable(&facts(true), false).unwrap_err().kind(), ErrorKind::Refused);
        assert!(
            refuse_removable(&facts(true), true).is_ok() && refuse_removable(&facts(false), false).is_ok()
        );
    }
}
