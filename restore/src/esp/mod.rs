// SPDX-License-Identifier: Apache-2.0
//! A FAT volume made anew for sectors of another size: same files, names, times, label and serial number.
//!
//! The content of files is never held in memory: it is moved by pieces like a partition's. A volume cannot stay as it
//! is, since neither Linux nor firmware takes one with sectors smaller than the disk's.

#[cfg(test)]
mod tests;

use std::ops::Range;

use unmoor_images::adapt::Window;
use unmoor_images::filesystem::fat::{Boot, Volume};
use unmoor_images::{BlockSource, Result};

use crate::view::{Patch, Piece};

/// A volume made anew.
#[derive(Debug)]
pub(crate) struct Remade {
    /// Where the old one lies in the image: to be left out.
    pub(crate) old: Range<u64>,
    /// Where the new one lies on the target.
    pub(crate) new: Range<u64>,
    /// Content of its files.
    pub(crate) pieces: Vec<Piece>,
    /// All its structures, without what is zero.
    pub(crate) patches: Vec<Patch>,
    /// Its structures with what is zero; free clusters lie behind.
    pub(crate) zeros: Range<u64>,
}

/// Makes the FAT volume at `old` of `image` anew at `new` of a disk with sectors of `sector_size` bytes.
///
/// `None` where no FAT volume begins there, or one that has such sectors already.
///
/// # Errors
///
/// `Malformed` for a volume with broken structures, `Refused` where its files do not fit in clusters of the new size.
pub(crate) fn remake(
    image: &dyn BlockSource,
    old: Range<u64>,
    new: Range<u64>,
    sector_size: u32,
) -> Result<Option<Remade>> {
    let source = Window::new(image, old.start, old.end.saturating_sub(old.start))?;
    match Boot::read(&source)? {
        Some(boot) if boot.sector_size != sector_size => {}
        _ => return Ok(None),
    }
    let Some(volume) = Volume::read(&source)? else { return Ok(None) };
    let made = volume.make(new.end.saturating_sub(new.start), sector_size, new.start)?;
    let patches = made.patches.into_iter().map(|(at, bytes, what)| Patch {
        offset: new.start + at,
        bytes,
        what: format!("FAT volume's {what}"),
    });
    let pieces = made.moves.iter().map(|part| Piece {
        to: new.start + part.to,
        from: old.start + part.from,
        len: part.len,
    });
    Ok(Some(Remade {
        pieces: pieces.collect(),
        patches: patches.collect(),
        zeros: new.start..new.start.saturating_add(made.structures),
        old,
        new,
    }))
}
