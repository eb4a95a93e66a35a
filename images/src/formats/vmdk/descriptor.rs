// SPDX-License-Identifier: Apache-2.0
//! The descriptor: lines of text that say what kind of disk it is and which extents it has.

use crate::{Error, Result};

const DOING: &str = "reading the VMDK descriptor";
/// Bytes of a descriptor at most.
pub(super) const MOST: usize = 1 << 20;
/// Extents at most: a disk of 2 TiB has 1024 of 2 GiB.
const MOST_EXTENTS: usize = 2048;
/// `parentCID` of a disk without a parent.
const NO_PARENT: &str = "ffffffff";

/// How an extent's bytes lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The disk's bytes, from this sector of the file on.
    Flat(u64),
    /// A sparse extent.
    Sparse,
    /// Zeros, without a file.
    Zero,
}

/// A run of sectors of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) sectors: u64,
    pub(super) kind: Kind,
    /// The file's name as it stands; empty for zeros.
    pub(super) file: String,
}

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// `monolithicSparse`, `streamOptimized` ...
    pub(super) create_type: String,
    /// The parent's name, or that there is one.
    pub(super) parent: Option<String>,
    pub(super) extents: Vec<ExtentLine>,
}

impl Descriptor {
    /// Parses text that ends at its first NUL.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        let text = String::from_utf8_lossy(raw.get(..end).unwrap_or(raw));
        let mut descriptor = Self::default();
        let mut parent_cid = None;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Extents have no "=" before their name.
            let key = line.split('"').next().unwrap_or(line);
            match key.split_once('=') {
                Some((key, value)) => {
                    let key = key.trim().to_ascii_lowercase();
                    let value = if value.trim().is_empty() { quoted(line) } else { value };
                    let value = value.trim().trim_matches('"');
                    match key.as_str() {
                        "createtype" => descriptor.create_type = short(value),
                        "parentcid" => parent_cid = Some(value.to_ascii_lowercase()),
                        "parentfilenamehint" => descriptor.parent = Some(short(value)),
                        _ => {}
                    }
                }
                None if descriptor.extents.len() >= MOST_EXTENTS => {
                    let reason = format!("more than {MOST_EXTENTS} extents");
                    return Err(Error::unsupported(DOING, reason));
                }
                None => descriptor.extents.extend(extent(line)?),
            }
        }
        if parent_cid.is_some_and(|cid| cid.trim_start_matches("0x") != NO_PARENT)
            && descriptor.parent.is_none()
        {
            descriptor.parent = Some("without a name".to_owned());
        }
        Ok(descriptor)
    }
}

/// What stands between the first two quotation marks.
fn quoted(line: &str) -> &str {
    line.split('"').nth(1).unwrap_or_default()
}

/// Names for messages.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// `ACCESS SECTORS TYPE ["FILE" [OFFSET]]`; `None` for a line that is something else.
fn extent(line: &str) -> Result<Option<ExtentLine>> {
    let mut words = line.split_whitespace();
    let access = words.next().unwrap_or_default();
    if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
        return Ok(None);
    }
    let bad = || Error::malformed(DOING, format!("an extent that makes no sense: {}", short(line)));
    let sectors = words.next().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
    let kind = words.next().ok_or_else(bad)?;
    let mut parts = line.splitn(3, '"').skip(1);
    let file = parts.next().unwrap_or_default().to_owned();
    let offset = match parts.next().map(str::trim) {
        None | Some("") => 0,
        Some(text) => text.split_whitespace().next().and_then(|text| text.parse().ok()).ok_or_else(bad)?,
    };
    if access == "NOACCESS" {
        return Err(Error::unsupported(DOING, "an extent that may not be read"));
    }
    let kind = match kind {
        "FLAT" | "VMFS" => Kind::Flat(offset),
        "SPARSE" => Kind::Sparse,
        "ZERO" => Kind::Zero,
        "VMFSSPARSE" | "SESPARSE" => {
            let reason = "its extents have the format of ESX snapshots; consolidate the snapshots, or export the machine as OVF";
            return Err(Error::unsupported(DOING, format!("{reason} ({kind})")));
        }
        other => return Err(Error::unsupported(DOING, format!("extents of type {}", short(other)))),
    };
    if file.is_empty() && kind != Kind::Zero {
        return Err(bad());
    }
    Ok(Some(ExtentLine { sectors, kind, file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_vmware_ovftool_and_qemu_are_understood() {
        let flat = "# Disk DescriptorFile\r\nversion=1\r\nCID=fffffffe\r\nparentCID=ffffffff\r\ncreateType=\"vmfs\"\r\n\
                    RW 20971520 VMFS \"web 01-flat.vmdk\"\r\nRW 63 ZERO\r\nRW 8 FLAT \"b.vmdk\" 77\r\nddb.adapterType = \"lsilogic\"\r\n";
        let found = Descriptor::parse(flat.as_bytes()).unwrap();
        let line = |sectors, kind, file: &str| ExtentLine { sectors, kind, file: file.to_owned() };
        assert_eq!((found.create_type.as_str(), found.parent), ("vmfs", None));
        let want = [
            line(20_971_520, Kind::Flat(0), "web 01-flat.vmdk"),
            line(63, Kind::Zero, ""),
            line(8, Kind::Flat(77), "b.vmdk"),
        ];
        assert_eq!(found.extents, want);
        // ovftool leaves the quotation marks out.
        let stream = b"version=1\nparentCID=ffffffff\ncreateType=streamOptimized\nRDONLY 16 SPARSE \"d=1.vmdk\"\n\0garbage";
        let found = Descriptor::parse(stream).unwrap();
        assert_eq!(
            (found.create_type.as_str(), found.extents),
            ("streamOptimized", vec![line(16, Kind::Sparse, "d=1.vmdk")])
        );
        let child = "parentCID=1234abcd\nparentFileNameHint = \"base.vmdk\"\nCID=1\n";
        assert_eq!(Descriptor::parse(child.as_bytes()).unwrap().parent.unwrap(), "base.vmdk");
        assert!(Descriptor::parse(b"parentCID=0\n").unwrap().parent.is_some());
        for bad in [
            "RW x FLAT \"a\" 0",
            "RW 5 FLAT",
            "RW 5",
            "RW 5 FLAT \"a\" b",
            "NOACCESS 5 FLAT \"a\" 0",
            "RW 5 SESPARSE \"a\"",
        ] {
            assert!(Descriptor::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
