// SPDX-License-Identifier: Apache-2.0
//! Making a unified kernel image anew with other contents of some sections.

use unmoor_images::{Error, Result};

use super::pe::{Image, Section};

/// The image with `contents` in place of the sections of those names; others stay where they are in memory. A section that does not
/// exist is made, and one that no longer fits before its neighbour moves behind all others: systemd's stub finds sections by
/// their names (src/boot/pe.c). Signatures are left out, and the checksum is right.
///
/// # Errors
///
/// `Unsupported` where there is no room for another section header, or a section of that name occurs twice (a UKI of several profiles).
pub fn rebuild(image: &Image<'_>, contents: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let cannot = |because: String| Error::unsupported("building a unified kernel image", because);
    let too_large = || cannot("it would have over 4 GiB".to_owned());
    let align = |value: u32, to: u32| value.checked_next_multiple_of(to).ok_or_else(too_large);
    let mut parts: Vec<(Section, Vec<u8>)> =
        image.sections.iter().map(|section| (section.clone(), file_bytes(image, section))).collect();
    for (name, content) in contents {
        let size = u32::try_from(content.len()).map_err(|_| too_large())?;
        if parts.iter().filter(|(section, _)| section.name == *name).count() > 1 {
            return Err(cannot(format!("it has several sections {name}")));
        }
        let at = parts.iter().position(|(section, _)| section.name == *name);
        let (mut section, _) = match at {
            Some(at) => parts.remove(at),
            None => (new_section(name)?, Vec::new()),
        };
        let next =
            parts.iter().map(|(other, _)| other.address).filter(|other| *other > section.address).min();
        let fits = section.address > 0
            && next.is_none_or(|next| section.address.checked_add(size).is_some_and(|end| end <= next));
        section.size = size;
        let at = if fits {
            at.unwrap_or(parts.len())
        } else {
            let mut end = 0;
            for (other, _) in &parts {
                end = end.max(other.address.checked_add(other.size.max(other.file.0)).ok_or_else(too_large)?);
            }
            section.address = align(end, image.section_alignment)?;
            parts.len()
        };
        parts.insert(at, (section, content.to_vec()));
    }
    lay_out(image, parts)
}

/// A section's bytes in the file, padding included, as they are.
fn file_bytes(image: &Image<'_>, section: &Section) -> Vec<u8> {
    image
        .bytes()
        .slice(section.file.1 as usize, section.file.0 as usize)
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}

fn new_section(name: &str) -> Result<Section> {
    let mut raw = [0; 40];
    raw.get_mut(..name.len())
        .filter(|place| place.len() <= 8)
        .ok_or_else(|| {
            Error::unsupported("building a unified kernel image", "a section's name has over 8 bytes")
        })?
        .copy_from_slice(name.as_bytes());
    // IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ
    put(&mut raw, 36, 0x4000_0040);
    Ok(Section { name: name.to_owned(), size: 0, address: 0, file: (0, 0), raw })
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = at.checked_add(4).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Headers, then the sections in the order of the table, nothing between them.
fn lay_out(image: &Image<'_>, parts: Vec<(Section, Vec<u8>)>) -> Result<Vec<u8>> {
    let cannot = |because: &'static str| Error::unsupported("building a unified kernel image", because);
    let headers = image.size_of_headers as usize;
    let count = parts.len();
    if image.table + count * 40 > headers {
        return Err(cannot("its headers have no room for another section"));
    }
    let mut out = image.bytes().slice(0, headers)?.to_vec();
    // Symbols and other sections' relocations lie at places in the file that change; no image needs them.
    let coff = image.optional - 20;
    put(&mut out, coff + 8, 0);
    put(&mut out, coff + 12, 0);
    if let Some(place) = out.get_mut(coff + 2..coff + 4) {
        place.copy_from_slice(&u16::try_from(count).unwrap_or(0).to_le_bytes());
    }
    pad(&mut out, image.file_alignment);
    let headers = u32::try_from(out.len()).unwrap_or(image.size_of_headers);
    put(&mut out, image.optional + 60, headers);
    let mut end_of_image = 0u32;
    for (index, (mut section, mut content)) in parts.into_iter().enumerate() {
        pad(&mut content, image.file_alignment);
        let len = u32::try_from(content.len()).map_err(|_| cannot("it would have over 4 GiB"))?;
        let place = u32::try_from(out.len()).map_err(|_| cannot("it would have over 4 GiB"))?;
        section.file = if len > 0 { (len, place) } else { (0, 0) };
        for (at, value) in [
            (8, section.size),
            (12, section.address),
            (16, section.file.0),
            (20, section.file.1),
            (24, 0),
            (28, 0),
            (32, 0),
        ] {
            put(&mut section.raw, at, value);
        }
        let at = image.table + index * 40;
        if let Some(place) = out.get_mut(at..at + 40) {
            place.copy_from_slice(&section.raw);
        }
        out.extend(content);
        let end = section.address.checked_add(section.size.max(section.file.0));
        end_of_image = end_of_image.max(end.ok_or_else(|| cannot("it would have over 4 GiB"))?);
    }
    let end_of_image = end_of_image
        .checked_next_multiple_of(image.section_alignment)
        .ok_or_else(|| cannot("it would have over 4 GiB"))?;
    put(&mut out, image.optional + 56, end_of_image);
    if image.directories + 40 <= image.table {
        put(&mut out, image.directories + 32, 0);
        put(&mut out, image.directories + 36, 0);
    }
    set_checksum(&mut out, image.optional + 64);
    Ok(out)
}

fn pad(bytes: &mut Vec<u8>, to: u32) {
    bytes.resize(bytes.len().next_multiple_of(to as usize), 0);
}

/// The checksum of a PE image: the sum of its 16-bit words with the carry added in, and its length.
pub(super) fn set_checksum(bytes: &mut [u8], at: usize) {
    put(bytes, at, 0);
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = match pair {
            [low, high] => u32::from(*low) | u32::from(*high) << 8,
            [low] => u32::from(*low),
            _ => 0,
        };
        sum += word;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    put(bytes, at, sum.wrapping_add(len));
}
