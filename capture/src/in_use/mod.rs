// SPDX-License-Identifier: Apache-2.0
//! Who else uses a source, and keeping them out while it is read.
//!
//! ```text
//!   source -> itself, its partitions, everything stacked on them (device-mapper, md, loop), as the kernel lists them
//!      each: mounted? swap? locked by QEMU? claimed by somebody whom we cannot see (O_EXCL fails)?
//! ```

mod image_lock;
pub(crate) mod mounts;
pub(crate) mod related;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use unmoor_images::{Error, Result, ResultExt};

use mounts::Mount;
use related::Node;

/// Somebody who may write to a source while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A filesystem is mounted read-write.
    Mounted {
        /// Device (or image) that holds it.
        device: PathBuf,
        /// Where it is mounted.
        at: PathBuf,
        /// Its type.
        filesystem: String,
    },
    /// Swap is on.
    Swap {
        /// The device or file.
        device: PathBuf,
    },
    /// A virtual machine or QEMU tool has the image open for writing.
    Qemu {
        /// The image or device.
        image: PathBuf,
    },
    /// Claimed exclusively, and by none of the above.
    Claimed {
        /// The device.
        device: PathBuf,
    },
}

impl User {
    /// What it is and what to do, as a part of a sentence.
    pub fn explain(&self) -> String {
        match self {
            Self::Mounted { device, at, filesystem } => {
                let (device, at) = (device.display(), at.display());
                format!(
                    "{device} ({filesystem}) is mounted read-write at {at}: unmount it, or `mount -o remount,ro {at}`"
                )
            }
            Self::Swap { device } => {
                let device = device.display();
                format!("{device} is in use as swap: `swapoff {device}`")
            }
            Self::Qemu { image } => {
                format!(
                    "{} is open for writing in a virtual machine or QEMU tool: shut that down",
                    image.display()
                )
            }
            Self::Claimed { device } => format!(
                "{} is claimed by somebody who cannot be named (ZFS, another mount namespace or container, \
                 another capture): stop that",
                device.display()
            ),
        }
    }
}

/// What [`claim`] found and holds.
#[derive(Debug, Default)]
pub struct Claim {
    /// Everybody who may write to the source.
    pub users: Vec<User>,
    /// Exclusive opens and locks: while they are held, the kernel refuses to mount the source, and QEMU to write to it.
    held: Vec<File>,
    exclusive: bool,
}

impl Claim {
    /// True if the source itself is open exclusively, so that nobody at all uses it: no filesystem is mounted read-only,
    /// and it is no part of a volume or array. Never for image files.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// How many exclusive opens and locks are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// Looks for users of the block device or image file at `path`, and keeps new ones out for as long as the answer lives.
///
/// Data that the kernel has cached for the device and all that is stacked on it is flushed first.
pub fn claim(path: &Path) -> Result<Claim> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("opening", error).path(path))?;
    let nodes = related::nodes(path, &metadata)?;
    let mounts = mounts::mounts().doing(|| "reading /proc/self/mountinfo")?;
    let mut claim = Claim::default();

    let numbers: HashSet<u64> = nodes.iter().map(|node| node.number).collect();
    for mount in mounts.iter().filter(|mount| mount.writable && !mount.devices.is_disjoint(&numbers)) {
        let device = nodes.iter().find(|node| mount.devices.contains(&node.number));
        claim.users.push(User::Mounted {
            device: device.map_or_else(|| path.to_owned(), |node| node.path.clone()),
            at: mount.at.clone(),
            filesystem: mount.filesystem.clone(),
        });
    }
    // A bind mount shows the same filesystem again; the first is the one to unmount.
    claim.users.dedup_by(|next, kept| {
        matches!((next, kept), (User::Mounted { device: a, .. }, User::Mounted { device: b, .. }) if a == b)
    });
    for device in mounts::swaps() {
        let Ok(swap) = std::fs::metadata(&device) else { continue };
        let file = (swap.dev(), swap.ino()) == (metadata.dev(), metadata.ino());
        if file || (swap.rdev() != 0 && numbers.contains(&swap.rdev())) {
            claim.users.push(User::Swap { device });
        }
    }
    // A source that cannot be opened cannot be claimed either; whoever reads it will say why. Its users are known all the
    // same, and are what the administrator needs to hear of first.
    if let Ok(source) = File::open(path) {
        if image_lock::is_open_for_writing(&source) {
            claim.users.push(User::Qemu { image: path.to_owned() });
        } else if image_lock::keep_writers_out(&source) {
            claim.held.push(source);
        }
    }

    let roots = nodes.iter().filter(|node| node.parent.is_none());
    for root in roots {
        claim_node(root, &nodes, &mounts, &mut claim, 0);
    }
    Ok(claim)
}

/// Opens a node exclusively, or, where somebody on top of it has, what is stacked on it.
fn claim_node(node: &Node, nodes: &[Node], mounts: &[Mount], claim: &mut Claim, depth: usize) {
    const DEEPEST: usize = 32;
    let open = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&node.path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let above: Vec<&Node> = nodes.iter().filter(|above| above.parent == Some(node.number)).collect();
            let mounted = mounts.iter().any(|mount| mount.devices.contains(&node.number));
            let named = claim.users.iter().any(|user| match user {
                User::Swap { device } | User::Mounted { device, .. } => *device == node.path,
                _ => false,
            });
            if above.is_empty() && !mounted && !named {
                claim.users.push(User::Claimed { device: node.path.clone() });
            }
            if depth < DEEPEST {
                above.into_iter().for_each(|above| claim_node(above, nodes, mounts, claim, depth + 1));
            }
            return;
        }
        // No node in this /dev (a container), or no medium: nothing to claim, and nobody to claim it.
        Err(_) => return,
    };
    // Each block device has a page cache of its own; what is dirty in a partition's is not on the disk yet. A failure
    // to flush shows again when the disk is read.
    let _ = file.sync_all();
    claim.exclusive |= depth == 0;
    claim.held.push(file);
}

#[cfg(test)]
mod tests;
