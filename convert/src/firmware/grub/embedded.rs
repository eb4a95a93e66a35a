// SPDX-License-Identifier: Apache-2.0
//! The core image that GRUB's boot code on a disk loads: what `grub-install` put behind the MBR or into the BIOS boot partition.
//! See [`super::core_image`] for its layout.

use unmoor_images::parse::{Bytes, read_vec};
use unmoor_images::{BlockSource, Result};

const SECTOR: u64 = 512;
/// Where boot.img has the address of the core image's first sector, and what stands there in GRUB's alone: "GRUB " in its messages.
const KERNEL_SECTOR: usize = 0x5c;
/// A BIOS can load no more (see [`super::core_image`]), nor does it grow beyond some MiB when it is unpacked.
const MOST_PACKED: usize = 0x78000;
const MOST_UNPACKED: usize = 4 << 20;
/// Bytes that are unpacked in all while the right place is looked for.
const MOST_TRIED: usize = 256 << 20;
/// lzma_decompress.img lies below 0x9000 and is loaded at 0x8200; it has some KiB.
const DECOMPRESSOR: std::ops::Range<usize> = 0x800..0xe00;

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// GRUB's kernel, modules, configuration and prefix, unpacked.
    Image(Vec<u8>),
    /// GRUB's boot code, but what it loads is not understood.
    Unreadable,
}

/// Looks at a disk; `None` without GRUB's boot code.
pub(crate) fn read(disk: &dyn BlockSource) -> Option<Found> {
    let first = read_vec(disk, 0, SECTOR as usize).ok()?;
    if !first.windows(5).any(|window| window == b"GRUB ") {
        return None;
    }
    Some(image(disk, &first).ok().flatten().map_or(Found::Unreadable, Found::Image))
}

fn image(disk: &dyn BlockSource, first: &[u8]) -> Result<Option<Vec<u8>>> {
    let sector = Bytes::new(first, "GRUB's boot code").u64_le(KERNEL_SECTOR)?;
    let Some(at) = sector.checked_mul(SECTOR) else { return Ok(None) };
    let loader = read_vec(disk, at, SECTOR as usize)?;
    let loader = Bytes::new(&loader, "GRUB's loader");
    // Runs of sectors, from the end of the sector downwards; one without sectors ends them.
    let mut packed = Vec::new();
    let mut entry = SECTOR as usize;
    while let Some(at) = entry.checked_sub(12).filter(|at| *at >= 256) {
        entry = at;
        let (start, count) = (loader.u64_le(at)?, loader.u16_le(at + 8)?);
        let len = usize::from(count) * SECTOR as usize;
        if count == 0 || packed.len() + len > MOST_PACKED {
            break;
        }
        let Some(from) = start.checked_mul(SECTOR) else { break };
        packed.extend(read_vec(disk, from, len)?);
    }
    Ok(unpack(&packed))
}

/// Of a core image without its first sector.
pub(crate) fn unpack(core: &[u8]) -> Option<Vec<u8>> {
    let head = Bytes::new(core, "GRUB's core image");
    let (packed, unpacked) = (head.u32_le(0x08).ok()? as usize, head.u32_le(0x0c).ok()? as usize);
    if packed > MOST_PACKED || unpacked > MOST_UNPACKED || unpacked == 0 {
        return None;
    }
    // Nothing says how long the decompressor is; LZMA's data begin with a zero, and only right data give an image of that length.
    let most = MOST_TRIED / unpacked;
    DECOMPRESSOR.filter(|at| core.get(*at) == Some(&0)).take(most).find_map(|at| {
        let data = core.get(at..at.checked_add(packed)?)?;
        let image = decompress(data, unpacked)?;
        image.windows(4).any(|window| window == b"mimg").then_some(image)
    })
}

/// The compressor of GRUB writes no end mark: what is known is the length.
fn decompress(data: &[u8], len: usize) -> Option<Vec<u8>> {
    use liblzma::stream::{Action, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(6).ok()?;
    options.dict_size(1 << 16).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let mut out = Vec::with_capacity(len);
    Stream::new_raw_decoder(&filters).ok()?.process_vec(data, &mut out, Action::Run).ok()?;
    out.truncate(len);
    (out.len() == len).then_some(out)
}
