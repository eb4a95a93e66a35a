// SPDX-License-Identifier: Apache-2.0
//! What a restore changed against its image, so that `verify` can tell that from damage.
//!
//! `TARGET.unmoor-record.json` with `TARGET.unmoor-record.map` for a file, and beside the image for a device. Where the image is no
//! file, the caller names a place that stands for it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unmoor_images::manifest::{MapRecord, hex, read_map, write_durably, write_map};
use unmoor_images::merkle::Leaves;
use unmoor_images::{Error, ErrorKind, ExtentMap, LEAF, Result, ResultExt};

use crate::plan::{DiskPlan, Target};
use crate::view::Patch;

/// Largest record that is read, in bytes: it names ranges, the hashes are in its map.
const MOST: u64 = 64 << 20;

/// A range that is not as in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// First byte on the target.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// What it is: "GPT header".
    pub what: String,
}

impl Change {
    pub(crate) fn from_patch(patch: &Patch) -> Self {
        Self { start: patch.offset, end: patch.end(), what: patch.what.clone() }
    }

    /// Whole leaves that differ between two states of a disk.
    pub(crate) fn between<'a>(
        before: &Leaves,
        after: &Leaves,
        what: &'a str,
    ) -> impl Iterator<Item = Self> + use<'a> {
        let size = after.size();
        after.differing(before).into_iter().map(move |leaves| Self {
            start: leaves.start * LEAF,
            end: (leaves.end * LEAF).min(size),
            what: what.to_owned(),
        })
    }
}

/// The record of one restored disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// Always "unmoor-restore".
    pub format: String,
    /// 1.
    pub version: u32,
    /// The image that was restored.
    pub image: String,
    /// Root of the image's Merkle tree, where it has a manifest.
    pub image_root: Option<String>,
    /// The target as it was named.
    pub target: String,
    /// Size of the target in bytes.
    pub size: u64,
    /// Everything that is not as in the image.
    pub changes: Vec<Change>,
    /// Root of the target's own Merkle tree; set when written.
    pub root: String,
    /// The target's own extent map and leaves; set when written.
    pub map: MapRecord,
}

impl RestoreRecord {
    pub(crate) fn new(disk: &DiskPlan, mut changes: Vec<Change>) -> Self {
        let own_root = || disk.image.leaves.as_ref().map(|leaves| hex(&leaves.root()));
        let image_root = match &disk.image.fitted {
            Some(fitted) => {
                changes.splice(0..0, fitted.changes.iter().cloned());
                fitted.image_root.clone()
            }
            None => own_root(),
        };
        Self {
            format: "unmoor-restore".into(),
            version: 1,
            image: disk.image.path.display().to_string(),
            image_root,
            target: disk.target.to_string(),
            size: disk.size,
            changes,
            root: String::new(),
            map: MapRecord { file: String::new(), bytes: 0, blake3: String::new() },
        }
    }

    /// Writes the map file and then the record at `path`.
    pub fn write(&mut self, path: &Path, extents: &ExtentMap, leaves: &Leaves) -> Result<()> {
        self.map = write_map(&path.with_extension("map"), extents, leaves)?;
        self.root = hex(&leaves.root());
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Malformed, "writing the record").source(error))?;
        json.push(b'\n');
        write_durably(path, &json)
    }

    /// Reads a record and its map.
    pub fn read(path: &Path) -> Result<(Self, ExtentMap, Leaves)> {
        let doing = || format!("reading the record {}", path.display());
        if std::fs::metadata(path).doing(doing)?.len() > MOST {
            return Err(Error::malformed(doing(), "it is larger than 64 MiB"));
        }
        let bytes = std::fs::read(path).doing(doing)?;
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| Error::new(ErrorKind::Malformed, doing()).source(error))?;
        if record.format != "unmoor-restore" || record.version != 1 {
            return Err(Error::unsupported(
                doing(),
                format!("it is {} version {}", record.format, record.version),
            ));
        }
        let map = Path::new(&record.map.file);
        let Some(name) = map.file_name().filter(|name| *name == map.as_os_str()) else {
            return Err(Error::malformed(doing(), format!("{:?} is not a file name", record.map.file)));
        };
        let (extents, leaves) = read_map(&path.with_file_name(name), &record.map)?;
        if extents.size() != record.size || hex(&leaves.root()) != record.root {
            return Err(Error::new(ErrorKind::Mismatch, doing()).because("its map is of another disk"));
        }
        Ok((record, extents, leaves))
    }

    /// Where the record of a target lies: beside a file; for a device beside the image, under the device's name.
    pub fn path_for(image: &Path, target: &Target) -> PathBuf {
        match target {
            Target::File { path, .. } => Self::beside(path),
            Target::Device { path, .. } => Self::for_device(image, path),
        }
    }

    /// `restored.raw` -> `restored.raw.unmoor-record.json`.
    pub fn beside(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".unmoor-record.json");
        name.into()
    }

    /// `web01.qcow2` on `/dev/sdb` -> `web01.qcow2.on-sdb.unmoor-record.json`.
    pub fn for_device(image: &Path, device: &Path) -> PathBuf {
        let mut name = image.as_os_str().to_owned();
        name.push(".on-");
        name.push(device.file_name().unwrap_or_default());
        name.push(".unmoor-record.json");
        name.into()
    }
}
