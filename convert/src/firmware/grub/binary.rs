// SPDX-License-Identifier: Apache-2.0
//! What GRUB binaries say of themselves: the prefix that is built into an EFI application, and the version.

use unmoor_images::parse::{Bytes, c_text};

use super::reads::Version;

/// "mimg", behind which the objects of a 64-bit image stand (`struct grub_module_info64`).
const MAGIC: &[u8; 4] = b"mimg";
const PREFIX: u32 = 3;
/// Objects of one image; there are a few hundred.
const MOST_OBJECTS: usize = 4096;

/// The prefix of an EFI application: "/EFI/debian". It is where that GRUB looks for its configuration.
pub(crate) fn prefix(image: &[u8]) -> Option<String> {
    let image = Bytes::new(image, "GRUB image");
    let mut from = 0;
    while let Some(found) = find(image.all().get(from..)?, MAGIC) {
        let at = from + found;
        if let Some(prefix) = prefix_at(&image, at) {
            return Some(prefix);
        }
        from = at + MAGIC.len();
    }
    None
}

/// The objects behind a magic at `at`: magic, padding, offset of the first object, length of all.
fn prefix_at(image: &Bytes<'_>, at: usize) -> Option<String> {
    let offset = usize::try_from(image.u64_le(at + 8).ok()?).ok()?;
    let len = usize::try_from(image.u64_le(at + 16).ok()?).ok()?;
    let all = image.sub(at, len).ok()?;
    let mut next = offset;
    for _ in 0..MOST_OBJECTS {
        let (kind, size) = (all.u32_le(next).ok()?, all.u32_le(next + 4).ok()? as usize);
        let content = all.slice(next + 8, size.checked_sub(8)?).ok()?;
        if kind == PREFIX {
            return Some(c_text(content)).filter(|prefix| prefix.starts_with('/'));
        }
        next = next.checked_add(size.max(8))?;
    }
    None
}

/// The version of an EFI application by its SBAT ("grub,3,Free Software Foundation,grub,2.06,..."; the distribution's own line
/// has its package's version), or of normal.mod by its text.
pub(crate) fn version(image: &[u8]) -> Option<Version> {
    let sbat = image.windows(5).enumerate().filter(|(_, window)| *window == b"grub.").find_map(|(at, _)| {
        let line = image.get(at..at + 200)?.split(|byte| *byte == b'\n').next()?;
        Version::parse(std::str::from_utf8(line).ok()?.split(',').nth(4)?)
    });
    sbat.or_else(|| {
        let texts = image.split(|byte| *byte == 0).filter(|text| text.len() < 64 && text.starts_with(b"2."));
        texts.filter_map(|text| Version::parse(std::str::from_utf8(text).ok()?)).next()
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
