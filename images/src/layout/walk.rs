// SPDX-License-Identifier: Apache-2.0
//! From a disk to what its partitions hold. Volumes that span disks wait until all disks were seen.

use crate::adapt::Mapped;
use crate::filesystem::{FilesystemFacts, Used};
use crate::partition::{Partition, PartitionTable, Role, TableKind};
use crate::volume::luks::{self, Luks};
use crate::volume::lvm::{self, PhysicalVolume};
use crate::volume::md;
use crate::{BlockSource, Error, ErrorKind, Monitor, RangeSet, Result, filesystem, partition};

use super::contents::Leaf;
use super::device::{Device, Span};
use super::groups::{FoundMember, FoundVolume};
use super::ledger::Ledger;
use super::{Content, DiskLayout, Kept, Options, Place, Region, signatures};

/// Bytes between or behind partitions and filesystems that are kept without asking: boot loaders, RAID metadata and
/// the like hide there, and so little costs nothing.
pub(super) const SMALL_GAP: u64 = 16 << 20;

/// Partition types whose content is spread over several partitions or disks: Windows dynamic disks and Storage Spaces.
const SPREAD_TYPES: [&str; 4] = [
    "0x42",
    "af9b60a0-1431-4f62-bc68-3311714a69ad",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d",
];

/// The readers that the analysis calls; tests put others in.
#[derive(Clone, Copy)]
pub(super) struct Readers {
    pub(super) table: fn(&dyn BlockSource) -> Result<PartitionTable>,
    pub(super) probe: fn(&dyn BlockSource) -> Result<Option<FilesystemFacts>>,
    pub(super) used: fn(&dyn BlockSource, &FilesystemFacts) -> Result<Used>,
}

impl Readers {
    pub(super) const OWN: Self = Self { table: read_table, probe: filesystem::probe, used: filesystem::used };
}

/// Linux shows at most 255 partitions of a disk. A table of GPT's own bound would have the same bytes examined 32768 times.
const MOST_PARTITIONS: usize = 1024;
/// Partitions, arrays and logical volumes that are looked into: each takes about a hundred reads.
const MOST_DEVICES: usize = 4096;

fn read_table(source: &dyn BlockSource) -> Result<PartitionTable> {
    let table = partition::read(source)?;
    if table.partitions.len() > MOST_PARTITIONS {
        let reason =
            format!("it has {} partitions, and no system uses more than 255", table.partitions.len());
        return Err(Error::unsupported("reading the partition table", reason));
    }
    Ok(table)
}

/// A [`Region`] under construction.
pub(super) struct Node {
    pub(super) disk: usize,
    place: Place,
    pub(super) content: Content,
    pub(super) kept: Kept,
    /// Bytes of data, where the disk's map does not tell: for logical volumes.
    pub(super) used: u64,
    children: Vec<usize>,
}

/// How deep in the machine's storage a device lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Disk,
    Partition,
    /// The content of an md array.
    Array,
    /// A partition of an md array.
    InArray,
    LogicalVolume,
}

/// What begins at a device's byte 0.
enum Finding {
    Foreign(&'static str),
    Md(md::Member),
    Luks(Luks),
    Volume(Box<PhysicalVolume>),
    Filesystem(Box<FilesystemFacts>),
    Nothing,
}

impl Finding {
    fn name(&self) -> &'static str {
        match self {
            Self::Foreign(name) => name,
            Self::Md(_) => "an md superblock",
            Self::Luks(_) => "a LUKS header",
            Self::Volume(_) => "an LVM2 label",
            Self::Filesystem(facts) => facts.kind.name(),
            Self::Nothing => "nothing known",
        }
    }
}

/// The state of one analysis.
pub(super) struct Analysis<'a> {
    pub(super) disks: Vec<&'a dyn BlockSource>,
    pub(super) options: Options,
    monitor: &'a dyn Monitor,
    pub(super) readers: Readers,
    pub(super) ledger: Ledger,
    pub(super) nodes: Vec<Node>,
    roots: Vec<Vec<usize>>,
    tables: Vec<PartitionTable>,
    pub(super) members: Vec<FoundMember>,
    pub(super) volumes: Vec<FoundVolume>,
    pub(super) leaves: Vec<Leaf>,
    /// Devices looked into so far.
    examined: usize,
}

/// The reason why something is kept whole, from an error that means "not to be trusted"; any other error is passed on.
pub(super) fn distrust(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Malformed | ErrorKind::Unsupported | ErrorKind::Mismatch | ErrorKind::Io => {
            Ok(error.chain())
        }
        ErrorKind::Refused | ErrorKind::Usage | ErrorKind::Cancelled => Err(error),
    }
}

