// SPDX-License-Identifier: Apache-2.0
//! The file beside an image that says what it is: written last, so that its presence means complete.
//!
//! ```text
//!   web01.unmoor.json      Manifest: machine, disks, regions, warnings, roots     (people and programs)
//!   web01.qcow2            the disk
//!   web01.qcow2.map        extent map and leaf hashes of that disk, see map.rs    (named and hashed by the manifest)
//! ```

mod machine;
mod map;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::formats::Format;
use crate::layout::Region;
use crate::merkle::{Hash, Leaves};
use crate::partition::PartitionTable;
use crate::{BlockSource, Error, ErrorKind, ExtentMap, Result, ResultExt, State};

pub use machine::{BusFacts, DiskFacts, Firmware, MachineFacts, NicFacts, PciFacts};
pub use map::{decode_map, encode_map, encode_map_to, read_map, write_map};

/// The version of [`Manifest`] that this crate writes. Readers refuse a larger one.
pub const VERSION: u32 = 1;

/// What stands in `NAME.unmoor.json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Always "unmoor-manifest".
    pub format: String,
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// When the capture began: RFC 3339, UTC.
    pub created: String,
    /// Program and version that wrote it.
    pub tool: String,
    /// How consistent the content is.
    pub consistency: Consistency,
    /// How it was captured, where it was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveRecord>,
    /// The captured machine; absent where image files were captured.
    pub machine: Option<MachineFacts>,
    /// Its disks in the order in which they were named.
    pub disks: Vec<DiskRecord>,
    /// What the administrator was told.
    pub warnings: Vec<String>,
}

/// What can be said of the moment that an image shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// No filesystem was mounted read-write.
    Offline,
    /// Captured under a mounted filesystem: as after a power cut at best, and spread over the time of the capture.
    Live,
    /// The filesystems were mounted, and frozen together at one instant, which the image shows: as after a power cut.
    Frozen,
    /// The same, and programs had brought their applications to rest before.
    Application,
}

/// How disks in use were captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LiveRecord {
    /// When all filesystems were frozen, which is what the image shows: RFC 3339, UTC, with milliseconds.
    pub instant: String,
    /// `track` where writes were followed, `converge` where all was read twice.
    pub method: String,
    /// How many passes there were, the last one under the freeze.
    pub passes: u32,
    /// How long writers waited.
    pub frozen_milliseconds: u64,
    /// How much of that the kernel needed to freeze.
    pub freezing_milliseconds: u64,
    /// Bytes that were copied under the freeze.
    pub last_pass_bytes: u64,
    /// Where the filesystems were mounted, in the order in which they were frozen.
    pub filesystems: Vec<String>,
    /// Those that the kernel cannot freeze, and that were synced.
    pub not_frozen: Vec<String>,
    /// The programs that were called before and after.
    pub hooks: Vec<String>,
    /// Devices that somebody has open without a filesystem: no freeze stops that.
    #[serde(default)]
    pub raw_users: Vec<String>,
    /// Bytes that somebody wrote to the disks though all filesystems were frozen.
    pub written_while_frozen_bytes: u64,
}

/// One disk and the file that holds it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DiskRecord {
    /// Device or file that was captured, as the user named it.
    pub source: String,
    /// The image's file name, without a folder.
    pub image: String,
    /// Its format.
    pub image_format: Format,
    /// Disk size in bytes.
    pub size: u64,
    /// Logical sector in bytes: what tables count in.
    pub sector_size: u32,
    /// Physical sector in bytes, where known.
    pub physical_sector_size: Option<u32>,
    /// Model as the kernel shows it.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World-wide name.
    pub wwn: Option<String>,
    /// Partition table as found.
    pub table: PartitionTable,
    /// What is where.
    pub regions: Vec<Region>,
    /// Bytes of data, of zeros, of holes in the extent map.
    pub data_bytes: u64,
    #[allow(missing_docs)]
    pub zero_bytes: u64,
    #[allow(missing_docs)]
    pub hole_bytes: u64,
    /// Root of the BLAKE3 Merkle tree, hex (see `merkle.rs`).
    pub root: String,
    /// The extent map and the leaves.
    pub map: MapRecord,
    /// Byte ranges (start, end) that could not be read and are zeros in the image.
    pub unreadable: Vec<(u64, u64)>,
    /// What was changed in the image since the capture, oldest first. All else here is as it is now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conversions: Vec<Conversion>,
}

/// A change of an image, such as fitting its guest to other hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conversion {
    /// When: RFC 3339, UTC.
    pub time: String,
    /// Program and version.
    pub tool: String,
    /// For people: "fitted to kvm".
    pub what: String,
    /// Root of the Merkle tree before it.
    pub root_before: String,
    /// Byte ranges (start, end) that it changed, in whole leaves.
    pub changed: Vec<(u64, u64)>,
}

/// Names a map file by its content.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MapRecord {
    /// File name beside the manifest.
    pub file: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole file, hex.
    pub blake3: String,
}

