// SPDX-License-Identifier: Apache-2.0
//! Linux swap: a header page that ends in a signature, and perhaps a suspended system.
//!
//! ```text
//!   byte 1024: version, last page, bad pages, UUID, label, list of bad pages | ... | orig_sig (10) | signature (10) |
//!                                                                       end of page minus 20, minus 10
//! ```
//!
//! Layout: include/linux/swap.h (`union swap_header`) and kernel/power/swap.c (`struct swsusp_header`, which leaves the
//! UUID where it is and saves the signature that it replaces).

use super::identity::refused;
use super::{Condition, FilesystemFacts, FilesystemKind, Used};
use crate::identity::Change;
use crate::parse::{Bytes, c_text, read_vec, uuid_text};
use crate::{BlockSource, Error, RangeSet, Result};

const SIGNATURE: usize = 10;
const UUID_AT: u64 = 1036;
const PAGE_SIZES: [usize; 5] = [4096, 8192, 16384, 32768, 65536];
/// First bytes of a TuxOnIce image header of the binary kind.
const TUXONICE: [u8; 8] = [0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c];

enum Found {
    /// `SWAPSPACE2`, with UUID and label, or the older `SWAP-SPACE`, a bitmap.
    Plain {
        version1: bool,
    },
    Hibernated(&'static str),
}

fn signature(raw: &[u8]) -> Option<Found> {
    Some(match raw {
        b"SWAPSPACE2" => Found::Plain { version1: true },
        b"SWAP-SPACE" => Found::Plain { version1: false },
        b"S1SUSPEND\0" => Found::Hibernated("S1SUSPEND: the kernel's hibernation"),
        b"S2SUSPEND\0" => Found::Hibernated("S2SUSPEND: an older kernel's hibernation"),
        b"ULSUSPEND\0" => Found::Hibernated("ULSUSPEND: uswsusp's hibernation"),
        b"LINHIB0001" => Found::Hibernated("LINHIB0001: TuxOnIce's hibernation"),
        _ => return None,
    })
}

/// Swap at byte 0 of `source`. See [`super::probe`].
pub(super) fn probe(source: &dyn BlockSource) -> Result<Option<FilesystemFacts>> {
    let Some((page_size, found)) = find(source)? else { return Ok(None) };
    let raw = read_vec(source, 0, page_size)?;
    let header = Bytes::new(&raw, "swap header");
    let (version1, condition) = match found {
        Found::Plain { version1 } => (version1, Condition::Clean),
        // What was there before is saved beside the signature; by uswsusp and TuxOnIce in the same place or not at all.
        Found::Hibernated(what) => {
            (true, Condition::Hibernated(format!("a system is suspended onto it ({what})")))
        }
    };
    // The header has the byte order of the machine that made it. Only version 1 has a UUID and a label.
    let (little, big) = (header.u32_le(1024)?, header.u32_be(1024)?);
    let last_page = match (version1, little, big) {
        (true, 1, _) => Some(header.u32_le(1028)?),
        (true, _, 1) => Some(header.u32_be(1028)?),
        _ => None,
    };
    let mut uuid = [0; 16];
    uuid.copy_from_slice(header.slice(1036, 16)?);
    let label = c_text(header.slice(1052, 16)?);
    let size_bytes = last_page
        .and_then(|last| (u64::from(last) + 1).checked_mul(page_size as u64))
        .unwrap_or_else(|| source.size());
    Ok(Some(FilesystemFacts {
        kind: FilesystemKind::Swap,
        uuid: (last_page.is_some() && uuid != [0; 16]).then(|| uuid_text(&uuid)),
        label: (last_page.is_some() && !label.is_empty()).then_some(label),
        block_size: page_size as u32,
        size_bytes,
        condition,
        max_sector_size: 4096,
        features: Vec::new(),
    }))
}

/// The header page; all of it where a system is suspended onto it. See [`super::used`].
pub(super) fn used(source: &dyn BlockSource) -> Result<Used> {
    match find(source)? {
        Some((page_size, Found::Plain { .. })) => {
            Ok(Used { ranges: RangeSet::of(0..page_size as u64), ..Used::default() })
        }
        Some((_, Found::Hibernated(what))) => {
            Ok(Used::everything(source.size(), format!("a system is suspended onto it ({what})")))
        }
        None => Err(Error::malformed("reading the swap header", "its signature is gone")),
    }
}

/// What to write, and at which byte, so that the swap of a suspended system is ordinary swap again and nothing
/// tries to resume from it. `None` where no system is suspended onto it.
///
/// # Errors
/// `Unsupported` where the signature that was there before was not saved: `mkswap` is needed then.
pub fn discarded_hibernation(source: &dyn BlockSource) -> Result<Option<(u64, [u8; SIGNATURE])>> {
    let Some((page_size, Found::Hibernated(what))) = find(source)? else { return Ok(None) };
    let mut original = [0; SIGNATURE];
    let at = (page_size - SIGNATURE) as u64;
    source.read_at(&mut original, at - SIGNATURE as u64)?;
    match signature(&original) {
        Some(Found::Plain { .. }) => Ok(Some((at, original))),
        _ => Err(Error::unsupported(
            "discarding a suspended system",
            format!("{what} did not keep the swap's own signature"),
        )
        .at(at)),
    }
}

/// The header page of the swap at byte 0 of `source` for an area of `len` bytes that begins at the same place: same UUID,
/// label and page size.
///
/// # Errors
///
/// `Refused` for swap that a system is suspended onto, that has bad pages, that is of the first version, or that would have
/// fewer than ten pages (mkswap's limit).
pub fn resized(source: &dyn BlockSource, len: u64) -> Result<Vec<u8>> {
    let refused = |because: &'static str| Error::refused("making swap of another size", because);
    let page_size = match find(source)? {
        Some((page_size, Found::Plain { version1: true })) => page_size,
        Some((_, Found::Hibernated(_))) => {
            return Err(refused("a system is suspended onto it: start it and shut it down first"));
        }
        Some(_) => return Err(refused("it is of a kind that mkswap no longer makes")),
        None => return Err(refused("there is no swap")),
    };
    let mut raw = read_vec(source, 0, page_size)?;
    let header = Bytes::new(&raw, "swap header");
    let is_little = header.u32_le(1024)? == 1;
    if header.u32_le(1032)? != 0 {
        return Err(refused("it has bad pages: make it anew with mkswap"));
    }
    let pages = u32::try_from(len / page_size as u64).unwrap_or(u32::MAX);
    if pages < 10 {
        return Err(refused("too few pages would be left"));
    }
    let last = pages - 1;
    let field = if is_little { last.to_le_bytes() } else { last.to_be_bytes() };
    if let Some(place) = raw.get_mut(1028..1032) {
        place.copy_from_slice(&field);
    }
    Ok(raw)
}

/// Plans the UUID `new` for the swap area at byte 0 of `source`.
pub(super) fn change_uuid(source: &dyn BlockSource, new: &[u8; 16]) -> Result<Change> {
    match find(source)? {
        Some((_, Found::Plain { version1: true })) => {}
        Some((_, Found::Hibernated(_))) => {
            return Err(refused("a system is suspended onto it: start it and shut it down first"));
        }
        _ => return Err(refused("swap of the first version has none")),
    }
    let old = read_vec(source, UUID_AT, 16)?;
    let old = old.first_chunk::<16>().filter(|old| **old != [0; 16]);
    let old = old.ok_or_else(|| refused("it has none"))?;
    Ok(Change {
        old: uuid_text(old),
        new: uuid_text(new),
        writes: vec![(UUID_AT, new.to_vec())],
        adds: Vec::new(),
    })
}

fn find(source: &dyn BlockSource) -> Result<Option<(usize, Found)>> {
    for page_size in PAGE_SIZES {
        if source.size() < page_size as u64 {
            break;
        }
        let raw = read_vec(source, (page_size - SIGNATURE) as u64, SIGNATURE)?;
        if let Some(found) = signature(&raw) {
            return Ok(Some((page_size, found)));
        }
    }
    if source.size() >= 4096 && read_vec(source, 0, TUXONICE.len())? == TUXONICE {
        return Ok(Some((4096, Found::Hibernated("TuxOnIce's hibernation"))));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::filesystem::{probe, used};

    struct Memory(Vec<u8>);

    impl BlockSource for Memory {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            crate::source::check_range(self.size(), offset, buf.len())?;
            buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
            Ok(())
        }
    }

    fn run(program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}; install the package util-linux"));
        String::from_utf8(output.stdout).unwrap()
    }

