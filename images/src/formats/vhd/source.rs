// SPDX-License-Identifier: Apache-2.0
//! A VHD image as a disk.

use super::dynamic::Dynamic;
use super::footer::{Footer, Kind, LEN};
use crate::adapt::Window;
use crate::formats::blocks;
use crate::formats::raw::RawSource;
use crate::{BlockSource, Extent, Result, ResultExt};

/// A VHD image opened for reading.
pub struct VhdSource(Inner);

enum Inner {
    Fixed(Window<Window<RawSource>>),
    Dynamic(Dynamic),
}

impl VhdSource {
    /// Takes the image in `file`; returns it with its warnings.
    ///
    /// # Errors
    ///
    /// `Refused` for differencing images.
    pub fn new(file: RawSource) -> Result<(Self, Vec<String>)> {
        let mut footer = Footer::read(&file)?;
        let warnings = std::mem::take(&mut footer.warnings);
        let inner = match footer.kind {
            Kind::Fixed => {
                let doing = || "reading a fixed VHD, which is cut short or has another's footer";
                let data = Window::new(file, 0, footer.size.saturating_add(LEN - 1)).doing(doing)?;
                Inner::Fixed(Window::new(data, 0, footer.size).doing(doing)?)
            }
            Kind::Dynamic => Inner::Dynamic(Dynamic::new(file, &footer)?),
        };
        Ok((Self(inner), warnings))
    }
}

impl BlockSource for VhdSource {
    fn size(&self) -> u64 {
        match &self.0 {
            Inner::Fixed(disk) => disk.size(),
            Inner::Dynamic(disk) => blocks::BlockMap::size(disk),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.0 {
            Inner::Fixed(disk) => disk.read_at(buf, offset),
            Inner::Dynamic(disk) => blocks::read(disk, buf, offset),
        }
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        match &self.0 {
            Inner::Fixed(disk) => disk.extent_at(offset, len),
            Inner::Dynamic(disk) => blocks::extent(disk, offset, len),
        }
    }
}
