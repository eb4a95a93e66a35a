// SPDX-License-Identifier: Apache-2.0
//! Debian packages (deb(5)): an ar archive that holds a compressed tar archive of the files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use unmoor_images::{Error, Result};

/// Memory for an xz dictionary, in bytes; dpkg-deb uses at most `xz -9`'s 64 MiB.
const MOST_DICTIONARY: u64 = 160 << 20;
/// No file that is wanted from a package is larger (bytes).
const LARGEST: u64 = 256 << 20;
/// All files that are wanted from one package together: a distribution's whole kernel has 400 MB.
const MOST: u64 = 2 << 30;
/// Entries of one package.
const MOST_ENTRIES: usize = 200_000;
/// ar(5): an entry's header.
const HEADER: usize = 60;

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Without a slash or "./" in front.
    pub(super) path: String,
    pub(super) content: Vec<u8>,
}

/// The regular files of the package at `path` that `wanted` says yes to.
///
/// # Errors
///
/// `Io`; `Malformed` where it is no package or is damaged; `Unsupported` for compression other than xz, zstd, gzip and none.
pub(super) fn read(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
    let file = File::open(path).map_err(|error| Error::io("opening", error).path(path))?;
    read_from(BufReader::with_capacity(1 << 20, file), wanted)
        .map_err(|error| Error::new(error.kind(), "reading the Debian package").path(path).source(error))
}

fn read_from(mut file: impl Read, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
    let doing = "reading its members";
    let short = |error: std::io::Error| Error::malformed(doing, error.to_string());
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(short)?;
    if &magic != b"!<arch>\n" {
        return Err(Error::malformed(doing, "it is no ar archive"));
    }
    loop {
        let mut header = [0; HEADER];
        file.read_exact(&mut header).map_err(|_| Error::malformed(doing, "it has no data.tar"))?;
        let text = String::from_utf8_lossy(&header).into_owned();
        let name = text.get(..16).unwrap_or_default().trim_end().trim_end_matches('/');
        let size: u64 = text
            .get(48..58)
            .and_then(|size| size.trim().parse().ok())
            .ok_or_else(|| Error::malformed(doing, "a member has no size"))?;
        if !text.ends_with("`\n") {
            return Err(Error::malformed(doing, "a member's header does not end as it should"));
        }
        let member = (&mut file).take(size);
        match name {
            "data.tar" => return entries(member, wanted),
            "data.tar.xz" => {
                let stream = liblzma::stream::Stream::new_stream_decoder(MOST_DICTIONARY, 0)
                    .map_err(|error| Error::unsupported(doing, error.to_string()))?;
                let decoder = liblzma::bufread::XzDecoder::new_stream(
                    BufReader::with_capacity(1 << 20, member),
                    stream,
                );
                return entries(decoder, wanted);
            }
            "data.tar.zst" => {
                return entries(zstd::stream::read::Decoder::new(member).map_err(short)?, wanted);
            }
            "data.tar.gz" => return entries(flate2::read::GzDecoder::new(member), wanted),
            other if other.starts_with("data.tar") => {
                return Err(Error::unsupported(
                    doing,
                    format!("{other} is compressed in a way that is not read"),
                ));
            }
            _ => {
                // Members begin at even offsets.
                let skipped = std::io::copy(&mut (&mut file).take(size + size % 2), &mut std::io::sink());
                if skipped.map_err(short)? != size + size % 2 {
                    return Err(Error::malformed(doing, "it ends within a member"));
                }
            }
        }
    }
}

fn entries(tar: impl Read, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>> {
    let doing = "reading its files";
    let bad = |error: std::io::Error| Error::malformed(doing, error.to_string());
    let mut found = Vec::new();
    let mut left = MOST;
    let mut archive = tar::Archive::new(tar);
    for (count, entry) in archive.entries().map_err(bad)?.enumerate() {
        let mut entry = entry.map_err(bad)?;
        if count >= MOST_ENTRIES {
            return Err(Error::unsupported(doing, format!("it has over {MOST_ENTRIES} entries")));
        }
        if entry.header().entry_type() != tar::EntryType::Regular {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
        if !wanted(&path) {
            continue;
        }
        let mut content = Vec::new();
        (&mut entry).take(LARGEST + 1).read_to_end(&mut content).map_err(bad)?;
        let length = content.len() as u64;
        left = left.checked_sub(length).filter(|_| length <= LARGEST).ok_or_else(|| {
            Error::unsupported(doing, format!("{path} makes it larger than any kernel's package is"))
        })?;
        if entry.header().size().is_ok_and(|size| size != length) {
            return Err(Error::malformed(doing, format!("{path} is cut short")));
        }
        found.push(Entry { path, content });
    }
    // The compression's checksum is behind the last file.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(bad)?;
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A package as dpkg-deb lays it out, with `data` under the name `member`.
    fn package(member: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", b"odd"), (member, data)] {
            bytes.extend_from_slice(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", content.len())
                    .as_bytes(),
            );
            bytes.extend_from_slice(content);
            if content.len() % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("./usr/{}/file", "directory/".repeat(20));
        for (path, content) in
            [("./boot/vmlinuz-6", &b"kernel"[..]), (&long, b"long name"), ("./etc/passwd", b"no")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            builder.append_data(&mut header, path, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(bytes: &[u8]) -> Result<Vec<(String, usize)>> {
        let entries = read_from(bytes, &|path| !path.starts_with("etc"))?;
        Ok(entries
            .into_iter()
            .map(|entry| (entry.path.rsplit('/').next().unwrap().to_owned(), entry.content.len()))
            .collect())
    }

    #[test]
    fn packages_of_every_compression_are_read() {
        let tar = tar();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar).unwrap();
        let variants = [
            package("data.tar", &tar),
            package("data.tar.xz/", &liblzma::encode_all(tar.as_slice(), 1).unwrap()),
            package("data.tar.zst", &zstd::encode_all(tar.as_slice(), 1).unwrap()),
            package("data.tar.gz", &gzip.finish().unwrap()),
        ];
        for variant in variants {
            assert_eq!(names(&variant).unwrap(), [("vmlinuz-6".to_owned(), 6), ("file".to_owned(), 9)]);
        }
        assert!(names(&package("data.tar.bz2", &tar)).is_err());
    }

    #[test]
    fn damaged_packages_are_refused_and_never_panic() {
        let whole = package("data.tar.xz", &liblzma::encode_all(tar().as_slice(), 1).unwrap());
        // Without the padding.
        for cut in 0..whole.len() - 1 {
            assert!(names(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let plain = package("data.tar", &tar());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2000 {
            let mut damaged = plain.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(state >> 33).unwrap() % damaged.len();
                damaged[at] = (state >> 16) as u8;
            }
            let _ = names(&damaged);
        }
    }
}
