// SPDX-License-Identifier: Apache-2.0
//! Whether Windows left a volume in order: volume flags, journal, hibernation file.
//!
//! The rules are those by which ntfs-3g refuses a writable mount (`ntfs_volume_check_logfile`,
//! `ntfs_is_logfile_clean`, `ntfs_volume_check_hiberfile`), with which the tests compare.

use super::record::{Stream, fix_up, kind, record_number, same_utf16};
use super::volume::{Content, Volume};
use crate::filesystem::Condition;
use crate::parse::{Bytes, utf16_text};
use crate::{Error, Result};

const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
/// Larger root directories (two million names) are not searched.
const MOST_INDEX_BLOCKS: u64 = 1 << 16;

/// Most telling first.
pub(super) fn condition(volume: &Volume<'_>) -> Result<Condition> {
    if let Some(found) = hibernation(volume)? {
        return Ok(found);
    }
    let flags = volume_information(volume)?.2;
    if flags & 0x0001 != 0 {
        return Ok(Condition::Dirty("the volume is marked dirty ($Volume flags)".into()));
    }
    if flags & 0x4000 != 0 {
        return Ok(Condition::Dirty("chkdsk was interrupted ($Volume flags)".into()));
    }
    Ok(log(volume)?.map_or(Condition::Clean, |found| Condition::Dirty(found.into())))
}

/// Major and minor version, flags.
pub(super) fn volume_information(volume: &Volume<'_>) -> Result<(u8, u8, u16)> {
    let record = volume.record(VOLUME)?;
    let value =
        record.attribute(kind::VOLUME_INFORMATION, "")?.map(|attribute| attribute.resident()).transpose()?;
    let value = value
        .flatten()
        .ok_or_else(|| Error::malformed("reading the NTFS volume information", "it is missing"))?;
    let raw = Bytes::new(value, "volume information");
    Ok((raw.u8(8)?, raw.u8(9)?, raw.u16_le(10)?))
}

/// `$VOLUME_NAME`, if not empty.
pub(super) fn label(volume: &Volume<'_>) -> Result<Option<String>> {
    let record = volume.record(VOLUME)?;
    let Some(attribute) = record.attribute(kind::VOLUME_NAME, "")? else { return Ok(None) };
    let text = utf16_text(attribute.resident()?.unwrap_or_default());
    Ok((!text.is_empty()).then_some(text))
}