/// Hash as lower-case hex.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `DIR/web01.qcow2` -> `DIR/web01.unmoor.json`.
pub fn path_for(image: &Path) -> PathBuf {
    image.with_extension("unmoor.json")
}

impl Manifest {
    /// Writes it beside the image: to a temporary file, flushed, renamed, folder flushed.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Malformed, "writing the manifest").source(error))?;
        json.push(b'\n');
        write_durably(path, &json)
    }

    /// Reads and checks a manifest.
    pub fn read(path: &Path) -> Result<Self> {
        const MOST: u64 = 64 << 20;
        let doing = || format!("reading the manifest {}", path.display());
        if fs::metadata(path).doing(doing)?.len() > MOST {
            return Err(Error::malformed(doing(), "it is larger than 64 MiB"));
        }
        let bytes = fs::read(path).doing(doing)?;
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let broken = |error| Error::new(ErrorKind::Malformed, doing()).source(error);
        let head: Head = serde_json::from_slice(&bytes).map_err(broken)?;
        if head.format != "unmoor-manifest" {
            return Err(Error::malformed(doing(), format!("its format is {:?}", head.format)));
        }
        if head.version > VERSION {
            let because = format!(
                "it is of version {}, and this unmoor reads up to {VERSION}: use a newer one",
                head.version
            );
            return Err(Error::unsupported(doing(), because));
        }
        serde_json::from_slice(&bytes).map_err(broken)
    }

    /// The manifest that lies beside `image` and names it, and which of its disks that is. `None` if there is none.
    pub fn beside(image: &Path) -> Result<Option<(Self, usize)>> {
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let mut candidates = vec![path_for(image)];
        // web01.disk1.qcow2 belongs to web01.unmoor.json.
        if let Some((stem, _)) = name.rsplit_once(".disk") {
            candidates.push(image.with_file_name(format!("{stem}.unmoor.json")));
        }
        for path in candidates {
            if !path.try_exists().doing(|| format!("looking for {}", path.display()))? {
                continue;
            }
            let manifest = Self::read(&path)?;
            if let Some(index) = manifest.disks.iter().position(|disk| disk.image == name) {
                return Ok(Some((manifest, index)));
            }
        }
        Ok(None)
    }
}

impl DiskRecord {
    /// Whether a person means this disk by `name`: its device, with or without the folder, or its image.
    pub fn is_called(&self, name: &str) -> bool {
        let short = Path::new(&self.source).file_name().is_some_and(|file| file == name);
        short || self.source == name || self.image == name
    }

    /// Reads this disk's map file, which lies in `folder`, and checks it against the manifest.
    pub fn read_map(&self, folder: &Path) -> Result<(ExtentMap, Leaves)> {
        let plain = Path::new(&self.map.file).file_name().is_some_and(|name| name == self.map.file.as_str());
        if !plain {
            return Err(Error::malformed(
                "reading the manifest",
                format!("{:?} is not a file name", self.map.file),
            ));
        }
        let path = folder.join(&self.map.file);
        let (extents, leaves) = read_map(&path, &self.map)?;
        if extents.size() != self.size || hex(&leaves.root()) != self.root {
            return Err(Error::new(ErrorKind::Mismatch, "reading the map")
                .path(&path)
                .because("it is of another disk"));
        }
        Ok((extents, leaves))
    }
}

/// Refuses a map that is not of this image: something wrote to the image after the capture.
///
/// A hole has no bytes in an image that unmoor wrote. Where the container has some, they must be zeros (a sparse file
/// that was copied without its holes); anything else is content that the map does not know.
pub fn check_holes(image: &dyn BlockSource, extents: &ExtentMap) -> Result<()> {
    if image.size() != extents.size() {
        return Err(changed(format!(
            "its disk has {} bytes, the manifest says {}",
            image.size(),
            extents.size()
        )));
    }
    let mut buffer = vec![0; 1 << 20];
    for hole in extents.iter().filter(|extent| extent.state == State::Hole) {
        let mut at = hole.offset;
        while at < hole.end() {
            let known = image.extent_at(at, hole.end() - at)?;
            let end = known.end().clamp(at + 1, hole.end());
            while known.state == State::Data && at < end {
                let len = (end - at).min(buffer.len() as u64);
                let part = buffer.get_mut(..len as usize).unwrap_or(&mut []);
                image.read_at(part, at)?;
                if !crate::merkle::is_zero(part) {
                    return Err(changed(format!(
                        "there is content at {at:#x}, which was unused at the capture"
                    )));
                }
                at += len;
            }
            at = end;
        }
    }
    Ok(())
}

fn changed(because: String) -> Error {
    Error::new(ErrorKind::Mismatch, "comparing the image with its manifest").because(because)
}

/// Writes a small file so that after a crash it is there whole, or not at all.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = fs::File::create(&partial).doing(doing)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to report; a leftover is named .partial.
        let _ = fs::remove_file(&partial);
    }
    written.doing(doing)?;
    sync_folder(path)
}

/// Flushes the folder that holds `path`, so that a rename in it survives a crash.
pub fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .doing(|| format!("flushing {}", folder.display()))
}
