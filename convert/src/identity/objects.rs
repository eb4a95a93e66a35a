// SPDX-License-Identifier: Apache-2.0
//! What on the disks is known by UUIDs, and the ones that it is to get.
//!
//! A new identity is a function of the request's seed and of the old one, so that copies of one thing stay copies.

use std::collections::{BTreeMap, BTreeSet};

use unmoor_images::adapt::Mapped;
use unmoor_images::filesystem::{self, Condition, FilesystemFacts, FilesystemKind};
use unmoor_images::layout::{self, Content, Place, Region};
use unmoor_images::parse::uuid_text;
use unmoor_images::partition::{PartitionTable, TableKind};
use unmoor_images::volume::{luks, lvm, md};
use unmoor_images::{BlockSource, Error, Result};

use super::seed;
use crate::plan::Identified;

/// Something that can get another identity, or why it cannot.
pub(super) struct Object {
    pub(super) of: Identified,
    /// Features that a filesystem gets by it, and its facts.
    pub(super) adds: Vec<&'static str>,
    pub(super) facts: Option<FilesystemFacts>,
    /// Why it keeps what it has, and what could be done.
    pub(super) kept: Option<(String, Option<String>)>,
}

/// Collects them in the order in which they are changed: what lies inside others first, tables last.
pub(super) struct Collector<'a> {
    pub(super) disks: &'a [&'a dyn BlockSource],
    pub(super) layouts: &'a [layout::DiskLayout],
    pub(super) seed: &'a [u8; 32],
    /// Whether a filesystem is mounted, and so brought in order, when the plan is carried out.
    pub(super) is_mounted: &'a dyn Fn(&str) -> bool,
}

/// One kind of thing that may lie on several places.
type Parts = BTreeMap<String, Vec<(usize, Place)>>;

impl<'a> Collector<'a> {
    pub(super) fn all(&self) -> Vec<Object> {
        let (mut filesystems, mut containers) = (Vec::new(), Vec::new());
        let (mut arrays, mut groups): (Parts, Parts) = (BTreeMap::new(), BTreeMap::new());
        let mut names = BTreeMap::new();
        for (disk, layout) in self.layouts.iter().enumerate() {
            for region in &layout.regions {
                self.walk(disk, region, false, &mut |disk, region, in_array| match &region.content {
                    Content::Filesystem(facts) => {
                        filesystems.extend(self.filesystem(disk, region, facts, in_array));
                    }
                    Content::Luks { uuid: Some(uuid), .. } => {
                        containers.extend(self.container(disk, region, uuid));
                    }
                    Content::MdMember { array_uuid, .. } => {
                        arrays.entry(array_uuid.clone()).or_default().push((disk, region.place.clone()));
                    }
                    Content::PhysicalVolume { pv_uuid, vg, vg_uuid } => {
                        let key = vg_uuid.clone().unwrap_or_else(|| pv_uuid.clone());
                        names.insert(key.clone(), vg.clone());
                        groups.entry(key).or_default().push((disk, region.place.clone()));
                    }
                    _ => {}
                });
            }
        }
        // Of an array's copies one is the array.
        for places in groups.values_mut() {
            let mut seen: Vec<String> = Vec::new();
            places.retain(|(_, place)| match place {
                Place::Md { uuid, .. } => {
                    let is_new = !seen.contains(uuid);
                    seen.push(uuid.clone());
                    is_new
                }
                _ => true,
            });
        }
        let mut all: Vec<Object> = filesystems;
        all.append(&mut containers);
        let mut copies = BTreeSet::new();
        all.retain(|object| match &object.of {
            Identified::Filesystem { place: Place::Md { uuid, .. }, old, .. }
            | Identified::Luks { place: Place::Md { uuid, .. }, old, .. } => {
                copies.insert(format!("{uuid} {old}"))
            }
            _ => true,
        });
        all.extend(
            groups.into_iter().map(|(key, places)| self.group(names.get(&key).cloned().flatten(), places)),
        );
        all.extend(arrays.into_iter().map(|(uuid, members)| self.array(uuid, members)));
        all.extend((0..self.layouts.len()).filter_map(|disk| self.table(disk)));
        all
    }

    /// Layouts nest a few levels only.
    fn walk(&self, disk: usize, region: &Region, in_array: bool, each: &mut dyn FnMut(usize, &Region, bool)) {
        each(disk, region, in_array);
        let in_array = in_array || matches!(region.place, Place::Md { .. });
        for child in &region.children {
            self.walk(disk, child, in_array, each);
        }
    }

