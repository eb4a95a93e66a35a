// SPDX-License-Identifier: Apache-2.0
//! From disks to nodes. Each round analyses all disks together and opens what hides others (LUKS, md); what was opened is a
//! further disk of the next round, until nothing new appears.

use std::path::{Path, PathBuf};

use unmoor_images::adapt::Window;
use unmoor_images::layout::{self, Content, DiskLayout, Hibernated, Kept, Place, Region};
use unmoor_images::monitor::Silent;
use unmoor_images::partition::Role;
use unmoor_images::volume::md;
use unmoor_images::{BlockSource, Error, Result, ResultExt};

use super::array::{self, AssembledArray};
use super::disk::Disk;
use super::held::{Held, LoopDevice, Stack};
use super::volume::Group;
use super::{Activated, Inner, Missing, Node, Opened, Options, describe, partition};

/// Volumes nest about three deep in the field: LVM on LUKS on md.
const MOST_ROUNDS: usize = 8;

/// A region, and what it lies in.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) disk: usize,
    pub(super) place: Place,
    pub(super) content: Content,
    pub(super) kept: Kept,
    /// UUID of the md array around it, and the array's first byte on the disk.
    array: Option<(String, u64)>,
    /// UUID of the volume group whose logical volume it is.
    pub(super) group: Option<String>,
}

