// SPDX-License-Identifier: Apache-2.0
//! GRUB for a BIOS: the core image of i386-pc, made of the files that its package brings, and the boot code that loads it.
//!
//! ```text
//!   sector 0        boot.img           loads one sector: the address at 0x5c
//!   BIOS boot       diskboot.img       loads the rest: a list of (first sector, sectors, segment) from its end downwards
//!   partition       lzma_decompress    unpacks what follows to 1 MiB
//!                   LZMA( kernel.img's code and data | "mimg" | modules, configuration, prefix )
//! ```
//!
//! The layout is that of GRUB 2.00 to 2.12 (`util/mkimage.c`, `util/setup.c`, `include/grub/offsets.h`, `include/grub/kernel.h`);
//! the fields are found out from there and held against what grub-mkimage and grub-bios-setup write.

use unmoor_images::parse::Bytes;
use unmoor_images::{Error, Result};

use super::modules::Dependencies;

const SECTOR: usize = 512;
/// Where kernel.img is linked to run.
const LINK_ADDRESS: u32 = 0x9000;
/// The compressed image is loaded from 0x8200 on and must end below the EBDA and what GRUB keeps there.
const MOST: usize = 0x78000 - LINK_ADDRESS as usize;
/// The segment at which diskboot.img puts the first of the sectors that it loads.
const LOAD_SEGMENT: u16 = 0x820;
/// Bytes of boot code in an MBR, before the disk signature.
const BOOT_CODE: usize = 440;

/// "mimg", as the kernel looks for it behind its data.
const MODULE_MAGIC: u32 = 0x676d_696d;
const MODULE: u32 = 0;
const CONFIG: u32 = 2;
const PREFIX: u32 = 3;

const DOING: &str = "making GRUB's core image";

/// What goes onto a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreImage {
    /// The first 440 bytes of the disk.
    pub boot_code: Vec<u8>,
    /// For the BIOS boot partition, from its first sector on; whole sectors of 512 bytes.
    pub core: Vec<u8>,
}

/// What a core image is to hold.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Modules without those that they need.
    pub modules: &'a [&'a str],
    /// Directory of modules and configuration, as GRUB names it: "/boot/grub".
    pub prefix: &'a str,
    /// Commands that are run before anything else; empty for none.
    pub config: &'a str,
    /// Sector of 512 bytes on the disk at which the core image begins.
    pub first_sector: u64,
}

/// Makes it of the files of a directory `i386-pc`, which `file` answers by name ("kernel.img", "ext2.mod").
///
/// # Errors
///
/// `Unsupported` where a file is missing; `Malformed` where one is not what it should be; `Refused` where the image would be
/// too large for a BIOS to load.
pub fn build(file: &dyn Fn(&str) -> Option<Vec<u8>>, wanted: &Wanted<'_>) -> Result<CoreImage> {
    let need = |name: &str| {
        file(name).ok_or_else(|| {
            Error::unsupported(DOING, format!("grub/i386-pc/{name} is missing (Debian package grub-pc-bin)"))
        })
    };
    let list = need("moddep.lst")?;
    let names = Dependencies::parse(&String::from_utf8_lossy(&list)).closure(wanted.modules.iter().copied());
    let mut modules = Vec::new();
    for name in &names {
        modules.push(need(&format!("{name}.mod"))?);
    }
    let plain = unpacked(&need("kernel.img")?, &modules, wanted)?;
    let packed = compressed(&plain)?;

    let mut core = need("lzma_decompress.img")?;
    // Sizes for the decompressor; the sectors of redundancy (0x10) stay none.
    put(&mut core, 0x08, &(packed.len() as u32).to_le_bytes())?;
    put(&mut core, 0x0c, &(plain.len() as u32).to_le_bytes())?;
    core.extend(packed);
    if core.len() > MOST {
        return Err(Error::refused(
            DOING,
            format!("it has {} bytes, and a BIOS can load {MOST}: name fewer modules", core.len()),
        ));
    }
    core.resize(core.len().next_multiple_of(SECTOR), 0);

    let mut first = need("diskboot.img")?;
    if first.len() != SECTOR {
        return Err(Error::malformed(DOING, "diskboot.img is not one sector"));
    }
    put(&mut first, SECTOR - 12, &(wanted.first_sector + 1).to_le_bytes())?;
    put(&mut first, SECTOR - 4, &((core.len() / SECTOR) as u16).to_le_bytes())?;
    put(&mut first, SECTOR - 2, &LOAD_SEGMENT.to_le_bytes())?;
    first.extend(core);
    Ok(CoreImage { boot_code: boot_code(&need("boot.img")?, wanted.first_sector)?, core: first })
}