    fn mkswap(args: &[&str]) -> (tempfile::NamedTempFile, Memory) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        run("mkswap", &[args, &[file.path().to_str().unwrap()]].concat());
        let content = fs::read(file.path()).unwrap();
        (file, Memory(content))
    }

    fn blkid(file: &tempfile::NamedTempFile, content: &Memory, key: &str) -> Option<String> {
        fs::write(file.path(), &content.0).unwrap();
        let text = run("blkid", &["-p", "-o", "export", file.path().to_str().unwrap()]);
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    }

    #[test]
    fn swap_is_its_header_whatever_the_page_size() {
        for page in [4096, 8192, 16384, 32768, 65536] {
            for order in ["little", "big"] {
                let size = page.to_string();
                let (file, mut disk) = mkswap(&["-p", &size, "-L", "pages"]);
                if order == "big" {
                    disk.0[1024..1036].chunks_exact_mut(4).for_each(<[u8]>::reverse);
                }
                let facts = probe(&disk).unwrap().unwrap();
                assert_eq!((facts.kind, facts.condition.clone()), (FilesystemKind::Swap, Condition::Clean));
                assert_eq!((facts.block_size, facts.size_bytes), (page, 4 << 20), "{order}");
                assert_eq!(facts.uuid, blkid(&file, &disk, "UUID"));
                assert!(facts.uuid.is_some() && facts.label.as_deref() == Some("pages"));
                let mut used = used(&disk, &facts).unwrap();
                assert!(used.ranges.bytes() == u64::from(page) && used.ranges.covers(0..page.into()));
                assert_eq!(discarded_hibernation(&disk).unwrap(), None);
            }
        }
    }

    #[test]
    fn swap_of_another_size_is_what_mkswap_would_have_made() {
        let (file, disk) = mkswap(&["-L", "smaller", "-U", "0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f"]);
        let header = resized(&disk, 3 << 20).unwrap();
        file.as_file().set_len(3 << 20).unwrap();
        run(
            "mkswap",
            &["-L", "smaller", "-U", "0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f", file.path().to_str().unwrap()],
        );
        assert!(fs::read(file.path()).unwrap()[..4096] == header);
        assert!(resized(&disk, 9 * 4096).unwrap_err().chain().contains("too few pages"));

        let mut suspended = disk;
        suspended.0[4086..4096].copy_from_slice(b"S1SUSPEND\0");
        assert_eq!(resized(&suspended, 3 << 20).unwrap_err().kind(), crate::ErrorKind::Refused);
        suspended.0[4086..4096].copy_from_slice(b"SWAPSPACE2");
        suspended.0[1032] = 1;
        assert_eq!(resized(&suspended, 3 << 20).unwrap_err().kind(), crate::ErrorKind::Refused);
    }

    #[test]
    fn a_suspended_system_is_seen_and_its_swap_still_known() {
        for (signature, keeps_original) in [
            (&b"S1SUSPEND\0"[..], true),
            (b"S2SUSPEND\0", true),
            (b"ULSUSPEND\0", true),
            (b"LINHIB0001", false),
        ] {
            let (file, mut disk) = mkswap(&["-L", "suspended"]);
            let plain = disk.0.clone();
            let uuid = probe(&disk).unwrap().unwrap().uuid;
            disk.0[4086..4096].copy_from_slice(signature);
            if keeps_original {
                disk.0[4076..4086].copy_from_slice(b"SWAPSPACE2");
            }
            let facts = probe(&disk).unwrap().unwrap();
            assert_eq!(blkid(&file, &disk, "TYPE").as_deref(), Some("swsuspend"));
            assert!(matches!(facts.condition, Condition::Hibernated(_)));
            assert_eq!((facts.uuid.clone(), facts.label.as_deref()), (uuid, Some("suspended")));
            let mut used = used(&disk, &facts).unwrap();
            assert_eq!(used.ranges.bytes(), disk.size());
            assert!(used.everything_because.unwrap().contains("suspended"));
            if keeps_original {
                let (at, bytes) = discarded_hibernation(&disk).unwrap().unwrap();
                disk.0[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                disk.0[4076..4086].fill(0);
                assert!(disk.0 == plain);
            } else {
                assert!(discarded_hibernation(&disk).is_err());
            }
        }
    }

    #[test]
    fn what_is_no_swap_or_too_short_is_nothing() {
        for length in [0, 1, 4095, 4096, 70_000] {
            assert_eq!(probe(&Memory(vec![0; length])).unwrap(), None);
        }
        let (_, mut disk) = mkswap(&[]);
        disk.0[1028..1032].fill(0xff);
        assert_eq!(probe(&disk).unwrap().unwrap().size_bytes, 1 << 44);
        disk.0.truncate(4096);
        assert_eq!(used(&disk, &probe(&disk).unwrap().unwrap()).unwrap().ranges.bytes(), 4096);
    }
}
