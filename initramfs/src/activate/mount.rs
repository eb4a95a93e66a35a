// SPDX-License-Identifier: Apache-2.0
//! A guest's filesystems, mounted as the guest has them: root, and what its fstab puts inside.
//!
//! Mount points are found and used as file descriptors: a link in the guest that points out of it leads nowhere, and
//! nothing is looked up twice. Nothing in a guest is executed, no device node in it is used: nosuid, nodev, noexec.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use unmoor_images::filesystem::FilesystemKind;
use unmoor_images::layout::{Content, Place};
use unmoor_images::{Error, Result, ResultExt};

use super::disk::Disk;
use super::held::while_busy;
use super::{Activated, describe};
use crate::rescue::{self, Needs};
use crate::sys;

/// A filesystem to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its device.
    pub node: PathBuf,
    /// Its kind.
    pub kind: FilesystemKind,
    /// Of btrfs the subvolume, as fstab's options name it: "subvol=/@home" or "subvolid=257"; `None` is its default one.
    pub subvolume: Option<String>,
}

impl Activated {
    /// The filesystem at a place, to be mounted with fstab's `options` ("rw,subvol=@"; of which only the subvolume counts).
    ///
    /// # Errors
    ///
    /// As [`node`](Self::node); `Unsupported` where there is no filesystem.
    pub fn filesystem(&self, disk: usize, place: &Place, options: &str) -> Result<Filesystem> {
        let node = self.node(disk, place)?.to_owned();
        let mut regions = self.layouts.get(disk).into_iter().flat_map(|layout| layout.all_regions());
        let facts = regions.find_map(|region| match &region.content {
            Content::Filesystem(facts) if region.place == *place => Some(facts),
            _ => None,
        });
        let Some(facts) = facts else {
            let doing = format!("looking for the filesystem of {}", describe(place));
            return Err(Error::unsupported(doing, "there is none that is known"));
        };
        let is_subvolume = |option: &&str| option.starts_with("subvol=") || option.starts_with("subvolid=");
        let subvolume = options.split(',').map(str::trim).find(is_subvolume).map(str::to_owned);
        Ok(Filesystem { node, kind: facts.kind, subvolume })
    }
}

impl Filesystem {
    /// The kernel's type for it.
    fn kernel_type(&self) -> Result<&'static str> {
        Ok(match self.kind {
            // One driver for all three; it changes no features.
            FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 => "ext4",
            FilesystemKind::Xfs => "xfs",
            FilesystemKind::Btrfs => "btrfs",
            FilesystemKind::Ntfs => "ntfs3",
            FilesystemKind::Fat12 | FilesystemKind::Fat16 | FilesystemKind::Fat32 => "vfat",
            FilesystemKind::Exfat => "exfat",
            FilesystemKind::Swap | FilesystemKind::Jbd => {
                let doing = format!("mounting {}", self.node.display());
                return Err(Error::unsupported(doing, format!("{} cannot be mounted", self.kind.name())));
            }
        })
    }

    /// Options (key, value) for the mount.
    fn options(&self, read_only: bool) -> Vec<(&str, Option<&str>)> {
        let mut options: Vec<(&str, Option<&str>)> = Vec::new();
        if read_only {
            options.push(("ro", None));
        }
        match self.kind {
            // Read-only alone replays the journal, which writes.
            FilesystemKind::Ext2 | FilesystemKind::Ext3 | FilesystemKind::Ext4 if read_only => {
                options.push(("noload", None));
            }
            FilesystemKind::Xfs => {
                // The original may be mounted beside its copy.
                options.push(("nouuid", None));
                if read_only {
                    options.push(("norecovery", None));
                }
            }
            FilesystemKind::Btrfs => {
                if read_only {
                    options.push(("rescue", Some("nologreplay")));
                }
                options.extend(
                    self.subvolume
                        .as_deref()
                        .and_then(|text| text.split_once('='))
                        .map(|(key, value)| (key, Some(value))),
                );
            }
            _ => {}
        }
        options
    }

    /// Makes a mount of it that hangs nowhere yet.
    fn mount(&self, read_only: bool) -> Result<OwnedFd> {
        let kind = self.kernel_type()?;
        let doing = || format!("mounting the {} on {}", self.kind.name(), self.node.display());
        let needs = self.needs()?;
        let context = sys::mount::open(kind).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => Error::unsupported(doing(), format!("this kernel has no {kind}")),
            Some(libc::ENOSYS) => Error::unsupported(doing(), "it needs Linux 5.2"),
            _ => Error::io(doing(), error),
        })?;
        let source = self.node.to_str().unwrap_or_default();
        let mut result = sys::mount::set(&context, "source", source);
        for (key, value) in self.options(read_only) {
            result = result.and_then(|()| match value {
                Some(value) => sys::mount::set(&context, key, value),
                None => sys::mount::set_flag(&context, key),
            });
        }
        result.and_then(|()| sys::mount::create(&context, read_only)).map_err(|error| {
            // EINVAL alone says nothing: an unknown feature, a bad superblock, a missing character set.
            let said = sys::mount::messages(&context).unwrap_or_else(|| match error.raw_os_error() {
                Some(libc::EINVAL) => "the kernel does not take it: its features or its superblock".into(),
                _ => "the kernel does not take it".into(),
            });
            match needs.and_then(|needs| needs.refusal(&rescue::running_release(), !read_only)) {
                Some(why) => {
                    Error::refused(doing(), why).source(Error::io("asking the kernel", error).because(said))
                }
                None => Error::io(doing(), error).because(said),
            }
        })
    }

    /// What it asks of a kernel, read before a kernel sees it. A kernel with more than its release tells, as enterprise
    /// distributions make them, is asked all the same: our answer explains its refusal, and takes no place of it.
    fn needs(&self) -> Result<Option<Needs>> {
        rescue::needs(&Disk::open(&self.node, true, 0)?)
            .doing(|| format!("looking at the {} on {}", self.kind.name(), self.node.display()))
    }
}

