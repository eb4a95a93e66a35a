// SPDX-License-Identifier: Apache-2.0
//! Writing entries through efivarfs (`fs/efivarfs/file.c`): one write is one variable, its attributes first; variables that are
//! there are immutable until the flag is cleared.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use unmoor_images::{Error, Result};

use super::{Entry, GLOBAL, content, nvram_entry, order, variable};
use crate::sys::flags;

/// No variable of a boot order or entry is longer; some firmware keeps garbage.
const MOST: u64 = 64 << 10;

/// Where a new entry goes in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Behind the entry that this start came from: machines that always ask the network first go on doing so.
    BehindCurrent,
}

/// Writes `entry` to the variables at `efivarfs` (/sys/firmware/efi/efivars); the number of the entry. An equal entry that is there is
/// used again, and nothing is removed.
///
/// # Errors
///
/// `Io`; where a fallback path exists, a caller goes on.
pub fn write(efivarfs: &Path, entry: &Entry, place: Place) -> Result<u16> {
    let option = entry.load_option();
    let mut used = Vec::new();
    let mut equal = None;
    let listing = fs::read_dir(efivarfs).map_err(|error| failed("listing", efivarfs, error))?;
    for found in listing {
        let name = found.map_err(|error| failed("listing", efivarfs, error))?.file_name();
        let Some(number) = name.to_str().and_then(boot_number) else { continue };
        used.push(number);
        // Firmware keeps entries that nobody can read; they are left alone.
        if let Ok(Some(raw)) = read(efivarfs, &format!("Boot{number:04X}"))
            && content(&raw).is_ok_and(|content| content == option)
        {
            equal = Some(number);
        }
    }
    let number = match equal {
        Some(number) => number,
        None => {
            let free = (0..=u16::MAX).find(|number| !used.contains(number));
            let number =
                free.ok_or_else(|| Error::refused("adding a boot entry", "all 65536 numbers are taken"))?;
            store(efivarfs, &format!("Boot{number:04X}"), &nvram_entry(entry))?;
            number
        }
    };
    let mut numbers = match read(efivarfs, "BootOrder")? {
        Some(raw) => order(content(&raw)?)?,
        None => Vec::new(),
    };
    let before = numbers.clone();
    numbers.retain(|known| *known != number);
    let current = match (place, read(efivarfs, "BootCurrent")?) {
        (Place::BehindCurrent, Some(raw)) => order(content(&raw)?)?.first().copied(),
        _ => None,
    };
    let at =
        current.and_then(|current| numbers.iter().position(|known| *known == current)).map_or(0, |at| at + 1);
    numbers.insert(at, number);
    if numbers != before {
        let raw: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if variable(&raw).len() as u64 > MOST {
            return Err(Error::refused(
                "adding a boot entry",
                "BootOrder has no room: delete entries (efibootmgr -B)",
            ));
        }
        store(efivarfs, "BootOrder", &variable(&raw))?;
    }
    Ok(number)
}

/// Has the firmware start the entry `number` the next time, and only then, whatever its order says: firmware that puts the network
/// in front of all at each start does not heed the order (UEFI 2.10, section 3.1.2).
///
/// # Errors
///
/// `Io`.
pub fn start_next(efivarfs: &Path, number: u16) -> Result<()> {
    store(efivarfs, "BootNext", &variable(&number.to_le_bytes()))
}

/// Whether there are variables at `efivarfs`, and this process may change them.
pub fn is_writable(efivarfs: &Path) -> bool {
    let there = fs::read_dir(efivarfs).is_ok_and(|mut names| names.next().is_some());
    there && nix::unistd::access(efivarfs, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// The number in "Boot0003-8be4df61-...".
fn boot_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot")?.strip_suffix(GLOBAL)?.strip_suffix('-')?;
    let is_number = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

fn read(efivarfs: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = efivarfs.join(format!("{name}-{GLOBAL}"));
    match fs::metadata(&path) {
        Ok(found) if found.len() > MOST => {
            return Err(Error::malformed("reading an EFI variable", "it is longer than 64 KiB").path(path));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    fs::read(&path).map(Some).map_err(|error| failed("reading", &path, error))
}

fn store(efivarfs: &Path, name: &str, raw: &[u8]) -> Result<()> {
    let path = efivarfs.join(format!("{name}-{GLOBAL}"));
    let was_immutable = match File::open(&path) {
        Ok(file) => flags::clear_immutable(&file).map_err(|error| failed("unlocking", &path, error))?,
        Err(_) => false,
    };
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(raw))
        .map_err(|error| failed("writing", &path, error));
    if was_immutable && let Ok(file) = File::open(&path) {
        flags::set_immutable(&file).map_err(|error| failed("locking", &path, error))?;
    }
    written
}

fn failed(doing: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{doing} EFI variables"), error).path(path)
}
