// SPDX-License-Identifier: Apache-2.0
//! Entries of new files: a short name that is taken by nobody, and the long name before it where the short one does not say it.
//!
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, "FAT Long Directory Entries".

use super::geometry::put;
use super::tree::ENTRY;
use crate::{Error, ErrorKind, Result};

/// A time in FAT's own form: two seconds' steps from 1980 on, in no particular time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    date: u16,
    time: u16,
}

impl Stamp {
    /// From seconds since 1970, taken as UTC; what is out of range becomes the nearest that is not.
    pub fn from_unix(seconds: i64) -> Self {
        // 1980-01-01 and 2107-12-31.
        let seconds = seconds.clamp(315_532_800, 4_354_819_199);
        let (days, rest) = (seconds / 86400, seconds % 86400);
        // Days to civil date, with years that begin in March (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march + 2) / 5 + 1;
        let month = if march < 10 { march + 3 } else { march - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        Self {
            date: (((year - 1980) << 9) | (month << 5) | day) as u16,
            time: (((rest / 3600) << 11) | ((rest / 60 % 60) << 5) | (rest % 60 / 2)) as u16,
        }
    }
}

/// The long name's entries and, last, the file's own. `taken` tells short names that the directory has.
pub(super) fn entries(
    name: &str,
    attributes: u8,
    time: Stamp,
    taken: impl Fn(&[u8; 11]) -> bool,
) -> Result<Vec<u8>> {
    let units: Vec<u16> = name.encode_utf16().collect();
    let forbidden = |letter: char| letter < ' ' || "\"*/:<>?\\|".contains(letter);
    if units.is_empty() || units.len() > 255 || name.contains(forbidden) || name.ends_with(['.', ' ']) {
        return Err(Error::new(ErrorKind::Usage, format!("naming a file {name:?}"))
            .because("a FAT volume cannot have that name"));
    }
    let (short, exact) = short_name(name);
    let short = if exact && !taken(&short) {
        short
    } else {
        numbered(&short, &taken).ok_or_else(|| {
            Error::refused(format!("naming a file {name:?}"), "the directory has too many names like it")
        })?
    };
    let mut all = Vec::new();
    if !(exact && spelled(&short) == name) {
        long_entries(&units, checksum(&short), &mut all);
    }
    let mut own = [0; ENTRY];
    put(&mut own, 0, &short);
    put(&mut own, 11, &[attributes]);
    put(&mut own, 14, &time.time.to_le_bytes());
    put(&mut own, 16, &time.date.to_le_bytes());
    put(&mut own, 18, &time.date.to_le_bytes());
    touch(&mut own, time);
    all.extend_from_slice(&own);
    Ok(all)
}

/// Sets the time of the last change of an entry.
pub(super) fn touch(entry: &mut [u8], time: Stamp) {
    put(entry, 22, &time.time.to_le_bytes());
    put(entry, 24, &time.date.to_le_bytes());
}

/// The short form of a name, and whether it says the whole name but for its case.
fn short_name(name: &str) -> ([u8; 11], bool) {
    let plain = name.trim_start_matches('.');
    let (base, extension) = plain.rsplit_once('.').unwrap_or((plain, ""));
    let mut exact = plain == name;
    let mut field = |text: &str, most: usize| -> Vec<u8> {
        let mut bytes = Vec::new();
        for letter in text.chars() {
            let byte = match letter {
                ' ' | '.' => None,
                letter if letter.is_ascii_alphanumeric() || "$%'-_@~`!(){}^#&".contains(letter) => {
                    Some(letter.to_ascii_uppercase() as u8)
                }
                _ => Some(b'_'),
            };
            exact &= byte.is_some_and(|byte| byte != b'_' || letter == '_');
            bytes.extend(byte);
        }
        exact &= bytes.len() <= most;
        bytes.truncate(most);
        bytes
    };
    let (base, extension) = (field(base, 8), field(extension, 3));
    let mut short = [b' '; 11];
    put(&mut short, 0, if base.is_empty() { b"_" } else { &base });
    put(&mut short, 8, &extension);
    (short, exact && !base.is_empty())
}

/// With "~1" and so on, the first that is free.
fn numbered(short: &[u8; 11], taken: &impl Fn(&[u8; 11]) -> bool) -> Option<[u8; 11]> {
    let base = short.iter().take(8).take_while(|byte| **byte != b' ').count();
    (1..1_000_000u32).find_map(|number| {
        let tail = format!("~{number}");
        let at = base.min(8usize.saturating_sub(tail.len()));
        let mut candidate = *short;
        put(&mut candidate, at, tail.as_bytes());
        (!taken(&candidate)).then_some(candidate)
    })
}

/// "NAME.EXT".
fn spelled(short: &[u8; 11]) -> String {
    let text = String::from_utf8_lossy(short);
    let (base, extension) = text.split_at_checked(8).unwrap_or((&text, ""));
    match extension.trim_end() {
        "" => base.trim_end().to_owned(),
        extension => format!("{}.{extension}", base.trim_end()),
    }
}

/// Binds a long name to its short one.
fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Thirteen units an entry, the last part first; a zero and then ones fill the last part.
fn long_entries(units: &[u16], checksum: u8, all: &mut Vec<u8>) {
    let parts: Vec<&[u16]> = units.chunks(13).collect();
    for (index, part) in parts.iter().enumerate().rev() {
        let last = if index + 1 == parts.len() { 0x40 } else { 0 };
        let mut entry = [0; ENTRY];
        put(&mut entry, 0, &[(index + 1) as u8 | last]);
        put(&mut entry, 11, &[super::tree::LONG_NAME]);
        put(&mut entry, 13, &[checksum]);
        let padded = part.iter().copied().chain([0]).chain(std::iter::repeat(0xFFFF));
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (at, unit) in places.zip(padded) {
            put(&mut entry, at, &unit.to_le_bytes());
        }
        all.extend_from_slice(&entry);
    }
}
