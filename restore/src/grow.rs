// SPDX-License-Identifier: Apache-2.0
//! Growing a filesystem in its new partition: mounted through a loop device at the partition's offset, by the
//! filesystem's own online ioctl. The disk has no table yet, so nothing else can find the partition.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use unmoor_images::filesystem::{FilesystemFacts, FilesystemKind};
use unmoor_images::{BlockSource, Error, Result, ResultExt};

use crate::sys;
use crate::target::DiskFile;

/// A filesystem that is to fill its partition.
#[derive(Debug, Clone)]
pub struct Growth {
    /// Partition number, for people.
    pub partition: u32,
    /// First byte of the partition on the target.
    pub start: u64,
    /// The partition's new length in bytes.
    pub len: u64,
    /// What it holds.
    pub filesystem: FilesystemFacts,
    /// `sb_imax_pct` of an XFS: the call that grows it sets it too.
    pub xfs_inode_max_percent: u32,
}

/// Whether this host can do it: root, a loop device, the filesystem in its kernel. Otherwise the reason.
pub fn obstacle(growth: &Growth) -> Option<String> {
    let kind = match growth.filesystem.kind {
        FilesystemKind::Ext3 | FilesystemKind::Ext4 => "ext4",
        FilesystemKind::Xfs => "xfs",
        FilesystemKind::Btrfs => "btrfs",
        other => return Some(format!("{} cannot be grown while mounted", other.name())),
    };
    if !nix::unistd::geteuid().is_root() {
        return Some("only root can mount it".into());
    }
    // fs/btrfs/ioctl.c, `btrfs_ioctl_resize`.
    if kind == "btrfs" && growth.len < 256 << 20 {
        return Some("the kernel resizes no btrfs to under 256 MiB".into());
    }
    if kind == "btrfs"
        && let Some(uuid) = &growth.filesystem.uuid
        && Path::new("/sys/fs/btrfs").join(uuid).exists()
    {
        // Two devices of one UUID are one filesystem to the kernel: it may write to the wrong one.
        return Some("a btrfs of the same UUID is mounted on this host".into());
    }
    if kind == "ext4" && !has_cap_sys_resource() {
        return Some("this process lacks CAP_SYS_RESOURCE, which growing a mounted ext4 demands".into());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim_start_matches("nodev").trim() == kind) {
        return Some(format!("this kernel has no {kind}"));
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "this kernel has no loop devices".into())
}

/// fs/ext4/resize.c, `ext4_resize_begin`: root in a container often has no such capability.
fn has_cap_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_none_or(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}

/// Grows it. Runs in a thread with a mount namespace of its own, so that nobody sees the mount.
pub fn grow(disk: &DiskFile, growth: &Growth) -> Result<()> {
    let doing = || format!("growing the {} of partition {}", growth.filesystem.kind.name(), growth.partition);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)
                .map_err(std::io::Error::from)
                .doing(|| "making a mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .map_err(std::io::Error::from)
                .doing(|| "making mounts private")?;
            let device = Loop::attach(disk, growth)?;
            let mounted = Mount::new(&device.path, growth)?;
            let grown = mounted.grow(growth).and_then(|()| mounted.unmount());
            if growth.filesystem.kind == FilesystemKind::Btrfs {
                // Otherwise the kernel keeps the loop device for the filesystem's when the next of its UUID is mounted.
                let _ = File::open("/dev/btrfs-control")
                    .and_then(|control| sys::forget_btrfs(&control, &device.path));
            }
            grown
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .doing(doing)
}

struct Loop {
    device: File,
    path: PathBuf,
}

impl Loop {
    fn attach(disk: &DiskFile, growth: &Growth) -> Result<Self> {
        let control = File::open("/dev/loop-control").doing(|| "opening /dev/loop-control")?;
        // Another process may take the free one between the question and the call.
        for _ in 0..16 {
            let number = sys::free_loop(&control).doing(|| "asking for a free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| Error::io("opening", error).path(&path))?;
            match sys::configure_loop(&device, disk.raw_fd(), growth.start, growth.len, disk.sector_size()) {
                Ok(()) => return Ok(Self { device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(Error::io("attaching", error).path(&path)),
            }
        }
        Err(Error::refused("attaching a loop device", "others keep taking the free one"))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = sys::clear_loop(&self.device);
    }
}

struct Mount {
    point: PathBuf,
    mounted: bool,
}

impl Mount {
    fn new(device: &Path, growth: &Growth) -> Result<Self> {
        let point =
            std::env::temp_dir().join(format!("unmoor-grow-{}-{:x}", std::process::id(), growth.start));
        std::fs::create_dir(&point).map_err(|error| Error::io("making", error).path(&point))?;
        let mut this = Self { point, mounted: false };
        let (kind, data) = match growth.filesystem.kind {
            // The new disk may stand beside the old one: XFS refuses two of one UUID unless told.
            FilesystemKind::Xfs => ("xfs", "nouuid"),
            FilesystemKind::Btrfs => ("btrfs", ""),
            _ => ("ext4", ""),
        };
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        mount(Some(device), &this.point, Some(kind), flags, Some(data))
            .map_err(std::io::Error::from)
            .doing(|| "mounting it")?;
        this.mounted = true;
        Ok(this)
    }

    fn grow(&self, growth: &Growth) -> Result<()> {
        let root = File::open(&self.point).map_err(|error| Error::io("opening", error).path(&self.point))?;
        let blocks = growth.len / u64::from(growth.filesystem.block_size.max(1));
        match growth.filesystem.kind {
            FilesystemKind::Xfs => sys::grow_xfs(&root, blocks, growth.xfs_inode_max_percent),
            FilesystemKind::Btrfs => sys::grow_btrfs(&root),
            _ => sys::grow_ext4(&root, blocks),
        }
        .doing(|| format!("asking the kernel for {blocks} blocks"))?;
        nix::unistd::syncfs(&root).map_err(std::io::Error::from).doing(|| "flushing it")
    }

    fn unmount(mut self) -> Result<()> {
        umount2(&self.point, MntFlags::empty()).map_err(std::io::Error::from).doing(|| "unmounting it")?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let _ = umount2(&self.point, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir(&self.point);
    }
}
