// SPDX-License-Identifier: Apache-2.0
//! `IMAGE.commit`: a change that is decided, with all that carrying it out takes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::formats::Format;
use crate::manifest::{Manifest, write_durably};
use crate::{Error, ErrorKind, Result, ResultExt};

/// Largest record that is read, in bytes: 2 million ranges.
const MOST: u64 = 256 << 20;
const FORMAT: &str = "unmoor-commit";

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: String,
    pub(super) version: u32,
    /// The image with the machine's record, where this is not it. Then the rest is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) leader: Option<String>,
    #[serde(default)]
    pub(super) disks: Vec<DiskChange>,
    /// The manifest as it will be, and its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<(String, Manifest)>,
}

/// The change of one image. Names are of files beside the record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DiskChange {
    pub(super) image: String,
    pub(super) image_format: Format,
    /// Ranges of the disk that come from the overlay.
    pub(super) ranges: Vec<Range>,
    /// The map's name, where the image has one; `NAME.next` is the new one.
    pub(super) map: Option<String>,
}

/// At most 1 MiB.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
    /// BLAKE3 of the new bytes, hex.
    pub(super) blake3: String,
}

/// `web01.qcow2` -> `web01.qcow2.commit`.
pub(super) fn path_for(image: &Path) -> PathBuf {
    super::append(image, ".commit")
}

impl Record {
    pub(super) fn new(disks: Vec<DiskChange>, manifest: Option<(String, Manifest)>) -> Self {
        Self { format: FORMAT.into(), version: 1, leader: None, disks, manifest }
    }

    /// For the image of another disk of the machine.
    pub(super) fn pointer(leader: &Path) -> Self {
        let leader = leader.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { leader: Some(leader), ..Self::new(Vec::new(), None) }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_vec(self)
            .map_err(|error| Error::new(ErrorKind::Malformed, "writing the commit record").source(error))?;
        write_durably(path, &json)
    }

    /// `None` where there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let doing = || format!("reading {}", path.display());
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(doing(), error)),
            Ok(found) if found.len() > MOST => {
                return Err(Error::malformed(doing(), "it is larger than 256 MiB"));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(path).doing(doing)?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(ErrorKind::Malformed, doing()).source(error))?;
        if record.format != FORMAT || record.version != 1 {
            let because = format!("it is {} version {}", record.format, record.version);
            return Err(Error::unsupported(doing(), because));
        }
        let images = record.disks.iter().map(|disk| &disk.image);
        let maps = record.disks.iter().filter_map(|disk| disk.map.as_ref());
        let manifest = record.manifest.as_ref().map(|(file, _)| file);
        for name in images.chain(maps).chain(manifest).chain(&record.leader) {
            if Path::new(name).file_name().is_none_or(|plain| plain != name.as_str()) {
                return Err(Error::malformed(doing(), format!("{name:?} is not a file name")));
            }
        }
        // Nobody's other files are written by way of a record.
        let strange =
            record.disks.iter().filter_map(|disk| disk.map.as_ref()).any(|map| !map.ends_with(".map"))
                || record.manifest.as_ref().is_some_and(|(file, _)| !file.ends_with(".unmoor.json"));
        if strange {
            return Err(Error::malformed(doing(), "it names a file that is neither map nor manifest"));
        }
        let possible =
            |range: &Range| range.start < range.end && range.end - range.start <= super::commit::PIECE;
        if !record.disks.iter().flat_map(|disk| &disk.ranges).all(possible) {
            return Err(Error::malformed(doing(), "a range that cannot be"));
        }
        Ok(Some(record))
    }
}