/// Why the journal is not clean, if it is not.
fn log(volume: &Volume<'_>) -> Result<Option<&'static str>> {
    let content = volume
        .content(LOG_FILE, kind::DATA, "")?
        .ok_or_else(|| Error::malformed("reading $LogFile", "it has no data"))?;
    let head = volume.head(&content, 128 * 1024)?;
    // Restart pages lie at 0 and at one page size, which only they tell.
    let places = std::iter::once(0).chain((9..=16).map(|shift| 1usize << shift));
    let newest =
        places.filter_map(|at| restart_page(head.get(at..)?).ok().flatten()).max_by_key(|page| page.lsn);
    match newest {
        // mkntfs and ntfs-3g leave the journal filled with ones: nothing to replay.
        None if !head.is_empty() && head.iter().all(|byte| *byte == 0xFF) => Ok(None),
        None => Ok(Some("the journal ($LogFile) has no valid restart page")),
        Some(page) if page.major >= 2 => Ok(Some(
            "the journal ($LogFile) is open in the format of Windows 8 and later: Windows keeps changes in its cache \
             (Fast Startup, hibernation or power loss)",
        )),
        Some(page) if page.in_use && !page.clean => Ok(Some("the journal ($LogFile) was not closed")),
        Some(_) => Ok(None),
    }
}

struct RestartPage {
    lsn: u64,
    major: u16,
    in_use: bool,
    clean: bool,
}

fn restart_page(from: &[u8]) -> Result<Option<RestartPage>> {
    if !from.starts_with(b"RSTR") && !from.starts_with(b"CHKD") {
        return Ok(None);
    }
    let raw = Bytes::new(from, "restart page");
    let size = raw.u32_le(16)? as usize;
    if !size.is_power_of_two() || !(512..=65536).contains(&size) {
        return Ok(None);
    }
    let mut page = raw.slice(0, size)?.to_vec();
    fix_up(&mut page, "restart page")?;
    let page = Bytes::new(&page, "restart page");
    let major = page.u16_le(28)?;
    let area = page.sub(usize::from(page.u16_le(24)?), 16)?;
    Ok(Some(RestartPage {
        lsn: area.u64_le(0)?,
        major,
        in_use: area.u16_le(12)? != 0xFFFF,
        clean: area.u16_le(14)? & 0x0002 != 0,
    }))
}

/// Looks for `hiberfil.sys` in the root directory and at its first bytes.
fn hibernation(volume: &Volume<'_>) -> Result<Option<Condition>> {
    let Some(reference) = find_in_root(volume, "hiberfil.sys")? else { return Ok(None) };
    let number = record_number(reference);
    if u64::from(volume.record(number)?.sequence()?) != reference >> 48 {
        return Err(Error::malformed("reading hiberfil.sys", "its directory entry is stale"));
    }
    let Some(content) = volume.content(number, kind::DATA, "")? else { return Ok(None) };
    let head = volume.head(&content, 4)?;
    Ok(match head.to_ascii_lowercase().as_slice() {
        b"hibr" => Some(Condition::Hibernated(
            "hiberfil.sys holds a suspended Windows (hibernation or Fast Startup)".into(),
        )),
        b"wake" | b"rstr" => Some(Condition::Dirty(
            "hiberfil.sys says that Windows was woken from it, and not that it was shut down since".into(),
        )),
        _ => None,
    })
}

/// Searches all of the root directory's index; the order of names depends on the volume's own upcase table, and
/// reading all of it needs no order.
fn find_in_root(volume: &Volume<'_>, name: &str) -> Result<Option<u64>> {
    let missing = || Error::malformed("reading the NTFS root directory", "it has no index");
    let root = match volume.content(ROOT, kind::INDEX_ROOT, "$I30")? {
        Some(Content::Resident(root)) => root,
        _ => return Err(missing()),
    };
    let raw = Bytes::new(&root, "index root");
    if let Some(found) = find_entry(raw.sub(16, raw.len().saturating_sub(16))?, name)? {
        return Ok(Some(found));
    }
    let Some(Content::Stream(blocks)) = volume.content(ROOT, kind::INDEX_ALLOCATION, "$I30")? else {
        return Ok(None);
    };
    let size = u64::from(raw.u32_le(8)?);
    if !size.is_power_of_two() || !(512..=65536 * 32).contains(&size) {
        return Err(Error::malformed("reading the NTFS root directory", "its block size makes no sense"));
    }
    if blocks.size / size > MOST_INDEX_BLOCKS {
        return Err(Error::malformed("searching the NTFS root directory", "it is too large"));
    }
    let bitmap = volume.content(ROOT, kind::BITMAP, "$I30")?.ok_or_else(missing)?;
    let bitmap = volume.head(&bitmap, MOST_INDEX_BLOCKS / 8)?;
    search_blocks(volume, &blocks, size, &bitmap, name)
}

fn search_blocks(
    volume: &Volume<'_>,
    blocks: &Stream,
    size: u64,
    bitmap: &[u8],
    name: &str,
) -> Result<Option<u64>> {
    for number in 0..blocks.size / size {
        let byte = bitmap.get((number / 8) as usize).copied().unwrap_or(0);
        if byte >> (number % 8) & 1 == 0 {
            continue;
        }
        let mut block = vec![0; size as usize];
        volume.read(blocks, number * size, &mut block)?;
        if !block.starts_with(b"INDX") {
            return Err(Error::malformed("reading the NTFS root directory", "a block's magic is missing"));
        }
        fix_up(&mut block, "index block")?;
        let raw = Bytes::new(&block, "index block");
        if let Some(found) = find_entry(raw.sub(24, raw.len().saturating_sub(24))?, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Searches the entries behind one index header.
fn find_entry(header: Bytes<'_>, name: &str) -> Result<Option<u64>> {
    let mut at = header.u32_le(0)? as usize;
    let used = header.sub(0, header.u32_le(4)? as usize)?;
    loop {
        let entry = used.sub(at, usize::from(used.u16_le(at.saturating_add(8))?))?;
        if entry.u16_le(12)? & 2 != 0 {
            return Ok(None);
        }
        let len = usize::from(entry.u8(80)?) * 2;
        if same_utf16(entry.slice(82, len)?, name) {
            return entry.u64_le(0).map(Some);
        }
        at += entry.len();
    }
}