/// boot.img's code: it takes the drive that the BIOS names, unless that is no hard disk, which broken ones do.
fn boot_code(image: &[u8], first_sector: u64) -> Result<Vec<u8>> {
    let mut code = Bytes::new(image, "boot.img").slice(0, BOOT_CODE)?.to_vec();
    // Room for a BIOS parameter block: some BIOSes change it. grub-bios-setup keeps the disk's; on a disk with a GPT it says nothing.
    put(&mut code, 0x5c, &first_sector.to_le_bytes())?;
    put(&mut code, 0x64, &[0xff])?;
    // The jump over the check of the drive's number becomes no operation.
    put(&mut code, 0x66, &[0x90, 0x90])?;
    Ok(code)
}

/// Kernel and modules as they stand in memory.
fn unpacked(kernel: &[u8], modules: &[Vec<u8>], wanted: &Wanted<'_>) -> Result<Vec<u8>> {
    let mut objects = Vec::new();
    let mut object = |kind: u32, content: &[u8], zeros: usize| {
        let len = (content.len() + zeros).next_multiple_of(4);
        objects.extend(kind.to_le_bytes());
        objects.extend((len as u32 + 8).to_le_bytes());
        let end = objects.len() + len;
        objects.extend_from_slice(content);
        objects.resize(end, 0);
    };
    modules.iter().for_each(|module| object(MODULE, module, 0));
    if !wanted.config.is_empty() {
        object(CONFIG, wanted.config.as_bytes(), 1);
    }
    object(PREFIX, wanted.prefix.as_bytes(), 1);
    let mut image = loaded(kernel)?;
    image.extend(MODULE_MAGIC.to_le_bytes());
    image.extend(12u32.to_le_bytes());
    image.extend((objects.len() as u32 + 12).to_le_bytes());
    image.extend(objects);
    Ok(image)
}

/// Code and data of kernel.img, which is an ELF executable with one part to load.
fn loaded(kernel: &[u8]) -> Result<Vec<u8>> {
    let elf = Bytes::new(kernel, "kernel.img");
    let bad = |because: &'static str| Error::malformed("reading kernel.img", because);
    if elf.slice(0, 6)? != b"\x7fELF\x01\x01" {
        return Err(bad("it is no 32-bit ELF file"));
    }
    let (at, size, count) = (elf.u32_le(28)? as usize, elf.u16_le(42)? as usize, elf.u16_le(44)? as usize);
    for index in 0..count {
        let header = elf.sub(at.saturating_add(index.saturating_mul(size)), 32)?;
        if header.u32_le(0)? == 1 {
            let (offset, address, len) = (header.u32_le(4)?, header.u32_le(8)?, header.u32_le(16)?);
            if address != LINK_ADDRESS {
                return Err(bad("it is linked for another address"));
            }
            return Ok(elf.slice(offset as usize, len as usize)?.to_vec());
        }
    }
    Err(bad("nothing of it is to be loaded"))
}

/// Raw LZMA as GRUB's decompressor has it built in: lc=3, lp=0, pb=2, no header.
fn compressed(plain: &[u8]) -> Result<Vec<u8>> {
    use liblzma::stream::{Action, Filters, LzmaOptions, Status, Stream};
    let failed = |error| Error::io(DOING, std::io::Error::from(error));
    let mut options = LzmaOptions::new_preset(6).map_err(failed)?;
    options.dict_size(1 << 16).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let mut stream = Stream::new_raw_encoder(&filters).map_err(failed)?;
    let mut packed = Vec::with_capacity(plain.len() + 1024);
    match stream.process_vec(plain, &mut packed, Action::Finish).map_err(failed)? {
        Status::StreamEnd => Ok(packed),
        _ => Err(Error::malformed(DOING, "the compressor did not finish")),
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) -> Result<()> {
    let place = at.checked_add(field.len()).and_then(|end| bytes.get_mut(at..end));
    place.ok_or_else(|| Error::malformed(DOING, "a file is too short"))?.copy_from_slice(field);
    Ok(())
}