/// One mount. Its descriptor keeps it from being unmounted, so that it goes first.
#[derive(Debug)]
struct Mount {
    /// Where the guest sees it.
    point: String,
    mount: OwnedFd,
    /// For btrfs: the device, which the kernel is told to forget.
    forget: Option<PathBuf>,
}

/// A mounted guest; unmounted when dropped.
#[derive(Debug)]
#[must_use = "the guest is unmounted when this is dropped"]
pub struct Mounted {
    at: PathBuf,
    read_only: bool,
    /// In order; the first is root.
    mounts: Vec<Mount>,
    /// Mount points that could not be mounted, and why.
    pub failed: Vec<(String, String)>,
}

/// Mounts a guest's root at the directory `at`, and `others` (mount point in the guest, filesystem) inside it, outer ones
/// first.
///
/// Read-only, nothing is written, not even to replay a journal.
///
/// # Errors
///
/// Where root cannot be mounted: `Unsupported` where this kernel lacks its filesystem, `Io` with what the kernel said. Of
/// the others, failures are in [`Mounted::failed`].
pub fn mount_guest(
    root: &Filesystem,
    others: &[(String, Filesystem)],
    at: &Path,
    read_only: bool,
) -> Result<Mounted> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(at)
        .map_err(|error| Error::io("opening", error).path(at))?;
    let mut mounted = Mounted { at: at.to_owned(), read_only, mounts: Vec::new(), failed: Vec::new() };
    mounted.hang("/", root, &directory.into())?;
    let mut others: Vec<_> = others.iter().collect();
    let depth = |point: &str| point.split('/').filter(|name| !name.is_empty()).count();
    others.sort_by_key(|(point, _)| depth(point));
    for (point, filesystem) in others {
        if let Err(error) = mounted.add(point, filesystem) {
            mounted.failed.push((point.clone(), error.chain()));
        }
    }
    Ok(mounted)
}

impl Mounted {
    /// Where its root is.
    pub fn root(&self) -> &Path {
        &self.at
    }

    /// Mount points in the guest that are mounted, root first.
    pub fn points(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().map(|mount| &*mount.point)
    }

    /// Mounts another of the guest's filesystems, at the directory `point` of the guest.
    ///
    /// # Errors
    ///
    /// Where there is no such directory inside the guest, or as [`mount_guest`].
    pub fn add(&mut self, point: &str, filesystem: &Filesystem) -> Result<()> {
        let Some(root) = self.mounts.first() else {
            return Err(Error::malformed("mounting into the guest", "its root is not mounted"));
        };
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let relative = point.trim_start_matches('/');
        if relative.is_empty() {
            return Err(Error::malformed("mounting into the guest", "there is a root already"));
        }
        let directory = openat2(&root.mount, relative, how).map_err(|error| {
            let doing = format!("looking for the mount point {point} in the guest");
            match error {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => {
                    Error::malformed(doing, "there is no such directory inside the guest")
                }
                _ => Error::io(doing, error.into()),
            }
        })?;
        self.hang(point, filesystem, &directory)
    }

    fn hang(&mut self, point: &str, filesystem: &Filesystem, directory: &OwnedFd) -> Result<()> {
        let mount = filesystem.mount(self.read_only)?;
        sys::mount::attach(&mount, directory)
            .doing(|| format!("mounting {} at the guest's {point}", filesystem.node.display()))?;
        let forget = (filesystem.kind == FilesystemKind::Btrfs).then(|| filesystem.node.clone());
        self.mounts.push(Mount { point: point.to_owned(), mount, forget });
        Ok(())
    }

    /// Flushes and unmounts everything, inner ones first. Close what was opened in the guest before.
    ///
    /// # Errors
    ///
    /// The first failure: what was written may not have reached the disk. The rest is unmounted all the same.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        let mut first = Ok(());
        while let Some(mount) = self.mounts.pop() {
            let doing = format!("unmounting the guest's {}", mount.point);
            first = first.and(mount.take_down(self.read_only).doing(|| doing));
        }
        first
    }
}

impl Mount {
    fn take_down(self, read_only: bool) -> Result<()> {
        let fd = format!("/proc/self/fd/{}", self.mount.as_raw_fd());
        // The descriptor was made with O_PATH, which cannot be flushed.
        let flushed = if read_only {
            Ok(())
        } else {
            let root = File::open(&fd).doing(|| "opening it");
            root.and_then(|root| {
                nix::unistd::syncfs(&root).map_err(std::io::Error::from).doing(|| "flushing it")
            })
        };
        let path = std::fs::read_link(&fd).doing(|| "asking where it is")?;
        drop(self.mount);
        let unmount = |flags| umount2(&path, flags | MntFlags::UMOUNT_NOFOLLOW).map_err(std::io::Error::from);
        let unmounted = while_busy(|| unmount(MntFlags::empty()));
        if unmounted.is_err() {
            // Out of the way at least; the filesystem goes with its last user.
            let _ = unmount(MntFlags::MNT_DETACH);
        }
        if let Some(device) = &self.forget {
            // Otherwise the kernel takes the node for a device of that filesystem when the next of its UUID is mounted.
            let _ = File::open("/dev/btrfs-control")
                .and_then(|control| sys::mount::forget_btrfs(&control, device));
        }
        flushed.and(unmounted.map_err(|error| Error::io("unmounting it", error)))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // An error has been met before, and is what is reported.
        let _ = self.take_down();
    }
}
