// SPDX-License-Identifier: Apache-2.0
//! The analysis held against disks made by hand, by real tools, and by a real kernel with device-mapper and md.

mod disks;
mod grown;
mod hostile;
mod kernel;
mod old_content;
pub(crate) mod uml;

use super::walk::{Analysis, Readers};
use super::{DiskLayout, Options};
use crate::filesystem::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::monitor::Silent;
use crate::parse::{Bytes, read_vec};
use crate::partition::{Partition, PartitionTable, Role, TableKind};
use crate::{BlockSource, Error, RangeSet, Result, State};

/// A filesystem that states its used ranges in its first bytes, so that every map can be predicted:
/// magic, size, count, then (start, length) of each, all 64-bit little-endian, at byte 3072.
const STUB_AT: u64 = 3072;
const STUB_MAGIC: &[u8] = b"STUBFS01";
/// A count that makes `used` fail.
const BROKEN: u64 = 1000;

fn stub(size: u64, used: &[(u64, u64)]) -> Vec<u8> {
    let mut raw = STUB_MAGIC.to_vec();
    raw.extend(size.to_le_bytes());
    raw.extend((used.len() as u64).to_le_bytes());
    for (start, len) in used {
        raw.extend(start.to_le_bytes());
        raw.extend(len.to_le_bytes());
    }
    assert!(raw.len() <= 1024);
    raw
}

fn facts(kind: FilesystemKind, size_bytes: u64, condition: Condition) -> FilesystemFacts {
    FilesystemFacts {
        kind,
        uuid: None,
        label: None,
        block_size: 4096,
        size_bytes,
        condition,
        max_sector_size: 4096,
        features: Vec::new(),
    }
}

fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    if source.size() < 8192 {
        return Ok(None);
    }
    let raw = read_vec(source, STUB_AT, 16)?;
    if raw.starts_with(STUB_MAGIC) {
        let size = Bytes::new(&raw, "stub").u64_le(8)?;
        return Ok(Some(facts(FilesystemKind::Ext4, size, Condition::Clean)));
    }
    let mark = read_vec(source, 4086, 10)?;
    Ok(match &mark[..] {
        b"SWAPSPACE2" => Some(facts(FilesystemKind::Swap, source.size(), Condition::Clean)),
        b"S1SUSPEND\0" => {
            Some(facts(FilesystemKind::Swap, source.size(), Condition::Hibernated("S1SUSPEND".into())))
        }
        _ => None,
    })
}

fn used(source: &dyn BlockSource, facts: &FilesystemFacts) -> Result<Used> {
    if facts.kind == FilesystemKind::Swap {
        return Ok(Used { ranges: RangeSet::of(0..4096), ..Used::default() });
    }
    let raw = read_vec(source, STUB_AT, 1024)?;
    let header = Bytes::new(&raw, "stub");
    let count = header.u64_le(16)?;
    if count >= BROKEN {
        return Err(Error::malformed("reading group descriptor 17", "checksum mismatch"));
    }
    let mut ranges = RangeSet::of(0..4096);
    for index in 0..count as usize {
        let (start, len) = (header.u64_le(24 + index * 16)?, header.u64_le(32 + index * 16)?);
        ranges.insert(start..start.saturating_add(len));
    }
    Ok(Used { ranges, ..Used::default() })
}

fn no_table(source: &dyn BlockSource) -> Result<PartitionTable> {
    Ok(PartitionTable {
        kind: TableKind::None,
        sector_size: source.sector_size(),
        disk_id: None,
        partitions: Vec::new(),
        metadata: Vec::new(),
        warnings: Vec::new(),
    })
}

/// A table of up to nine partitions in text at byte 64 of sector 0: "TABLE start+len:role ...", in MiB.
fn text_table(source: &dyn BlockSource) -> Result<PartitionTable> {
    let mut table = no_table(source)?;
    let raw = read_vec(source, 64, 256)?;
    let text = crate::parse::c_text(&raw);
    let Some(text) = text.strip_prefix("TABLE") else { return Ok(table) };
    table.kind = TableKind::Mbr;
    table.metadata.push((0, 512));
    for (number, entry) in (1..).zip(text.split_whitespace()) {
        let (place, role) = entry.split_once(':').unwrap();
        let (start, len) = place.split_once('+').unwrap();
        let mib = |text: &str| text.parse::<u64>().unwrap() << 20;
        table.partitions.push(Partition {
            number,
            start: mib(start),
            len: mib(len),
            type_id: if role == "ldm" { "0x42".into() } else { "0x83".into() },
            role: match role {
                "bios" => Role::BiosBoot,
                "ext" => Role::Extended,
                _ => Role::Content,
            },
            partuuid: None,
            name: None,
            bootable: false,
        });
    }
    Ok(table)
}

const STUB: Readers = Readers { table: text_table, probe, used };

fn analyze(disks: &[&dyn BlockSource], options: &Options, readers: Readers) -> Result<Vec<DiskLayout>> {
    Analysis::new(disks, options, &Silent, readers).run()
}

/// The ranges of a layout in one state.
fn in_state(layout: &DiskLayout, state: State) -> RangeSet {
    let mut set = RangeSet::new();
    for extent in layout.extents.iter().filter(|extent| extent.state == state) {
        set.insert(extent.offset..extent.end());
    }
    set
}

/// What a restore leaves on a target that held `target`: data copied, zeros written, holes left alone.
fn restore(layout: &DiskLayout, source: &dyn BlockSource, target: &mut [u8]) {
    for extent in layout.extents.iter() {
        let place = &mut target[extent.offset as usize..extent.end() as usize];
        match extent.state {
            State::Data => source.read_at(place, extent.offset).unwrap(),
            State::Zero => place.fill(0),
            State::Hole => {}
        }
    }
    for (offset, bytes) in &layout.patches {
        target[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}