impl<'a> Analysis<'a> {
    pub(super) fn new(
        disks: &[&'a dyn BlockSource],
        options: &Options,
        monitor: &'a dyn Monitor,
        readers: Readers,
    ) -> Self {
        Self {
            disks: disks.to_vec(),
            options: *options,
            monitor,
            readers,
            ledger: Ledger::new(disks),
            nodes: Vec::new(),
            roots: vec![Vec::new(); disks.len()],
            tables: Vec::new(),
            members: Vec::new(),
            volumes: Vec::new(),
            leaves: Vec::new(),
            examined: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Vec<DiskLayout>> {
        for (disk, source) in self.disks.clone().into_iter().enumerate() {
            let table = self.disk(disk, source)?;
            self.tables.push(table);
        }
        self.arrays()?;
        self.groups()?;
        self.hibernation()?;
        self.account()?;
        self.finish()
    }

    pub(super) fn check_cancelled(&self) -> Result<()> {
        if self.monitor.cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "analyzing the disks"));
        }
        Ok(())
    }

    fn disk(&mut self, disk: usize, source: &dyn BlockSource) -> Result<PartitionTable> {
        self.check_cancelled()?;
        let span = Span { disk, start: 0, len: source.size() };
        let device = Device::span(span);
        for copy in device.copies(&self.disks)? {
            self.silence(&copy);
        }
        let table = match (self.readers.table)(source) {
            Ok(table) => table,
            Err(error) => {
                let reason = distrust(error)?;
                self.keep_disk(disk, format!("its partition table cannot be trusted: {reason}"));
                PartitionTable {
                    kind: TableKind::None,
                    sector_size: source.sector_size(),
                    disk_id: None,
                    partitions: Vec::new(),
                    metadata: Vec::new(),
                    warnings: Vec::new(),
                }
            }
        };
        for warning in &table.warnings {
            self.ledger.warn(disk, warning.clone());
        }
        // A boot sector's mark alone does not say that the rest is free: many formats carry it.
        let bare = match table.kind {
            TableKind::None => true,
            TableKind::Mbr => table.partitions.is_empty(),
            TableKind::Gpt => false,
        };
        let member = match self.find(source, true) {
            Ok(Finding::Nothing) => false,
            Ok(Finding::Md(member)) => bare || !of_partition(&member, &table),
            Ok(_) if bare => false,
            Ok(Finding::Foreign(name)) => {
                self.keep_disk(disk, foreign_reason(name));
                false
            }
            Ok(other) => {
                self.keep_disk(disk, format!("it has a partition table and also {}", other.name()));
                false
            }
            Err(error) if bare => {
                // Found again, and reported, where the disk is examined as one device.
                distrust(error)?;
                false
            }
            Err(error) => {
                let reason = distrust(error)?;
                self.keep_disk(disk, reason);
                false
            }
        };
        if bare || member {
            let node = self.add(None, place(span, None), disk);
            self.examine(vec![node], &device, Level::Disk)?;
        } else {
            self.split(&table, &[None], &[span], Level::Partition)?;
        }
        Ok(table)
    }

    /// Nothing of the disk may be left out.
    fn keep_disk(&mut self, disk: usize, reason: String) {
        self.ledger.warn(disk, format!("the whole disk is kept: {reason}"));
        if let Some(account) = self.ledger.disks.get_mut(disk) {
            account.whole = Some(reason);
        }
    }

    /// Old content of a target must not speak from this device's holes.
    fn silence(&mut self, device: &Mapped<'_>) {
        for range in signatures::places(device.size()).ranges() {
            self.ledger.quiet(device, range.clone());
        }
    }

