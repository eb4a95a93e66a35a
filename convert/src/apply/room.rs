// SPDX-License-Identifier: Apache-2.0
//! Bytes and inodes that edits need on each filesystem, undo copies included.

use std::collections::{BTreeMap, BTreeSet};

use unmoor_images::Result;

use super::UNDO;
use super::place::split;
use crate::files::Files;
use crate::plan::{Change, Edit, Was, size};

/// A file takes whole blocks; a directory may grow by one.
const BLOCK: u64 = 4096;
/// Names that an undo copy has beside the copies: directories, index, its temporary.
const MORE_INODES: u64 = 8;
/// Of an undo copy's index, for each file.
const INDEX: u64 = 1024;

/// Whether it fits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fit {
    /// Files take turns: there is no room for all new ones beside the old ones.
    pub(super) in_turn: bool,
    /// Why it does not fit, and what to do.
    pub(crate) shortage: Option<String>,
}

/// What is needed on one filesystem.
#[derive(Default)]
struct Need {
    path: String,
    /// All new files, beside the old ones.
    staged: u64,
    /// What stays when all is done.
    net: u64,
    /// The largest new file.
    largest: u64,
    inodes: u64,
}

/// Compares what `edits` need with what is free; `reserve` bytes stay free on each filesystem.
pub(crate) fn room(edits: &[&Edit], files: &dyn Files, reserve: u64) -> Result<Fit> {
    let mut needs: BTreeMap<u64, Need> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for edit in edits {
        let old = match edit.change.was() {
            Was::File { size, .. } => size,
            _ => 0,
        };
        let new = match &edit.change {
            Change::Write { content, .. } => content.bytes().len() as u64,
            Change::Append { content, .. } => old.saturating_add(content.bytes().len() as u64),
            Change::Link { .. } | Change::Directory { .. } => BLOCK,
            Change::Remove { .. } => 0,
        };
        // Of a file that is appended to, only the length is kept.
        let copy = if matches!(edit.change, Change::Append { .. }) { 0 } else { old };
        add(&mut needs, files, UNDO, copy.saturating_add(INDEX), 0, u64::from(copy > 0))?;
        add(&mut needs, files, &edit.path, new, old, u64::from(new > 0))?;
        let mut parent = split(&edit.path).0;
        while files.metadata(parent)?.is_none() && directories.insert(parent.to_owned()) {
            add(&mut needs, files, parent, BLOCK, 0, 1)?;
            parent = split(parent).0;
        }
    }
    if !edits.is_empty() {
        add(&mut needs, files, UNDO, BLOCK, 0, MORE_INODES)?;
    }
    let mut fit = Fit::default();
    for need in needs.values().filter(|need| need.staged > 0) {
        compare(need, files, reserve, &mut fit)?;
    }
    Ok(fit)
}

/// The filesystem of `path`, or of its nearest parent, gets a file of `new` bytes in the place of one of `old`.
fn add(
    needs: &mut BTreeMap<u64, Need>,
    files: &dyn Files,
    path: &str,
    new: u64,
    old: u64,
    inodes: u64,
) -> Result<()> {
    let mut at = path;
    let device = loop {
        match files.metadata(at)? {
            Some(found) => break found.device,
            None if at == "/" => break 0,
            None => at = split(at).0,
        }
    };
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK).saturating_mul(BLOCK);
    let need = needs.entry(device).or_insert_with(|| Need { path: at.to_owned(), ..Need::default() });
    need.staged = need.staged.saturating_add(blocks(new));
    need.net = need.net.saturating_add(blocks(new).saturating_sub(blocks(old)));
    need.largest = need.largest.max(blocks(new));
    need.inodes = need.inodes.saturating_add(inodes);
    Ok(())
}

fn compare(need: &Need, files: &dyn Files, reserve: u64, fit: &mut Fit) -> Result<()> {
    let room = files.room(&need.path)?;
    // What a filesystem spends on its own trees for them.
    let more = reserve.saturating_add(need.staged / 64).saturating_add(16 * BLOCK);
    if room.bytes < need.staged.saturating_add(more) {
        fit.in_turn = true;
        let least = need.net.saturating_add(need.largest).saturating_add(more);
        if room.bytes < least {
            fit.shortage = Some(format!(
                "the filesystem at {} has {} free and {} are needed: make room there (old kernels in /boot, for example)",
                need.path,
                size(room.bytes),
                size(least)
            ));
        }
    }
    if room.inodes < need.inodes {
        fit.shortage = Some(format!(
            "the filesystem at {} has {} inodes left and {} are needed: remove files there",
            need.path, room.inodes, need.inodes
        ));
    }
    Ok(())
}
