// SPDX-License-Identifier: Apache-2.0
//! From a disk to what its partitions hold. Volumes that span disks wait until all disks were seen.

use crate::adapt::Mapped;
use crate::filesystem::{FilesystemFacts, Used};
use crate::partition::PartitionTable;
use crate::volume::luks::{self, Luks};
use crate::volume::lvm::{self, PhysicalVolume};
use crate::volume::md;
use crate::{BlockSource, Error, ErrorKind, Monitor, Result, State, filesystem, partition};

use super::contents::Leaf;
use super::device::Device;
use super::groups::{FoundMember, FoundVolume};
use super::ledger::Ledger;
use super::regions::Node;
use super::{Content, DiskLayout, Kept, Options, signatures};

/// Bytes between or behind partitions and filesystems that are kept without asking: boot loaders, RAID metadata and
/// the like hide there, and so little costs nothing.
pub(super) const SMALL_GAP: u64 = 16 << 20;

/// The readers that the analysis calls; tests put others in.
#[derive(Clone, Copy)]
pub(super) struct Readers {
    pub(super) table: fn(&dyn BlockSource) -> Result<PartitionTable>,
    pub(super) probe: fn(&dyn BlockSource) -> Result<Option<FilesystemFacts>>,
    pub(super) used: fn(&dyn BlockSource, &FilesystemFacts) -> Result<Used>,
}

impl Readers {
    pub(super) const OWN: Self = Self { table: read_table, probe: filesystem::probe, used: filesystem::used };
    pub(super) const MOUNTED: Self =
        Self { table: read_table, probe: filesystem::probe, used: filesystem::used_mounted };
    pub(super) const FROZEN: Self =
        Self { table: read_table, probe: filesystem::probe, used: filesystem::used_frozen };
    /// For sources that know which bytes are used.
    pub(super) const SAVED: Self = Self { table: read_table, probe: filesystem::probe, used: used_by_source };
}

/// What the source calls zero is not used.
fn used_by_source(source: &dyn BlockSource, _: &FilesystemFacts) -> Result<Used> {
    let mut used = Used::default();
    let (size, mut at) = (source.size(), 0);
    while at < size {
        let known = source.extent_at(at, size - at)?;
        let end = known.end().clamp(at + 1, size);
        if known.state == State::Data {
            used.ranges.insert(at..end);
        }
        at = end;
    }
    Ok(used)
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
pub(super) enum Finding {
    Foreign(&'static str),
    Md(md::Member),
    Luks(Luks),
    Volume(Box<PhysicalVolume>),
    Filesystem(Box<FilesystemFacts>),
    Nothing,
}

impl Finding {
    pub(super) fn name(&self) -> &'static str {
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
    pub(super) roots: Vec<Vec<usize>>,
    pub(super) tables: Vec<PartitionTable>,
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

    /// Old content of a target must not speak from this device's holes.
    pub(super) fn silence(&mut self, device: &Mapped<'_>) {
        for range in signatures::places(device.size()).ranges() {
            self.ledger.quiet(device, range.clone());
        }
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

    pub(super) fn find(&self, source: &dyn BlockSource, whole_disk: bool) -> Result<Finding> {
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
}

pub(super) fn foreign_reason(name: &str) -> String {
    format!("it carries the mark of {name}, which unmoor does not look into; `wipefs` removes an old mark")
}