    fn open(&self, disk: usize, place: &Place) -> Result<Mapped<'a>> {
        layout::open(self.disks, self.layouts, disk, place)
    }

    fn filesystem(
        &self,
        disk: usize,
        region: &Region,
        facts: &FilesystemFacts,
        in_array: bool,
    ) -> Option<Object> {
        let old = facts.uuid.clone()?;
        let fresh = seed::uuid(self.seed, &old);
        let new = match facts.kind {
            FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => {
                let [a, b, c, d, ..] = fresh;
                format!("{d:02X}{c:02X}-{b:02X}{a:02X}")
            }
            _ => uuid_text(&fresh),
        };
        let (mut adds, mut kept) = (Vec::new(), None);
        if in_array && matches!(region.place, Place::Disk { .. }) {
            kept = Some(("it lies on a partition of an array".to_owned(), None));
        } else {
            match self
                .open(disk, &region.place)
                .and_then(|source| filesystem::identity::change(&source, &fresh))
            {
                Ok(change) => adds = change.adds,
                // Mounting replays its journal.
                Err(_) if facts.condition != Condition::Clean && (self.is_mounted)(&old) => {
                    adds = expected(facts);
                }
                Err(error) => kept = Some((reason(&error), None)),
            }
        }
        let place = region.place.clone();
        let kind = facts.kind.name().to_owned();
        let of = Identified::Filesystem { disk, place, kind, old, new };
        Some(Object { of, adds, facts: Some(facts.clone()), kept })
    }

    fn container(&self, disk: usize, region: &Region, uuid: &str) -> Option<Object> {
        let fresh = seed::uuid(self.seed, uuid);
        let done = self.open(disk, &region.place).and_then(|source| luks::change(&source, &fresh));
        let of = Identified::Luks {
            disk,
            place: region.place.clone(),
            old: uuid.to_owned(),
            new: uuid_text(&fresh),
        };
        Some(Object {
            of,
            adds: Vec::new(),
            facts: None,
            kept: done.err().map(|error| (reason(&error), None)),
        })
    }

    fn array(&self, uuid: String, members: Vec<(usize, Place)>) -> Object {
        let fresh = seed::uuid(self.seed, &uuid);
        let mut kept = None;
        let mut wanted = members.len();
        for (disk, place) in &members {
            let found = self.open(*disk, place).and_then(|source| {
                wanted = wanted.max(md::probe(&source)?.map_or(0, |member| member.devices as usize));
                md::change(&source, &fresh)
            });
            kept = kept.or(found.err().map(|error| (reason(&error), None)));
        }
        if wanted > members.len() {
            let why = format!("{} of its {wanted} members are not on these disks", wanted - members.len());
            kept = kept.or(Some((why, None)));
        }
        let hex: Vec<String> =
            fresh.chunks(4).map(|part| part.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        let of = Identified::Md { members, old: uuid, new: hex.join(":") };
        Object { of, adds: Vec::new(), facts: None, kept }
    }

    fn group(&self, name: Option<String>, volumes: Vec<(usize, Place)>) -> Object {
        let ids = (|| {
            let opened =
                volumes.iter().map(|(disk, place)| self.open(*disk, place)).collect::<Result<Vec<_>>>()?;
            let opened: Vec<&dyn BlockSource> = opened.iter().map(|volume| volume as _).collect();
            let ids = lvm::ids(&opened)?;
            let ids: Vec<_> = ids
                .into_iter()
                .map(|old| {
                    let new = seed::lvm(self.seed, &old);
                    (old, new)
                })
                .collect();
            lvm::change(&opened, &ids)?;
            Ok(ids)
        })();
        let (ids, kept) = match ids {
            Ok(ids) => (ids, None),
            Err(error) => (Vec::new(), Some((reason(&error), None))),
        };
        Object { of: Identified::VolumeGroup { volumes, name, ids }, adds: Vec::new(), facts: None, kept }
    }

    fn table(&self, disk: usize) -> Option<Object> {
        let table = &self.layouts.get(disk)?.table;
        let old = table.disk_id.clone()?;
        let of = match table.kind {
            TableKind::Gpt => {
                let new = |old: &str| uuid_text(&seed::uuid(self.seed, old));
                let partition = |partition: &unmoor_images::partition::Partition| {
                    let old = partition.partuuid.clone()?;
                    let fresh = new(&old);
                    Some((partition.number, old, fresh))
                };
                let partitions = table.partitions.iter().filter_map(partition).collect();
                let fresh = new(&old);
                Identified::Table { disk, old, new: fresh, partitions }
            }
            TableKind::Mbr => {
                let fresh = format!("{:08x}", seed::signature(self.seed, &old));
                let partition = |partition: &unmoor_images::partition::Partition| {
                    let old = partition.partuuid.clone()?;
                    let (_, number) = old.split_once('-')?;
                    let new = format!("{fresh}-{number}");
                    Some((partition.number, old, new))
                };
                let partitions = table.partitions.iter().filter_map(partition).collect();
                Identified::Table { disk, old, new: fresh, partitions }
            }
            TableKind::None => return None,
        };
        let kept = windows(table).map(|why| (why.to_owned(), None)).or_else(|| {
            let source = self.disks.get(disk)?;
            let done = super::carry_out::table_writes(*source, &of);
            done.err().map(|error| (reason(&error), None))
        });
        Some(Object { of, adds: Vec::new(), facts: None, kept })
    }
}

/// What follows from facts alone.
fn expected(facts: &FilesystemFacts) -> Vec<&'static str> {
    let has = |name: &str| facts.features.iter().any(|feature| feature == name);
    match facts.kind {
        FilesystemKind::Ext4 | FilesystemKind::Ext3 | FilesystemKind::Ext2
            if has("metadata_csum") && !has("metadata_csum_seed") =>
        {
            vec!["metadata_csum_seed"]
        }
        FilesystemKind::Xfs if has("crc") && !has("meta_uuid") => vec!["meta_uuid"],
        FilesystemKind::Btrfs if !has("metadata-uuid") => vec!["metadata-uuid"],
        _ => Vec::new(),
    }
}

/// Windows' boot configuration names disk and partition by their GUIDs, or by signature and place.
fn windows(table: &PartitionTable) -> Option<&'static str> {
    const MICROSOFT: [&str; 3] =
        ["e3c9e316-0b5c-4db8-817d-f92df00215ae", "de94bba4-06d1-4d40-a16a-bfd50179d6ac", "0x27"];
    let is_there = table.partitions.iter().any(|partition| MICROSOFT.contains(&&*partition.type_id));
    is_there.then_some("Windows is on it too, whose boot configuration names its partitions by these")
}

/// The last cause alone says why.
fn reason(error: &Error) -> String {
    let chain = error.chain();
    chain
        .rsplit_once("another UUID: ")
        .or_else(|| chain.rsplit_once("identities: "))
        .or_else(|| chain.rsplit_once("other UUIDs: "))
        .map_or_else(|| chain.clone(), |(_, why)| why.to_owned())
}
