// SPDX-License-Identifier: Apache-2.0
//! Growing a filesystem in its new room: mounted through a loop device at its offset, by the filesystem's own online
//! ioctl. The disk has no table yet, so nothing else can find the partition. A logical volume in several pieces is put
//! together by device-mapper.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use unmoor_images::adapt::Segment;
use unmoor_images::filesystem::{FilesystemFacts, FilesystemKind};
use unmoor_images::{BlockSource, Error, Result, ResultExt};
use unmoor_initramfs::activate::{Mapping, MappingLine, mapper_obstacle};

use crate::sys;
use crate::target::DiskFile;

/// A filesystem that is to fill its partition or logical volume.
#[derive(Debug, Clone)]
pub struct Growth {
    /// What it lies in, for people: "partition 2", "vg0/root".
    pub name: String,
    /// Number of the partition that grows.
    pub partition: u32,
    /// Name of the logical volume, if it lies in one: "vg0/root".
    pub volume: Option<String>,
    /// Where it will lie on the target, in order; every leg's source is 0. Of a partition one segment.
    pub segments: Vec<Segment>,
    /// What it holds.
    pub filesystem: FilesystemFacts,
    /// `sb_imax_pct` of an XFS: the call that grows it sets it too.
    pub xfs_inode_max_percent: u32,
}

impl Growth {
    /// The new length in bytes.
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First byte on the target.
    pub fn start(&self) -> u64 {
        self.legs().map(|(start, _)| start).min().unwrap_or(0)
    }

    /// The byte behind the last one on the target.
    pub fn end(&self) -> u64 {
        self.legs().map(|(start, len)| start.saturating_add(len)).max().unwrap_or(0)
    }

    fn legs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let leg = |segment: &Segment| segment.len / (segment.legs.len() as u64).max(1);
        self.segments.iter().flat_map(move |segment| {
            let len = leg(segment);
            segment.legs.iter().map(move |place| (place.start, len))
        })
    }

    /// True if it lies on the target in one piece.
    fn is_whole(&self) -> bool {
        let mut next = None;
        self.segments.iter().all(|segment| {
            let [leg] = segment.legs.as_slice() else { return false };
            let follows = next.is_none_or(|next| next == leg.start);
            next = leg.start.checked_add(segment.len);
            follows
        })
    }
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
    if kind == "btrfs" && growth.len() < 256 << 20 {
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
    if !Path::new("/dev/loop-control").exists() {
        return Some("this kernel has no loop devices".into());
    }
    if growth.is_whole() { None } else { mapper_obstacle() }
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
    let doing = || format!("growing the {} of {}", growth.filesystem.kind.name(), growth.name);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS)
                .map_err(std::io::Error::from)
                .doing(|| "making a mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .map_err(std::io::Error::from)
                .doing(|| "making mounts private")?;
            let device = Device::new(disk, growth)?;
            let mounted = Mount::new(device.path(), growth)?;
            let grown = mounted.grow(growth).and_then(|()| mounted.unmount());
            if growth.filesystem.kind == FilesystemKind::Btrfs {
                // Otherwise the kernel keeps the loop device for the filesystem's when the next of its UUID is mounted.
                let _ = File::open("/dev/btrfs-control")
                    .and_then(|control| sys::forget_btrfs(&control, device.path()));
            }
            grown.and(device.close())
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
    .doing(doing)
}

/// The filesystem's device.
enum Device {
    Whole(Loop),
    Mapped { mapping: Mapping, _below: Loop },
}

impl Device {
    fn new(disk: &DiskFile, growth: &Growth) -> Result<Self> {
        if growth.is_whole() {
            return Ok(Self::Whole(Loop::attach(disk, growth.start(), growth.len())?));
        }
        let whole = Loop::attach(disk, 0, disk.size())?;
        let number = std::fs::metadata(&whole.path).doing(|| "asking for the loop device's number")?.rdev();
        let number = (libc::major(number), libc::minor(number));
        let line = |segment: &Segment| {
            let places: Vec<_> = segment.legs.iter().map(|leg| (number, leg.start)).collect();
            MappingLine::stripes(segment.len, segment.stripe_size, &places)
        };
        let lines: Vec<_> = growth.segments.iter().map(line).collect();
        let name = format!("unmoor-grow-{}-{:x}", std::process::id(), growth.start());
        let mapping = Mapping::create(&name, &name, &lines, false)?;
        Ok(Self::Mapped { mapping, _below: whole })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Whole(device) => &device.path,
            Self::Mapped { mapping, .. } => mapping.path(),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Mapped { mapping, .. } => mapping.close(),
        }
    }
}

struct Loop {
    device: File,
    path: PathBuf,
}

impl Loop {
    fn attach(disk: &DiskFile, start: u64, len: u64) -> Result<Self> {
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
            match sys::configure_loop(&device, disk.raw_fd(), start, len, disk.sector_size()) {
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
            std::env::temp_dir().join(format!("unmoor-grow-{}-{:x}", std::process::id(), growth.start()));
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
        let blocks = growth.len() / u64::from(growth.filesystem.block_size.max(1));
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
