// SPDX-License-Identifier: Apache-2.0
//! The plan for a disk that comes through a pipe: every byte at its own address, and a GPT that fits the target.

use unmoor_images::formats::raw::StreamSource;
use unmoor_images::partition::TableKind;
use unmoor_images::partition::rewrite::{self, TableRewrite};
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, RangeSet, Result, State};

use super::build::{clear, held, label, zeros};
use super::{DiskPlan, Target};
use crate::image::Image;
use crate::stream::Stream;
use crate::view::{Patch, Piece, View};

pub(super) fn disk(mut image: Image, stream: &Stream, target: Target) -> Result<DiskPlan> {
    let from = image.source.size();
    let (size, sector_size) = match &target {
        Target::Device { size, sector_size, .. } => (*size, *sector_size),
        Target::File { .. } => (from, image.table.sector_size),
    };
    if !size.is_multiple_of(u64::from(sector_size)) {
        let because = format!("{size} bytes are not a whole number of {sector_size}-byte sectors");
        return Err(Error::new(ErrorKind::Usage, format!("planning {target}")).because(because));
    }
    if image.table.sector_size != sector_size {
        let because = format!(
            "it is of a disk with {}-byte sectors, the target's have {sector_size} bytes: write the stream to a file, and restore that",
            image.table.sector_size
        );
        return Err(Error::refused("fitting the stream to its target", because));
    }
    let mut notes = Vec::new();
    let table = fit(&image, from, size, sector_size, &mut notes)?;
    let mut old = RangeSet::new();
    for &(start, len) in &table.clear {
        old.insert(start..start.saturating_add(len));
    }
    let pieces: Vec<Piece> = old
        .gaps(from.min(size))
        .into_iter()
        .map(|range| Piece { to: range.start, from: range.start, len: range.end - range.start })
        .collect();
    let patch = |(index, (at, bytes)): (usize, &(u64, Vec<u8>))| Patch {
        offset: *at,
        bytes: bytes.clone(),
        what: label(image.table.kind, index, *at).to_owned(),
    };
    let patches: Vec<Patch> = table.writes.iter().enumerate().map(patch).collect();
    let held = held(&table, image.table.kind, size, None);
    let mut read = RangeSet::new();
    pieces.iter().for_each(|piece| read.insert(piece.from..piece.from + piece.len));
    let map = ExtentMap::from_data(from, &mut read, State::Hole);
    image.source = Box::new(StreamSource::with_map(stream.clone(), &map));
    let view = View::new(&*image.source, &pieces, &patches, size, sector_size);
    let extents = view.extents(&image.extents, &mut zeros(&table, size));
    let warnings = image.warnings.clone();
    Ok(DiskPlan {
        image,
        target,
        size,
        sector_size,
        partitions: table.partitions,
        pieces,
        patches,
        extents,
        held,
        clear: clear(size),
        growth: None,
        notes,
        warnings,
    })
}

/// The table for the target. Only a GPT can be fitted: an MBR's extended partitions lie further up the stream.
fn fit(
    image: &Image,
    from: u64,
    size: u64,
    sector_size: u32,
    notes: &mut Vec<String>,
) -> Result<TableRewrite> {
    if size == from {
        return Ok(TableRewrite { partitions: image.table.partitions.clone(), ..TableRewrite::default() });
    }
    if image.table.kind == TableKind::Gpt && !image.table.partitions.is_empty() {
        let request = rewrite::Options { size, sector_size, ..rewrite::Options::default() };
        let table = rewrite::plan(&*image.source, &request)?;
        notes.push("the backup GPT goes to the end of the target".into());
        if size > from {
            notes.push("the room behind the last partition stays unused: a stream cannot be looked into before it is written".into());
        }
        return Ok(table);
    }
    if size < from {
        let because = format!(
            "the disk has {from} bytes, and the target ends {} bytes before that; what a stream holds there cannot be known beforehand",
            from - size
        );
        return Err(Error::refused("fitting the stream to a smaller target", because));
    }
    notes.push("the room behind the end of the stream stays unused".into());
    Ok(TableRewrite { partitions: image.table.partitions.clone(), ..TableRewrite::default() })
}
