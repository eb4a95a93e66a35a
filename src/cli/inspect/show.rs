// SPDX-License-Identifier: Apache-2.0
//! What is on a disk, for people.

use unmoor_capture::Survey;
use unmoor_capture::disk::Kind;
use unmoor_images::filesystem::Condition;
use unmoor_images::layout::{Content, DiskLayout, Kept, Place, Region};
use unmoor_images::manifest::{Consistency, Manifest};
use unmoor_images::partition::TableKind;
use unmoor_images::{BlockSource, State};

use super::kernel::Kernel;
use crate::output::size::show_size;
use crate::output::table::{Align, Table, plain};

/// All lines.
pub(super) fn lines(
    survey: &Survey<'_>,
    manifest: Option<&Manifest>,
    kernel: &Kernel,
    verbose: bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, (disk, layout)) in survey.disks.iter().zip(&survey.layouts).enumerate() {
        let kind = match disk.kind() {
            Kind::Image(format) => format!("{format:?} image").to_lowercase(),
            Kind::Device { physical_sector_size, .. } => {
                format!("block device, sectors of {}/{physical_sector_size} bytes", disk.sector_size())
            }
        };
        let table = table_name(layout.table.kind);
        lines.push(format!(
            "{}: {}, {kind}, {table}{}",
            disk.path().display(),
            show_size(disk.size()),
            layout.table.disk_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default()
        ));
        lines.extend(regions(layout).into_iter().map(|line| format!("  {line}")));
        lines.extend(kernel.lines(number, verbose).into_iter().map(|line| format!("  {}", plain(&line))));
        let bytes = |state| show_size(layout.extents.bytes(state));
        lines.push(format!("  data {}, unused {}", bytes(State::Data), bytes(State::Hole)));
    }
    if let Some(manifest) = manifest {
        lines.extend(manifest_lines(manifest, verbose));
    }
    lines
}

/// A table's kind, for people.
pub(crate) fn table_name(kind: TableKind) -> &'static str {
    match kind {
        TableKind::Gpt => "GPT",
        TableKind::Mbr => "MBR",
        TableKind::None => "no partition table",
    }
}

/// A table of what is on a disk, and what should be known of it.
pub(crate) fn regions(layout: &DiskLayout) -> Vec<String> {
    let mut lines = table_of(layout).lines();
    lines.extend(reasons(&layout.regions).iter().map(|reason| plain(reason)));
    lines
}

fn table_of(layout: &DiskLayout) -> Table {
    let mut table = Table::new(&[
        ("WHERE", Align::Left),
        ("START", Align::Right),
        ("SIZE", Align::Right),
        ("USED", Align::Right),
        ("CONTENT", Align::Left),
        ("LABEL", Align::Left),
        ("UUID", Align::Left),
        ("NAME", Align::Left),
    ]);
    for region in &layout.regions {
        add(&mut table, layout, region, 0);
    }
    table
}

fn add(table: &mut Table, layout: &DiskLayout, region: &Region, depth: usize) {
    const DEEPEST: usize = 16;
    let indent = "  ".repeat(depth.min(DEEPEST));
    let (place, start, len) = place(&region.place);
    let (content, label, uuid) = content(&region.content);
    let name = match &region.place {
        Place::Disk { partition: Some(number), .. } => {
            layout.table.partitions.iter().find(|partition| partition.number == *number)
        }
        _ => None,
    };
    table.row(vec![
        format!("{indent}{place}"),
        start.map(show_size).unwrap_or_default(),
        show_size(len),
        show_size(region.used_bytes),
        content,
        label,
        uuid,
        name.and_then(|partition| partition.name.clone()).unwrap_or_default(),
    ]);
    if depth < DEEPEST {
        region.children.iter().for_each(|child| add(table, layout, child, depth + 1));
    }
}

