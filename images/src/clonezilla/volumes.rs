// SPDX-License-Identifier: Apache-2.0
//! LVM: heads of physical volumes out of the saved configuration, and logical volumes at their extents' places.

use super::folder::Folder;
use super::{Draft, content};
use crate::volume::lvm::{self, LogicalVolume, VolumeGroup};
use crate::{Error, Result, ResultExt};

/// A line of `lvm_vg_dev.list`: "vg /dev/sda2 qdlt6U-...".
struct Listed {
    vg: String,
    device: String,
    uuid: String,
}

fn listed(folder: &Folder) -> Result<Vec<Listed>> {
    let text = folder.text("lvm_vg_dev.list")?.unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let (vg, device, uuid) = (words.next()?, words.next()?, words.next()?);
        Some(Listed { vg, device: device.trim_start_matches("/dev/").to_owned(), uuid })
    };
    Ok(text.lines().filter_map(parse).filter(|line| !line.vg.starts_with('/')).collect())
}

fn configuration(folder: &Folder, vg: &str) -> Result<String> {
    let name = format!("lvm_{vg}.conf");
    folder.text(&name)?.ok_or_else(|| Error::malformed(format!("reading {name}"), "it is not there"))
}

/// Bytes of a physical volume that is a disk without a table.
pub(super) fn device_size(folder: &Folder, device: &str) -> Result<u64> {
    match listed(folder)?.iter().find(|line| line.device == device) {
        Some(line) => Ok(lvm::head(&configuration(folder, &line.vg)?, &line.uuid)?.size),
        None => Err(Error::unsupported(format!("opening {device}"), "nothing of it is in the image")),
    }
}

/// Maps what was saved of all groups into the disks.
pub(super) fn map(folder: &Folder, disks: &mut [Draft]) -> Result<()> {
    let lines = listed(folder)?;
    let mut groups: Vec<&str> = lines.iter().map(|line| line.vg.as_str()).collect();
    groups.dedup();
    for (index, vg) in groups.iter().enumerate() {
        if groups.iter().take(index).any(|earlier| earlier == vg) {
            continue;
        }
        let volumes: Vec<&Listed> = lines.iter().filter(|line| line.vg == *vg).collect();
        group(folder, vg, &volumes, disks).doing(|| format!("putting together volume group {vg}"))?;
    }
    Ok(())
}

/// A physical volume: its disk, and its first byte there.
type Place = (usize, u64);

fn group(folder: &Folder, vg: &str, volumes: &[&Listed], disks: &mut [Draft]) -> Result<()> {
    let text = configuration(folder, vg)?;
    let group = VolumeGroup::parse(&text)?;
    if let Some(doubt) = &group.doubt {
        return Err(Error::unsupported("reading its configuration", doubt.clone()));
    }
    let mut places = Vec::new();
    for member in &group.volumes {
        let missing = || {
            let because = format!("its physical volume {} is not in the image", member.uuid);
            Error::unsupported("looking for its physical volumes", because)
        };
        let line = volumes.iter().find(|line| line.uuid == member.uuid).ok_or_else(missing)?;
        let place = disks.iter_mut().enumerate().find_map(|(index, disk)| {
            let device = disk.devices.iter_mut().find(|device| device.name == line.device)?;
            device.saved = true;
            Some((index, device.start))
        });
        let (index, start) = place.ok_or_else(missing)?;
        let head = lvm::head(&text, &member.uuid)?;
        for (at, bytes) in head.pieces {
            if let Some(disk) = disks.get_mut(index) {
                disk.disk.bytes(start + at, bytes)?;
            }
        }
        places.push((index, start));
    }
    for logical in group.logical.iter().filter(|logical| logical.visible) {
        if let Some(special) = &logical.special {
            let because = format!("{special}: save it as a disk of its own, or import a raw image");
            return Err(Error::unsupported(format!("opening {vg}/{}", logical.name), because));
        }
        place(folder, vg, logical, &places, disks).doing(|| format!("placing {vg}/{}", logical.name))?;
    }
    Ok(())
}

fn place(
    folder: &Folder,
    vg: &str,
    logical: &LogicalVolume,
    places: &[Place],
    disks: &mut [Draft],
) -> Result<()> {
    let broken = || Error::malformed("reading its segments", "there is no such physical volume");
    let first = logical.segments.first().and_then(|segment| segment.stripes.first());
    let Some(&(home, _)) = first.and_then(|(volume, _)| places.get(*volume)) else { return Ok(()) };
    let home_disk = disks.get_mut(home).ok_or_else(broken)?;
    let Some(part) = content(folder, &mut home_disk.disk, &format!("{vg}/{}", logical.name), logical.len)?
    else {
        home_disk.warnings.push(format!("{vg}/{} is not in the image: it reads as zeros", logical.name));
        return Ok(());
    };
    let saved = home_disk.disk.len(part);
    let mut parts: Vec<Option<usize>> = vec![None; disks.len()];
    parts.get_mut(home).into_iter().for_each(|own| *own = Some(part));
    let mut at = 0;
    for segment in &logical.segments {
        let stripes = segment.stripes.len() as u64;
        let step = if stripes == 1 { segment.len } else { segment.stripe_size };
        for chunk in 0..segment.len.checked_div(step).unwrap_or(0) {
            // Behind what was saved there are zeros.
            if at + chunk * step >= saved {
                break;
            }
            let (volume, start) = segment.stripes.get((chunk % stripes) as usize).ok_or_else(broken)?;
            let (disk, base) = *places.get(*volume).ok_or_else(broken)?;
            let to = base + start + chunk / stripes * step;
            let own = match parts.get(disk).copied().flatten() {
                Some(own) => own,
                None => {
                    let shared = share(disks, home, disk, part).ok_or_else(broken)?;
                    parts.get_mut(disk).into_iter().for_each(|own| *own = Some(shared));
                    shared
                }
            };
            let target = disks.get_mut(disk).ok_or_else(broken)?;
            target.disk.map(own, at + chunk * step, to, step)?;
        }
        at += segment.len;
    }
    Ok(())
}

/// The same part in another disk.
fn share(disks: &mut [Draft], source: usize, target: usize, part: usize) -> Option<usize> {
    let [one, two] = disks.get_disjoint_mut([source, target]).ok()?;
    Some(two.disk.share(&one.disk, part))
}