pub(super) struct Builder<'a> {
    pub(super) options: &'a Options,
    pub(super) disks: Vec<Disk>,
    layouts: Vec<DiskLayout>,
    pub(super) stack: Stack,
    nodes: Vec<Node>,
    pub(super) opened: Vec<Opened>,
    pub(super) missing: Vec<Missing>,
    pub(super) warnings: Vec<String>,
    arrays: Vec<AssembledArray>,
    pub(super) groups: Vec<Group>,
    /// Containers that were tried, whatever came of it.
    pub(super) tried: Vec<(usize, Place)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(disks: &[PathBuf], options: &'a Options) -> Result<Self> {
        let open = |path: &PathBuf| Disk::open(path, options.read_only, options.sector_size);
        Ok(Self {
            options,
            disks: disks.iter().map(open).collect::<Result<_>>()?,
            layouts: Vec::new(),
            stack: Stack::default(),
            nodes: Vec::new(),
            opened: Vec::new(),
            missing: Vec::new(),
            warnings: Vec::new(),
            arrays: Vec::new(),
            groups: Vec::new(),
            tried: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<Activated> {
        let mut spots = Vec::new();
        for round in 0.. {
            spots = self.analyze()?;
            let before = self.disks.len();
            self.open_arrays(&spots)?;
            self.open_containers(&spots)?;
            if self.disks.len() == before {
                break;
            }
            if round == MOST_ROUNDS {
                let because = format!("volumes nest more than {MOST_ROUNDS} deep");
                return Err(Error::unsupported("activating the disks", because));
            }
        }
        for spot in &spots {
            self.settle(spot, &spots);
        }
        self.warnings.sort();
        self.warnings.dedup();
        Ok(Activated {
            layouts: self.layouts,
            nodes: self.nodes,
            opened: self.opened,
            missing: self.missing,
            warnings: self.warnings,
            stack: self.stack,
        })
    }

    /// Takes all disks apart; which bytes are used is not asked.
    fn analyze(&mut self) -> Result<Vec<Spot>> {
        let sources: Vec<&dyn BlockSource> = self.disks.iter().map(|disk| disk as _).collect();
        let options = layout::Options { all: true, hibernated: Hibernated::Keep };
        self.layouts = layout::analyze(&sources, &options, &Silent)?;
        let mut spots = Vec::new();
        for (disk, layout) in self.layouts.iter().enumerate() {
            for region in &layout.regions {
                collect(disk, region, None, None, &mut spots);
            }
        }
        // Extended partitions hold no content of their own.
        let extended = |spot: &Spot| match &spot.place {
            Place::Disk { partition: Some(number), .. } => {
                self.layouts.get(spot.disk).is_some_and(|layout| {
                    let mut partitions = layout.table.partitions.iter();
                    partitions
                        .any(|partition| partition.number == *number && partition.role == Role::Extended)
                })
            }
            _ => false,
        };
        spots.retain(|spot| spot.array.is_some() || !extended(spot));
        Ok(spots)
    }

    /// Makes the node of what can be mounted, or says why there is none.
    fn settle(&mut self, spot: &Spot, spots: &[Spot]) {
        let wanted = match (&spot.content, &spot.place) {
            (Content::Filesystem(_) | Content::Luks { .. }, _) => true,
            (Content::PhysicalVolume { vg: Some(vg), .. }, _) => {
                if let Kept::Everything(reason) = &spot.kept {
                    self.warnings.push(format!("volume group {vg} is not activated: {reason}"));
                }
                false
            }
            (_, Place::LogicalVolume { .. }) => true,
            _ => false,
        };
        let told = self.missing.iter().any(|one| one.disk == spot.disk && one.place == spot.place);
        if !wanted || told {
            return;
        }
        match self.node(spot, spots) {
            Ok(Some(_)) | Ok(None) => {}
            Err(error) => self.miss(spot, error.chain()),
        }
    }

    pub(super) fn miss(&mut self, spot: &Spot, reason: String) {
        self.warnings.push(format!("{} is not activated: {reason}", describe(&spot.place)));
        self.missing.push(Missing { disk: spot.disk, place: spot.place.clone(), reason });
    }

    /// The node of a place; `None` for a part of another volume, which has none of its own.
    pub(super) fn node(&mut self, spot: &Spot, spots: &[Spot]) -> Result<Option<PathBuf>> {
        let known = self.nodes.iter().find(|node| node.disk == spot.disk && node.place == spot.place);
        if let Some(node) = known {
            return Ok(Some(node.path.clone()));
        }
        let path = match (&spot.place, &spot.array) {
            (Place::Md { uuid, .. }, _) => Some(self.array(uuid, spots)?),
            (Place::Disk { offset, len, .. }, Some((uuid, start))) => {
                let array = self.array(uuid, spots)?;
                let disk = Disk::open(&array, true, 0)?;
                Some(self.part_of(&disk, offset.saturating_sub(*start), *len)?)
            }
            (Place::Disk { offset, len, .. }, None) => Some(self.part(spot.disk, *offset, *len)?),
            (Place::LogicalVolume { lv, .. }, _) => {
                let group = spot.group.clone().unwrap_or_default();
                self.volume(&group, lv, spots)?
            }
        };
        if let Some(path) = &path {
            self.nodes.push(Node { disk: spot.disk, place: spot.place.clone(), path: path.clone() });
        }
        Ok(path)
    }

    /// A part of one of the disks, or all of it.
    fn part(&mut self, disk: usize, offset: u64, len: u64) -> Result<PathBuf> {
        let Some(disk) = self.disks.get(disk) else {
            return Err(Error::malformed("looking for a disk", "there is no disk of that number"));
        };
        let as_it_is = disk.number.filter(|_| disk.protected || !self.options.read_only);
        if let Some(number) = as_it_is {
            if offset == 0 && len == disk.size() {
                return Ok(disk.path.clone());
            }
            if let Some(path) = partition::kernel_node(number, offset, len) {
                return Ok(path);
            }
        }
        let device = LoopDevice::attach(&disk.file, offset, len, disk.sector_size(), self.options.read_only)
            .doing(|| format!("making a device for {len} bytes from {offset} of {}", disk.path.display()))?;
        let path = device.path().to_owned();
        self.stack.push(Held::Loop(device));
        Ok(path)
    }

    /// A part of a device that is none of the disks.
    fn part_of(&mut self, device: &Disk, offset: u64, len: u64) -> Result<PathBuf> {
        if let Some(path) = device.number.and_then(|number| partition::kernel_node(number, offset, len)) {
            return Ok(path);
        }
        let backing = std::fs::OpenOptions::new()
            .read(true)
            .write(!self.options.read_only)
            .open(&device.path)
            .map_err(|error| Error::io("opening", error).path(&device.path))?;
        let part = LoopDevice::attach(&backing, offset, len, device.sector_size(), self.options.read_only)?;
        let path = part.path().to_owned();
        self.stack.push(Held::Loop(part));
        Ok(path)
    }

    /// A further disk, found inside others.
    pub(super) fn add_disk(&mut self, path: &Path, inside: &Spot, inner: Inner) -> Result<()> {
        let mut disk = Disk::open(path, true, 0)?;
        // The node stands on a device that is read-only if that is wanted; writing goes through the node's own users.
        disk.protected = true;
        if !self.options.read_only {
            disk.file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|error| Error::io("opening", error).path(path))?;
        }
        self.opened.push(Opened {
            disk: self.disks.len(),
            inside: (inside.disk, inside.place.clone()),
            inner,
            path: path.to_owned(),
        });
        self.disks.push(disk);
        Ok(())
    }

    /// Assembles arrays whose content the layout does not show on their members.
    fn open_arrays(&mut self, spots: &[Spot]) -> Result<()> {
        let shown = |uuid: &str| {
            let mut spots = spots.iter();
            spots.any(|spot| matches!(&spot.place, Place::Md { uuid: of, .. } if of == uuid))
        };
        for spot in spots {
            let Content::MdMember { array_uuid, level, .. } = &spot.content else { continue };
            if shown(array_uuid) || self.tried.contains(&(spot.disk, spot.place.clone())) {
                continue;
            }
            for member in members(spots, array_uuid) {
                self.tried.push((member.disk, member.place.clone()));
            }
            match self.array(array_uuid, spots) {
                Ok(path) => {
                    let inner = Inner::Md { uuid: array_uuid.clone(), level: *level };
                    self.add_disk(&path, spot, inner)?;
                }
                Err(error) => self.miss(spot, error.chain()),
            }
        }
        Ok(())
    }

    /// For reading, the content of a RAID1's newest member: md itself would write to its bitmap, even if its members are
    /// read-only, and take them for broken when it cannot. `None` for what is no plain RAID1.
    fn mirror(&mut self, uuid: &str, spots: &[Spot]) -> Result<Option<PathBuf>> {
        let (mut newest, mut count, mut devices) = (None::<(u64, usize, u64, u64)>, 0, 0);
        for spot in members(spots, uuid) {
            let (Place::Disk { offset, len, .. }, None) = (&spot.place, &spot.array) else { return Ok(None) };
            let Some(disk) = self.disks.get(spot.disk) else { return Ok(None) };
            let Some(member) = md::probe(&Window::new(disk, *offset, *len)?)? else { return Ok(None) };
            if member.level != 1 || member.special.is_some() {
                return Ok(None);
            }
            (count, devices) = (count + 1, member.devices);
            if newest.is_none_or(|(events, ..)| events < member.events) {
                let start = offset.saturating_add(member.content.start);
                let len = member.content.end.saturating_sub(member.content.start);
                newest = Some((member.events, spot.disk, start, len));
            }
        }
        if count < devices {
            self.warnings.push(array::degraded(uuid, count.into(), devices.into()));
        }
        newest.map(|(_, disk, start, len)| self.part(disk, start, len)).transpose()
    }

    /// The device of an array, assembled where it is not yet.
    fn array(&mut self, uuid: &str, spots: &[Spot]) -> Result<PathBuf> {
        if let Some(known) = self.arrays.iter().find(|array| array.uuid == uuid) {
            return Ok(known.path.clone());
        }
        if self.options.read_only
            && let Some(path) = self.mirror(uuid, spots)?
        {
            self.arrays.push(AssembledArray { uuid: uuid.to_owned(), path: path.clone() });
            return Ok(path);
        }
        let mut paths = Vec::new();
        let mut version = None;
        for member in members(spots, uuid) {
            if let Content::MdMember { metadata, level, .. } = &member.content {
                version = version.or(Some((metadata.clone(), *level)));
            }
            paths.extend(self.node(member, spots)?);
        }
        let Some((metadata, level)) = version else {
            return Err(Error::malformed("assembling an md array", "no member of it is there"));
        };
        let (array, warnings) = array::assemble(uuid, &metadata, level, &paths, self.options.read_only)?;
        self.warnings.extend(warnings);
        let path = array.path().to_owned();
        self.stack.push(Held::Array(array));
        self.arrays.push(AssembledArray { uuid: uuid.to_owned(), path: path.clone() });
        Ok(path)
    }
}

/// The members of an array, in order of disk and place.
fn members<'s>(spots: &'s [Spot], uuid: &str) -> impl Iterator<Item = &'s Spot> {
    let uuid = uuid.to_owned();
    spots.iter().filter(
        move |spot| matches!(&spot.content, Content::MdMember { array_uuid, .. } if *array_uuid == uuid),
    )
}

/// Nesting is bounded by the analysis.
fn collect(
    disk: usize,
    region: &Region,
    array: Option<&(String, u64)>,
    group: Option<&String>,
    spots: &mut Vec<Spot>,
) {
    let own_array = match &region.place {
        Place::Md { uuid, offset, .. } => Some((uuid.clone(), *offset)),
        _ => array.cloned(),
    };
    spots.push(Spot {
        disk,
        place: region.place.clone(),
        content: region.content.clone(),
        kept: region.kept.clone(),
        array: own_array.clone(),
        group: group.cloned(),
    });
    let own_group = match &region.content {
        Content::PhysicalVolume { vg_uuid, .. } => vg_uuid.as_ref(),
        _ => None,
    };
    for child in &region.children {
        collect(disk, child, own_array.as_ref(), own_group, spots);
    }
}
