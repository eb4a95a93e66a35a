// SPDX-License-Identifier: Apache-2.0
//! A plan as facts, for programs and for who shows it to people. Nothing is written that is not in them.

use std::path::PathBuf;

use serde::Serialize;
use unmoor_images::State;
use unmoor_images::formats::Format;
use unmoor_images::partition::Partition;

use super::{DiskPlan, Plan, Target};

/// One disk of a plan. All numbers are bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// The image, or "-".
    pub image: PathBuf,
    /// Where it goes.
    pub target: TargetDocument,
    /// Size of the target.
    pub size_bytes: u64,
    /// Its logical sector.
    pub sector_size: u32,
    /// Content that is written.
    pub data_bytes: u64,
    /// Zeros that are written, old signatures among what they replace.
    pub zero_bytes: u64,
    /// What no filesystem uses and is left as it is (without `--wipe`).
    pub hole_bytes: u64,
    /// The partitions as they will be.
    pub partitions: Vec<Partition>,
    /// Content that goes to another address than in the image.
    pub moves: Vec<Move>,
    /// Bytes that are made anew.
    pub writes: Vec<Write>,
    /// The filesystem that is grown.
    pub grows: Option<Grown>,
    /// What changes, and what is left to do, in words.
    pub notes: Vec<String>,
    /// What to weigh, in words.
    pub warnings: Vec<String>,
}

/// Where a disk goes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TargetDocument {
    /// A block device, all of whose content is lost.
    #[allow(missing_docs)]
    Device { path: PathBuf, description: String },
    /// A file that is made anew.
    #[allow(missing_docs)]
    File { path: PathBuf, format: Format },
}

/// Content that changes its address.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Move {
    pub from: u64,
    pub to: u64,
    pub len: u64,
}

/// Bytes that differ from the image's.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Write {
    pub what: String,
    pub start: u64,
    pub len: u64,
}

/// A filesystem that is made larger.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Grown {
    pub partition: u32,
    /// The logical volume in it that gets the room, if it is one.
    pub volume: Option<String>,
    pub filesystem: &'static str,
    pub uuid: Option<String>,
    pub old_len: u64,
    pub new_len: u64,
}

impl Plan {
    /// Each disk's part.
    pub fn documents(&self) -> Vec<Document> {
        self.disks.iter().map(DiskPlan::document).collect()
    }
}

impl DiskPlan {
    fn document(&self) -> Document {
        let moves = self.pieces.iter().filter(|piece| piece.to != piece.from);
        Document {
            image: self.image.path.clone(),
            target: match &self.target {
                Target::Device { path, description, .. } => {
                    TargetDocument::Device { path: path.clone(), description: description.clone() }
                }
                Target::File { path, format } => TargetDocument::File { path: path.clone(), format: *format },
            },
            size_bytes: self.size,
            sector_size: self.sector_size,
            data_bytes: self.extents.bytes(State::Data),
            zero_bytes: self.extents.bytes(State::Zero),
            hole_bytes: self.extents.bytes(State::Hole),
            partitions: self.partitions.clone(),
            moves: moves.map(|piece| Move { from: piece.from, to: piece.to, len: piece.len }).collect(),
            writes: self.writes(),
            grows: self.growth.as_ref().map(|growth| Grown {
                partition: growth.partition,
                volume: growth.volume.clone(),
                filesystem: growth.filesystem.kind.name(),
                uuid: growth.filesystem.uuid.clone(),
                old_len: growth.filesystem.size_bytes,
                new_len: growth.len(),
            }),
            notes: self.notes.clone(),
            warnings: self.warnings.clone(),
        }
    }

    /// The patches, those that continue each other as one.
    fn writes(&self) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        for patch in &self.patches {
            let len = patch.bytes.len() as u64;
            match writes.last_mut() {
                Some(last) if last.what == patch.what && last.start + last.len == patch.offset => {
                    last.len += len;
                }
                _ => writes.push(Write { what: patch.what.clone(), start: patch.offset, len }),
            }
        }
        writes
    }
}
