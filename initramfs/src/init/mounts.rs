// SPDX-License-Identifier: Apache-2.0
//! The kernel's own filesystems at their usual places.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Place, filesystem, options. /run and /tmp are bounded to keep a machine of 512 MiB alive.
const MOUNTS: [(&str, &str, &str); 6] = [
    ("/proc", "proc", ""),
    ("/sys", "sysfs", ""),
    ("/dev", "devtmpfs", "mode=0755"),
    ("/dev/pts", "devpts", "mode=0620,ptmxmode=0666"),
    ("/run", "tmpfs", "mode=0755,size=50%"),
    ("/tmp", "tmpfs", "mode=1777,size=50%"),
];
/// Devices that load their driver when they are opened: name, minor number of major 10 (depmod's modules.devname).
const NODES: [(&str, u64); 4] =
    [("mapper/control", 236), ("loop-control", 237), ("btrfs-control", 234), ("fuse", 229)];

/// Mounts everything; what failed, and why.
pub(super) fn all() -> Vec<String> {
    let mut failed = Vec::new();
    for (place, kind, options) in MOUNTS {
        if let Err(error) = std::fs::create_dir_all(place) {
            failed.push(format!("creating {place}: {error}"));
        }
        let mut flags = MsFlags::MS_NOSUID;
        flags.set(MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, !place.starts_with("/dev"));
        flags.set(MsFlags::MS_NOEXEC, true);
        let mounted = mount(Some(kind), place, Some(kind), flags, Some(options));
        match mounted {
            // The kernel has mounted devtmpfs already where it is configured to.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(error) => failed.push(format!("mounting {kind} on {place}: {error}")),
        }
    }
    for (name, minor) in NODES {
        let path = Path::new("/dev").join(name);
        if let Some(parent) = path.parent() {
            let _ = std::fs::create_dir_all(parent);
        }
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        let device = nix::sys::stat::makedev(10, minor);
        // One that is there already is as good.
        let _ = nix::sys::stat::mknod(&path, nix::sys::stat::SFlag::S_IFCHR, mode, device);
    }
    failed
}

/// The firmware's variables, where the firmware is UEFI. Not at start, since it may need a module.
pub(super) fn firmware_variables() {
    let place = "/sys/firmware/efi/efivars";
    if Path::new(place).is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let _ = mount(Some("efivarfs"), place, Some("efivarfs"), flags, None::<&str>);
    }
}

/// Writes everything out and unmounts what is not the kernel's own, the last mount first.
pub(super) fn unmount_all() {
    nix::unistd::sync();
    for _ in 0..3 {
        let table = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let places: Vec<String> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(unescaped)
            .filter(|place| !is_own(place))
            .collect();
        if places.is_empty() {
            break;
        }
        for place in places.iter().rev() {
            let _ = umount2(place.as_str(), MntFlags::UMOUNT_NOFOLLOW);
        }
    }
    nix::unistd::sync();
}

fn is_own(place: &str) -> bool {
    place == "/" || place.starts_with("/sys/") || MOUNTS.iter().any(|(own, _, _)| *own == place)
}

/// /proc/mounts writes blanks as octal numbers (fs/proc_namespace.c, `mangle`).
fn unescaped(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"].iter().fold(text.to_owned(), |text, escape| {
        let (from, to) = escape.split_at(4);
        text.replace(from, to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_with_blanks_are_found_again() {
        assert_eq!(unescaped("/mnt/a\\040b\\134"), "/mnt/a b\\");
        assert!(is_own("/dev/pts") && !is_own("/mnt/root"));
    }
}