/// (what to call it, first byte on the disk, length)
pub(crate) fn place(place: &Place) -> (String, Option<u64>, u64) {
    match place {
        Place::Disk { offset, len, partition: Some(number) } => {
            (format!("partition {number}"), Some(*offset), *len)
        }
        Place::Disk { offset: 0, len, partition: None } => ("disk".to_owned(), Some(0), *len),
        Place::Disk { offset, len, partition: None } => ("gap".to_owned(), Some(*offset), *len),
        Place::LogicalVolume { vg, lv, len } => (format!("{vg}/{lv}"), None, *len),
        Place::Md { uuid, name, offset, len } => {
            (format!("md {}", name.as_ref().unwrap_or(uuid)), Some(*offset), *len)
        }
    }
}

/// (what it is, label, UUID)
fn content(content: &Content) -> (String, String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match content {
        Content::Filesystem(facts) => {
            let condition = match &facts.condition {
                Condition::Clean => "",
                Condition::Dirty(_) => " (dirty)",
                Condition::Hibernated(_) => " (hibernated)",
            };
            (format!("{}{condition}", facts.kind.name()), text(&facts.label), text(&facts.uuid))
        }
        Content::PhysicalVolume { pv_uuid, vg, .. } => ("LVM PV".to_owned(), text(vg), pv_uuid.clone()),
        Content::MdMember { array_uuid, name, level, metadata } => {
            (format!("md RAID{level} member, {metadata}"), text(name), array_uuid.clone())
        }
        Content::Luks { version, uuid } => (format!("LUKS{version}"), String::new(), text(uuid)),
        Content::BootArea => ("boot area".to_owned(), String::new(), String::new()),
        Content::Extended => ("extended".to_owned(), String::new(), String::new()),
        Content::Unknown => ("unknown".to_owned(), String::new(), String::new()),
    }
}

/// Why some of it is kept whole, and what is wrong with filesystems.
fn reasons(regions: &[Region]) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut waiting: Vec<&Region> = regions.iter().rev().collect();
    while let Some(region) = waiting.pop() {
        let name = place(&region.place).0;
        if let Kept::Everything(because) = &region.kept
            && !because.is_empty()
            && !matches!(region.content, Content::BootArea | Content::Extended)
        {
            reasons.push(format!("{name} is kept whole: {because}"));
        } else if let Content::Filesystem(facts) = &region.content {
            match &facts.condition {
                Condition::Clean => {}
                Condition::Dirty(what) | Condition::Hibernated(what) => {
                    reasons.push(format!("{name}: {what}"));
                }
            }
        }
        waiting.extend(region.children.iter().rev());
    }
    reasons
}

/// When, by what and of which machine a capture was.
pub(crate) fn captured(manifest: &Manifest) -> Vec<String> {
    let consistency = match manifest.consistency {
        Consistency::Offline => "offline",
        Consistency::Live => "while in use: crash-consistent at best",
        Consistency::Frozen => "while in use, frozen at one instant: crash-consistent",
        Consistency::Application => "while in use, frozen at one instant with its applications at rest",
    };
    let mut lines =
        vec![format!("captured {} by {}, {consistency}", plain(&manifest.created), plain(&manifest.tool))];
    if let Some(machine) = &manifest.machine {
        let known = [&machine.vendor, &machine.product, &machine.serial];
        let known: Vec<&str> = known.into_iter().flatten().map(String::as_str).collect();
        let firmware = format!("{:?}", machine.firmware).to_uppercase();
        let name = plain(&known.join(" "));
        lines.push(format!(
            "machine: {}{firmware}, {} CPUs, {}",
            if name.is_empty() { name } else { format!("{name}, ") },
            machine.cpu_count,
            show_size(machine.memory_bytes)
        ));
    }
    lines
}

fn manifest_lines(manifest: &Manifest, verbose: bool) -> Vec<String> {
    let mut lines = captured(manifest);
    for disk in &manifest.disks {
        lines.push(format!(
            "  {}: {} of {}, {} of data{}",
            plain(&disk.image),
            plain(&disk.source),
            show_size(disk.size),
            show_size(disk.data_bytes),
            if verbose { format!(", root {}", plain(&disk.root)) } else { String::new() },
        ));
    }
    for warning in &manifest.warnings {
        lines.push(format!("  at the capture: {}", plain(warning)));
    }
    lines
}
