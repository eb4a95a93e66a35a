// SPDX-License-Identifier: Apache-2.0
//! A block device or image, and every block device that shows its bytes: partitions, device-mapper, md, loop.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result};

/// One block device of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// The kernel's number for it (`st_rdev`).
    pub(crate) number: u64,
    /// Its node in `/dev`.
    pub(crate) path: PathBuf,
    /// What it stands on; none for the source itself, and for loop devices over an image.
    pub(crate) parent: Option<u64>,
}

/// All block devices through which the bytes of the device or image at `path` can be changed.
pub(crate) fn nodes(path: &Path, metadata: &Metadata) -> Result<Vec<Node>> {
    let loops = loops();
    let mut waiting: Vec<Node> = Vec::new();
    if metadata.file_type().is_block_device() {
        waiting.push(Node { number: metadata.rdev(), path: path.to_owned(), parent: None });
        // Another loop device over the same file shows the same bytes.
        if let Some(own) = loops.iter().find(|other| other.number == metadata.rdev()) {
            let twins = loops.iter().filter(|other| other.file == own.file && other.number != own.number);
            waiting.extend(twins.map(|twin| twin.node(None)));
        }
    } else {
        let file = Backing::of(metadata);
        waiting.extend(loops.iter().filter(|other| other.file == file).map(|other| other.node(None)));
    }
    let mut seen = HashSet::new();
    let mut nodes = Vec::new();
    while let Some(node) = waiting.pop() {
        if !seen.insert(node.number) {
            continue;
        }
        let parent = Some(node.number);
        let folder = PathBuf::from(format!(
            "/sys/dev/block/{}:{}",
            libc::major(node.number),
            libc::minor(node.number)
        ));
        waiting.extend(
            folders(&folder)
                .filter(|child| child.join("partition").exists())
                .chain(folders(&folder.join("holders")))
                .filter_map(|child| node_of(&child, parent)),
        );
        let stacked = loops.iter().filter(|other| other.file == Backing::Device(node.number));
        waiting.extend(stacked.map(|other| other.node(parent)));
        nodes.push(node);
        if nodes.len() > 100_000 {
            return Err(Error::unsupported("looking for users of", "too many block devices").path(path));
        }
    }
    Ok(nodes)
}

/// Loop devices over files of the filesystem with number `filesystem` (`st_dev` of its files).
pub(crate) fn loops_over_files(filesystem: u64) -> Vec<Node> {
    let loops = loops();
    let over =
        loops.iter().filter(|other| matches!(other.file, Backing::File(device, _) if device == filesystem));
    over.map(|other| other.node(None)).collect()
}

/// The device number that a folder of sysfs states in its file `dev`.
pub(crate) fn number_of(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn node_of(folder: &Path, parent: Option<u64>) -> Option<Node> {
    // sysfs writes the slashes of a device name (cciss/c0d0) as exclamation marks.
    let name = folder.file_name()?.to_string_lossy().replace('!', "/");
    Some(Node { number: number_of(folder)?, path: Path::new("/dev").join(name), parent })
}

fn folders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// What a loop device shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backing {
    /// A file, by device and inode number.
    File(u64, u64),
    /// A block device.
    Device(u64),
}

impl Backing {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File(metadata.dev(), metadata.ino())
        }
    }
}

struct Loop {
    number: u64,
    path: PathBuf,
    file: Backing,
}

impl Loop {
    fn node(&self, parent: Option<u64>) -> Node {
        Node { number: self.number, path: self.path.clone(), parent }
    }
}

/// All loop devices that are set up.
fn loops() -> Vec<Loop> {
    folders(Path::new("/sys/block"))
        .filter_map(|folder| {
            let backing = fs::read(folder.join("loop/backing_file")).ok()?;
            let backing = String::from_utf8_lossy(&backing);
            let metadata = fs::metadata(backing.trim_end_matches('\n')).ok()?;
            let node = node_of(&folder, None)?;
            Some(Loop { number: node.number, path: node.path, file: Backing::of(&metadata) })
        })
        .collect()
}
