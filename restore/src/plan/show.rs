// SPDX-License-Identifier: Apache-2.0
//! A plan for people: what will be where, and what is lost.

use unmoor_images::State;

use super::{DiskPlan, Plan, Target};

impl Plan {
    /// One line each; nothing is written that is not in them.
    pub fn lines(&self) -> Vec<String> {
        self.disks.iter().flat_map(DiskPlan::lines).collect()
    }
}

impl DiskPlan {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} -> {}", self.image.path.display(), self.target)];
        if let Target::Device { description, .. } = &self.target {
            lines.push(format!("  target: {description}"));
            lines.push("  EVERYTHING ON IT WILL BE LOST".to_owned());
        }
        lines.push(format!(
            "  {} bytes, {}-byte sectors; {} bytes of data and {} of zeros to write",
            self.size,
            self.sector_size,
            self.extents.bytes(State::Data),
            self.extents.bytes(State::Zero)
        ));
        for piece in self.pieces.iter().filter(|piece| piece.to != piece.from) {
            lines.push(format!("  moves {} bytes from {:#x} to {:#x}", piece.len, piece.from, piece.to));
        }
        for patch in &self.patches {
            lines.push(format!(
                "  writes a new {} at {:#x}, {} bytes",
                patch.what,
                patch.offset,
                patch.bytes.len()
            ));
        }
        if let Some(growth) = &self.growth {
            lines.push(format!(
                "  grows the {} of partition {} to {} bytes",
                growth.filesystem.kind.name(),
                growth.partition,
                growth.len
            ));
        }
        lines.extend(self.notes.iter().map(|note| format!("  {note}")));
        lines
    }
}