    pub(super) fn add(&mut self, parent: Option<usize>, place: Place, disk: usize) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node {
            disk,
            place,
            content: Content::Unknown,
            kept: Kept::Used,
            used: 0,
            children: Vec::new(),
        });
        match parent.and_then(|parent| self.nodes.get_mut(parent)) {
            Some(parent) => parent.children.push(index),
            None => self.roots.get_mut(disk).into_iter().for_each(|roots| roots.push(index)),
        }
        index
    }

    pub(super) fn each(&mut self, nodes: &[usize], change: impl Fn(&mut Node)) {
        for node in nodes {
            if let Some(node) = self.nodes.get_mut(*node) {
                change(node);
            }
        }
    }

    /// Adds a part of the device whose copies are `spans`, below `parents`.
    fn add_part(
        &mut self,
        parents: &[Option<usize>],
        parts: &[Span],
        number: Option<u32>,
        content: &Content,
        kept: &Kept,
    ) -> Vec<usize> {
        let pairs: Vec<_> = parents.iter().copied().zip(parts.iter().copied()).collect();
        let nodes: Vec<_> = pairs
            .into_iter()
            .map(|(parent, part)| self.add(parent, place(part, number), part.disk))
            .collect();
        self.each(&nodes, |node| {
            node.content = content.clone();
            node.kept = kept.clone();
        });
        if matches!(kept, Kept::Everything(_)) {
            for part in parts {
                self.ledger.keep_on(part.disk, part.start..part.start.saturating_add(part.len));
            }
        }
        nodes
    }

    /// Takes apart a partitioned disk, or an array with a partition table in it.
    pub(super) fn split(
        &mut self,
        table: &PartitionTable,
        parents: &[Option<usize>],
        spans: &[Span],
        level: Level,
    ) -> Result<()> {
        let size = spans.first().map_or(0, |span| span.len);
        let end = |partition: &Partition| partition.start.saturating_add(partition.len);
        let cut = |range: std::ops::Range<u64>| -> Vec<Span> {
            spans.iter().map(|span| span.part(&range)).collect()
        };
        let mut taken = RangeSet::new();
        for &(start, len) in &table.metadata {
            taken.insert(start..start.saturating_add(len));
            for part in cut(start..start.saturating_add(len)) {
                self.ledger.keep_on(part.disk, part.start..part.start + part.len);
            }
        }
        let contents = table.partitions.iter().filter(|partition| partition.role != Role::Extended);
        let first = contents.map(|partition| partition.start).min().unwrap_or(0).min(size);
        self.add_part(
            parents,
            &cut(0..first),
            None,
            &Content::BootArea,
            &Kept::Everything("boot code and partition table".into()),
        );
        taken.insert(0..first);

        // Extended partitions first: others and gaps are listed in them.
        let mut extended = Vec::new();
        for partition in table.partitions.iter().filter(|partition| partition.role == Role::Extended) {
            let parts = cut(partition.start..end(partition));
            let nodes =
                self.add_part(parents, &parts, Some(partition.number), &Content::Extended, &Kept::Nothing);
            extended.push((partition.start..end(partition), nodes));
            for copy in Device::Spans(parts).copies(&self.disks)? {
                self.silence(&copy);
            }
        }
        let within = |start: u64| -> Vec<Option<usize>> {
            match extended.iter().find(|(range, _)| range.contains(&start)) {
                Some((_, nodes)) => nodes.iter().copied().map(Some).collect(),
                None => parents.to_vec(),
            }
        };
        for partition in table.partitions.iter().filter(|partition| partition.role != Role::Extended) {
            taken.insert(partition.start..end(partition));
            let parts = cut(partition.start..end(partition));
            let parents = within(partition.start);
            let nodes =
                self.add_part(&parents, &parts, Some(partition.number), &Content::Unknown, &Kept::Used);
            let device = Device::Spans(parts);
            if end(partition) > size {
                self.give_up(&nodes, &device, "it reaches beyond the end of the disk", true)?;
            } else if partition.role == Role::BiosBoot {
                self.each(&nodes, |node| node.content = Content::BootArea);
                self.give_up(&nodes, &device, "boot code", false)?;
            } else if SPREAD_TYPES.contains(&&*partition.type_id.to_ascii_lowercase()) {
                let reason = "it belongs to a Windows dynamic disk or storage pool";
                self.give_up(&nodes, &device, reason, true)?;
            } else {
                self.examine(nodes, &device, level)?;
            }
        }
        for gap in taken.gaps(size) {
            let kept = match gap.end - gap.start {
                0..=SMALL_GAP => Kept::Everything("a small gap between partitions".into()),
                _ => Kept::Nothing,
            };
            self.add_part(&within(gap.start), &cut(gap), None, &Content::Unknown, &kept);
        }
        Ok(())
    }

    /// Looks at what a device holds, and keeps it or puts it where it waits for its turn.
    pub(super) fn examine(&mut self, nodes: Vec<usize>, device: &Device, level: Level) -> Result<()> {
        self.check_cancelled()?;
        self.examined += 1;
        if self.examined > MOST_DEVICES {
            return self.give_up(&nodes, device, "there are too many volumes to look into each", true);
        }
        let copies = device.copies(&self.disks)?;
        let mut findings = Vec::new();
        for copy in &copies {
            self.silence(copy);
            match self.find(copy, level == Level::Disk) {
                Ok(finding) => findings.push(finding),
                Err(error) => return self.give_up(&nodes, device, &distrust(error)?, true),
            }
        }
        let name = findings.first().map_or("nothing known", Finding::name);
        if findings.iter().any(|finding| finding.name() != name) {
            return self.give_up(&nodes, device, "the copies of the mirror do not hold the same", true);
        }
        let spans = match device {
            Device::Spans(spans) => spans.clone(),
            Device::Volume(_) => Vec::new(),
        };
        let (mut members, mut volumes, mut facts) = (Vec::new(), Vec::new(), Vec::new());
        for finding in findings {
            match finding {
                Finding::Nothing => {}
                Finding::Foreign(name) => {
                    return self.give_up(&nodes, device, &foreign_reason(name), true);
                }
                Finding::Luks(luks) => return self.encrypted(&nodes, device, &luks),
                Finding::Md(member) => members.push(member),
                Finding::Volume(volume) => volumes.push(*volume),
                Finding::Filesystem(found) => facts.push(*found),
            }
        }
        if !members.is_empty() {
            if !matches!(level, Level::Disk | Level::Partition) {
                let reason = "it is an md member inside another volume";
                return self.give_up(&nodes, device, reason, true);
            }
            for ((node, span), member) in nodes.into_iter().zip(spans).zip(members) {
                self.members.push(FoundMember { node, span, member });
            }
        } else if !volumes.is_empty() {
            if spans.is_empty() {
                let reason = "it is an LVM physical volume inside a logical volume";
                return self.give_up(&nodes, device, reason, true);
            }
            self.volumes.push(FoundVolume { nodes, spans, copies: volumes });
        } else if let Some(first) = facts.first() {
            let content = Content::Filesystem(first.clone());
            self.each(&nodes, |node| node.content = content.clone());
            if facts.iter().any(|other| (other.kind, &other.uuid) != (first.kind, &first.uuid)) {
                let reason = "the copies of the mirror hold different filesystems";
                return self.give_up(&nodes, device, reason, true);
            }
            self.leaves.push(Leaf { nodes, device: device.clone(), facts });
        } else {
            if level == Level::Array && self.split_array(&nodes, &copies, &spans)? {
                return Ok(());
            }
            self.give_up(&nodes, device, "nothing that is known begins there", false)?;
        }
        Ok(())
    }

    /// An array may carry a partition table. False if it does not.
    fn split_array(&mut self, nodes: &[usize], copies: &[Mapped<'_>], spans: &[Span]) -> Result<bool> {
        let mut tables = Vec::new();
        for copy in copies {
            match (self.readers.table)(copy) {
                Ok(table) => tables.push(table),
                Err(error) => {
                    distrust(error)?;
                    return Ok(false);
                }
            }
        }
        let Some(table) = tables.first().filter(|table| !table.partitions.is_empty()) else {
            return Ok(false);
        };
        if tables.iter().any(|other| other != table) {
            return Ok(false);
        }
        let table = table.clone();
        for (node, span) in nodes.iter().zip(spans) {
            let who = self.who(*node);
            for warning in &table.warnings {
                self.ledger.warn(span.disk, format!("{who}: {warning}"));
            }
        }
        let parents: Vec<_> = nodes.iter().copied().map(Some).collect();
        self.split(&table, &parents, spans, Level::InArray)?;
        Ok(true)
    }

    fn find(&self, source: &dyn BlockSource, whole_disk: bool) -> Result<Finding> {
        if let Some(name) = signatures::foreign(source, whole_disk)? {
            return Ok(Finding::Foreign(name));
        }
        // A member's old filesystem superblock often survives beside md's, which mdadm and blkid prefer too.
        if let Some(member) = md::probe(source)? {
            return Ok(Finding::Md(member));
        }
        let mut found = Vec::new();
        found.extend(luks::probe(source)?.map(Finding::Luks));
        found.extend(lvm::probe(source)?.map(|volume| Finding::Volume(Box::new(volume))));
        found.extend((self.readers.probe)(source)?.map(|facts| Finding::Filesystem(Box::new(facts))));
        if let [first, second, ..] = found.as_slice() {
            return Err(Error::unsupported(
                "finding out what it holds",
                format!(
                    "{} and {} are both there; `wipefs` removes the old one",
                    first.name(),
                    second.name()
                ),
            ));
        }
        Ok(found.pop().unwrap_or(Finding::Nothing))
    }

    fn encrypted(&mut self, nodes: &[usize], device: &Device, luks: &Luks) -> Result<()> {
        let content = Content::Luks { version: luks.version, uuid: luks.uuid.clone() };
        self.each(nodes, |node| node.content = content.clone());
        let reason = format!(
            "it is encrypted (LUKS{}): used and unused bytes look alike, so its image is as large as it is",
            luks.version
        );
        self.give_up(nodes, device, &reason, true)
    }

    /// Keeps all of a device, whichever reason there is.
    pub(super) fn give_up(
        &mut self,
        nodes: &[usize],
        device: &Device,
        reason: &str,
        warn: bool,
    ) -> Result<()> {
        for copy in device.copies(&self.disks)? {
            self.ledger.keep(&copy, 0..copy.size());
            self.each(nodes, |node| node.used = copy.size());
        }
        self.each(nodes, |node| node.kept = Kept::Everything(reason.to_owned()));
        for &node in nodes.iter().filter(|_| warn) {
            let text = format!("{} is kept whole: {reason}", self.who(node));
            let disk = self.nodes.get(node).map_or(0, |node| node.disk);
            self.ledger.warn(disk, text);
        }
        Ok(())
    }

    /// What to call a region in a warning of its disk.
    pub(super) fn who(&self, node: usize) -> String {
        match self.nodes.get(node).map(|node| &node.place) {
            Some(Place::Disk { partition: Some(number), .. }) => format!("partition {number}"),
            Some(Place::LogicalVolume { vg, lv, .. }) => format!("logical volume {vg}/{lv}"),
            Some(Place::Md { name: Some(name), .. }) => format!("md array {name}"),
            Some(Place::Md { uuid, .. }) => format!("md array {uuid}"),
            _ => "the disk".into(),
        }
    }

    fn finish(mut self) -> Result<Vec<DiskLayout>> {
        let mut layouts = Vec::new();
        let nodes = std::mem::take(&mut self.nodes);
        for (disk, table) in std::mem::take(&mut self.tables).into_iter().enumerate() {
            let (Some(account), Some(roots)) = (self.ledger.disks.get_mut(disk), self.roots.get(disk)) else {
                return Err(Error::malformed("analyzing the disks", "a disk has no account"));
            };
            let extents = account.extents(self.options.all);
            let mut regions: Vec<_> =
                roots.iter().filter_map(|&root| region(&nodes, root, &extents)).collect();
            regions.sort_by_key(address);
            layouts.push(DiskLayout {
                table,
                regions,
                extents,
                warnings: std::mem::take(&mut account.warnings),
                patches: std::mem::take(&mut account.patches),
            });
        }
        Ok(layouts)
    }
}

