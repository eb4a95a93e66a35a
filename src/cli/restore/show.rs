// SPDX-License-Identifier: Apache-2.0
//! A plan for people: what will be where, and what is lost.

use unmoor_restore::plan::{Document, TargetDocument, Write};

use crate::output::size::show_size;

/// One line each; nothing is written that is not in them.
pub(super) fn lines(disk: &Document) -> Vec<String> {
    let (path, lost) = match &disk.target {
        TargetDocument::Device { path, description } => (path, Some(description)),
        TargetDocument::File { path, .. } => (path, None),
    };
    let mut lines = vec![format!("{} -> {}", disk.image.display(), path.display())];
    if let Some(description) = lost {
        lines.push(format!("  target: {description}"));
        lines.push("  EVERYTHING ON IT WILL BE LOST".to_owned());
    }
    let size = show_size;
    lines.push(format!(
        "  {} in {}-byte sectors: {} of data and {} of zeros to write, {} not used",
        size(disk.size_bytes),
        disk.sector_size,
        size(disk.data_bytes),
        size(disk.zero_bytes),
        size(disk.hole_bytes)
    ));
    for moved in &disk.moves {
        let (from, to) = (place(moved.from), place(moved.to));
        lines.push(format!("  moves {} from {from} to {to}", size(moved.len)));
    }
    lines.extend(writes(&disk.writes));
    if let Some(grown) = &disk.grows {
        lines.push(format!(
            "  grows the {} of {} from {} to {}",
            grown.filesystem,
            grown.volume.clone().unwrap_or_else(|| format!("partition {}", grown.partition)),
            size(grown.old_len),
            size(grown.new_len)
        ));
    }
    lines.extend(disk.notes.iter().map(|note| format!("  {note}")));
    lines
}

/// An address for people, who may have to look there.
fn place(offset: u64) -> String {
    format!("{} ({offset:#x})", show_size(offset))
}

/// The parts of a partition table in one line, all else in a line each.
fn writes(writes: &[Write]) -> Vec<String> {
    let is_table =
        |write: &&Write| ["MBR", "GPT", "extended boot"].iter().any(|word| write.what.contains(word));
    let table: Vec<&Write> = writes.iter().filter(is_table).collect();
    let mut lines = Vec::new();
    if let Some(first) = table.first() {
        let backup = table.iter().find(|write| write.what.starts_with("backup"));
        let chain = table.iter().filter(|write| write.what.starts_with("extended")).count();
        let mut line = if first.what.starts_with("backup") {
            format!("  writes a new backup GPT at {}", place(first.start))
        } else {
            format!("  writes a new partition table at {}", place(first.start))
        };
        if let Some(backup) = backup.filter(|backup| backup.start != first.start) {
            line.push_str(&format!(", its backup at {}", place(backup.start)));
        }
        if chain > 0 {
            line.push_str(&format!(", {chain} records of logical partitions"));
        }
        lines.push(line);
    }
    // A remade filesystem comes in many pieces.
    let mut others: Vec<(&str, u64, u64)> = Vec::new();
    for write in writes.iter().filter(|write| !is_table(write)) {
        match others.iter_mut().find(|known| known.0 == write.what) {
            Some(known) => known.2 += write.len,
            None => others.push((&write.what, write.start, write.len)),
        }
    }
    lines.extend(others.iter().map(|(what, start, len)| {
        format!("  writes a new {what}: {} from {} on", show_size(*len), place(*start))
    }));
    lines
}
