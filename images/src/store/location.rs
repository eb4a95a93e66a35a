// SPDX-License-Identifier: Apache-2.0
//! Where a store and its images are, as people write it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// Longest name of a machine, in bytes: object names have 1024 on S3, file names 255.
const LONGEST: usize = 128;

/// A store, as it is named before anything is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this host.
    Directory(PathBuf),
    /// A prefix in a bucket of S3-compatible object storage.
    S3 {
        /// The bucket.
        bucket: String,
        /// Without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// A machine, or one image of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The machine's name.
    pub machine: String,
    /// The image's time, or the beginning of it; the latest image where it is absent.
    pub time: Option<String>,
}

impl Location {
    /// True if `text` names a store or something in one, not a file.
    pub fn is_one(text: &str) -> bool {
        text.starts_with("dir:") || text.starts_with("s3://")
    }

    /// The same for a path from the command line.
    pub fn is_path(path: &Path) -> bool {
        path.to_str().is_some_and(Self::is_one)
    }

    /// `dir:PATH` or `s3://BUCKET/PREFIX`, all of it a store.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("dir:") {
            if path.is_empty() {
                return Err(usage(text, "a path has to follow dir:"));
            }
            let trimmed = path.trim_end_matches('/');
            return Ok(Self::Directory(if trimmed.is_empty() { "/".into() } else { trimmed.into() }));
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let prefix = prefix.trim_matches('/');
            if bucket.is_empty() || prefix.split('/').any(|part| part == "." || part == "..") {
                return Err(usage(text, "write s3://BUCKET/PREFIX"));
            }
            return Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
        }
        Err(usage(text, "a store is dir:PATH or s3://BUCKET/PREFIX"))
    }

    /// `STORE/NAME` or `STORE/NAME@TIME`: the last part is the machine.
    pub fn parse_image(text: &str) -> Result<(Self, ImageName)> {
        let (store, name) = text.rsplit_once('/').ok_or_else(|| usage(text, "write STORE/NAME"))?;
        let name = ImageName::parse(name)?;
        let store = if store == "dir:" { "dir:/" } else { store };
        if store == "s3:/" || store == "s3:" {
            return Err(usage(text, "write s3://BUCKET/NAME or s3://BUCKET/PREFIX/NAME"));
        }
        Ok((Self::parse(store)?, name))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl ImageName {
    /// `NAME` or `NAME@TIME`.
    pub fn parse(text: &str) -> Result<Self> {
        let (machine, time) = match text.split_once('@') {
            Some((machine, time)) => (machine, Some(plain_time(time)?)),
            None => (text, None),
        };
        check_name(machine)?;
        Ok(Self { machine: machine.to_owned(), time })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.machine)?;
        self.time.as_ref().map_or(Ok(()), |time| write!(f, "@{time}"))
    }
}

/// Names are parts of object names, and of files that people handle.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > LONGEST || name.starts_with(['.', '-']) || !name.chars().all(plain) {
        let because =
            "a machine's name has letters, digits, dots, dashes and underscores, at most 128 of them";
        return Err(Error::new(ErrorKind::Usage, format!("naming a machine {name:.200?}")).because(because));
    }
    Ok(())
}

/// `2026-11-24T21:50:00Z` as it stands in object names, where colons ask for trouble: `20261124T215000Z`. The end may
/// be missing; a second image of one second ends in `-2`.
pub(super) fn plain_time(text: &str) -> Result<String> {
    let mut time: String = text.to_owned();
    if text.as_bytes().get(4) == Some(&b'-') {
        // Dashes of the date; one behind the Z counts images.
        let (date, rest) = text.split_at_checked(10).unwrap_or((text, ""));
        time = date.replace('-', "") + rest;
    }
    let time = time.replace(':', "");
    let known = |c: char| c.is_ascii_digit() || matches!(c, 'T' | 'Z' | '-');
    if time.is_empty() || time.len() > 24 || !time.chars().all(known) {
        let because = "write it as `unmoor images list` shows it: 20261124T215000Z, or the beginning of it";
        return Err(Error::new(ErrorKind::Usage, format!("reading the time {text:.80?}")).because(because));
    }
    Ok(time)
}

fn usage(text: &str, because: &'static str) -> Error {
    Error::new(ErrorKind::Usage, format!("reading the location {text:.300?}")).because(because)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_as_people_write_them() {
        let (store, name) = Location::parse_image("dir:/srv/images/web01").unwrap();
        assert_eq!((store.to_string().as_str(), name.to_string().as_str()), ("dir:/srv/images", "web01"));
        let (store, name) = Location::parse_image("s3://bucket/a/b/web01@2026-11-24T21:50:00Z").unwrap();
        assert_eq!(store, Location::S3 { bucket: "bucket".into(), prefix: "a/b".into() });
        assert_eq!(name.time.as_deref(), Some("20261124T215000Z"));
        assert_eq!(Location::parse_image("s3://bucket/web01").unwrap().0.to_string(), "s3://bucket");
        assert_eq!(Location::parse_image("dir:rel/web01").unwrap().0, Location::Directory("rel".into()));
        assert_eq!(
            ImageName::parse("a@20261124T215000Z-2").unwrap().time.as_deref(),
            Some("20261124T215000Z-2")
        );
        assert_eq!(ImageName::parse("a@2026-11").unwrap().time.as_deref(), Some("202611"));
        for bad in [
            "web01",
            "dir:",
            "s3://",
            "s3://web01",
            "dir:/s/..",
            "dir:/s/a b",
            "dir:/s/a@",
            "dir:/s/a@x",
            "s3://b/../x",
        ] {
            assert!(Location::parse_image(bad).is_err(), "{bad}");
        }
    }
}