fn foreign_reason(name: &str) -> String {
    format!("it carries the mark of {name}, which unmoor does not look into; `wipefs` removes an old mark")
}

/// Whether a superblock that was found at a disk's end is that of its last partition: 0.90 does not state its address.
fn of_partition(member: &md::Member, table: &PartitionTable) -> bool {
    member.metadata == "0.90"
        && table.partitions.iter().any(|partition| {
            let place = partition.start..partition.start.saturating_add(partition.len);
            member.own.iter().any(|own| place.contains(&own.start)) && member.content.end <= partition.len
        })
}

fn place(span: Span, partition: Option<u32>) -> Place {
    Place::Disk { offset: span.start, len: span.len, partition }
}

fn address(region: &Region) -> u64 {
    match region.place {
        Place::Disk { offset, .. } | Place::Md { offset, .. } => offset,
        Place::LogicalVolume { .. } => 0,
    }
}

/// Nesting is bounded by the walk: disk, partition, array, partition in it, logical volume.
fn region(nodes: &[Node], index: usize, extents: &crate::ExtentMap) -> Option<Region> {
    let node = nodes.get(index)?;
    let used_bytes = match node.place {
        Place::Disk { offset, len, .. } | Place::Md { offset, len, .. } => extents
            .within(offset..offset.saturating_add(len))
            .filter(|extent| extent.state == crate::State::Data)
            .map(|extent| extent.len)
            .sum(),
        Place::LogicalVolume { .. } => node.used,
    };
    let mut children: Vec<_> =
        node.children.iter().filter_map(|&child| region(nodes, child, extents)).collect();
    children.sort_by_key(address);
    Some(Region {
        place: node.place.clone(),
        content: node.content.clone(),
        used_bytes,
        kept: node.kept.clone(),
        children,
    })
}
