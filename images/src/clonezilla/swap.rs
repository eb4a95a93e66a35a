// SPDX-License-Identifier: Apache-2.0
//! A swap's header, made anew: Clonezilla saves its UUID and label alone (`mkswap`'s layout, `include/linux/swap.h`).

use crate::{Error, Result};

/// What an image says of a swap.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) uuid: Option<[u8; 16]>,
    pub(super) label: String,
}

const PAGE: u64 = 4096;

impl Swap {
    /// Reads `UUID="..."` and `LABEL="..."`.
    pub(super) fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            Some(line.trim().trim_matches('"').to_owned())
        };
        Self { uuid: value("UUID").as_deref().and_then(uuid), label: value("LABEL").unwrap_or_default() }
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u32> =
        text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let mut out = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        if let [high, low] = pair {
            *byte = (high << 4 | low) as u8;
        }
    }
    Some(out)
}

/// The first page of a swap of `len` bytes.
pub(super) fn header(swap: &Swap, len: u64) -> Result<Vec<u8>> {
    let pages = len / PAGE;
    let last = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    if pages < 10 {
        return Err(Error::malformed(
            "making a swap's header",
            format!("{len} bytes are too few for a swap"),
        ));
    }
    let mut page = vec![0; PAGE as usize];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = page.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(1024, &1u32.to_le_bytes());
    put(1028, &last.to_le_bytes());
    put(1036, &swap.uuid.unwrap_or_default());
    let label = swap.label.as_bytes();
    put(1052, label.get(..label.len().min(15)).unwrap_or_default());
    put(PAGE as usize - 10, b"SWAPSPACE2");
    Ok(page)
}
