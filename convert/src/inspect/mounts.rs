// SPDX-License-Identifier: Apache-2.0
//! fstab, crypttab, and from fstab where in the guest a filesystem's files are.

use super::guest::{Guest, join};
use crate::inspection::{CrypttabLine, FstabLine};
use crate::syntax::rows::rows;

/// Lines that are looked at.
const MOST: usize = 2000;

pub(super) fn fstab(guest: &Guest<'_>) -> Vec<FstabLine> {
    let text = guest.text("/etc/fstab").unwrap_or_default();
    let line = |row: &crate::syntax::rows::Row| {
        let spec = row.text(0)?.to_owned();
        Some(FstabLine {
            line: row.line,
            mountpoint: row.text(1)?.to_owned(),
            kind: row.text(2).unwrap_or("auto").to_owned(),
            options: row.text(3).unwrap_or("defaults").to_owned(),
            device: guest.devices.resolve(&spec),
            spec,
        })
    };
    rows(&text).iter().filter_map(line).take(MOST).collect()
}

pub(super) fn crypttab(guest: &Guest<'_>) -> Vec<CrypttabLine> {
    let text = guest.text("/etc/crypttab").unwrap_or_default();
    let line = |row: &crate::syntax::rows::Row| {
        let spec = row.text(1)?.to_owned();
        Some(CrypttabLine {
            line: row.line,
            name: row.text(0)?.to_owned(),
            key: row.text(2).unwrap_or("none").to_owned(),
            options: row.text(3).unwrap_or_default().to_owned(),
            device: guest.devices.resolve(&spec),
            spec,
        })
    };
    rows(&text).iter().filter_map(line).take(MOST).collect()
}

/// A filesystem and where its files are.
struct Mount {
    device: usize,
    mountpoint: String,
    /// btrfs: the subvolume that is shown, as a path from the filesystem's top: "/@".
    subvolume: Option<String>,
}

/// Where filesystems are mounted.
pub(super) struct Mounts<'a, 'b> {
    guest: &'a Guest<'b>,
    mounts: Vec<Mount>,
}

impl<'a, 'b> Mounts<'a, 'b> {
    pub(super) fn new(guest: &'a Guest<'b>, fstab: &[FstabLine]) -> Self {
        let mount = |line: &FstabLine| {
            let subvolume = line.options.split(',').find_map(|option| option.strip_prefix("subvol="));
            Some(Mount {
                device: line.device?,
                mountpoint: line.mountpoint.clone(),
                subvolume: subvolume.map(|path| join("", path)).filter(|path| path != "/"),
            })
        };
        let is_place = |line: &&FstabLine| line.mountpoint.starts_with('/');
        let mut mounts: Vec<Mount> = fstab.iter().filter(is_place).filter_map(mount).collect();
        // An ESP that systemd-gpt-auto-generator mounts has no line.
        for (index, device) in guest.devices.devices.iter().enumerate() {
            if device.is_esp() && !mounts.iter().any(|mount| mount.device == index) {
                for path in ["/efi", "/boot/efi", "/boot"] {
                    if guest.is_directory(&join(path, "EFI")) {
                        mounts.push(Mount { device: index, mountpoint: path.into(), subvolume: None });
                        break;
                    }
                }
            }
        }
        Self { guest, mounts }
    }

    /// Where a device is mounted, the first place.
    pub(super) fn mountpoint(&self, device: usize) -> Option<&str> {
        let mount = self.mounts.iter().find(|mount| mount.device == device);
        mount.map(|mount| mount.mountpoint.as_str())
    }

    /// Which device holds `path`, by the longest mount point above it.
    pub(super) fn device_above(&self, path: &str) -> Option<usize> {
        let holds = |mount: &&Mount| {
            let point = mount.mountpoint.trim_end_matches('/');
            path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.mounts.iter().filter(holds).max_by_key(|mount| mount.mountpoint.len()).map(|mount| mount.device)
    }

    /// The path in the guest of the file that a boot loader calls `path` on a filesystem. Where the filesystem is not known, or the
    /// file not there: by the places where such files are.
    pub(super) fn locate(&self, device: Option<usize>, path: &str) -> String {
        let path = join("", path);
        let mut candidates: Vec<String> = Vec::new();
        for mount in self.mounts.iter().filter(|mount| Some(mount.device) == device) {
            if let Some(subvolume) = &mount.subvolume {
                let inner = path.strip_prefix(subvolume.as_str()).filter(|rest| rest.starts_with('/'));
                candidates.extend(inner.map(|rest| join(&mount.mountpoint, rest)));
            }
            candidates.push(join(&mount.mountpoint, &path));
        }
        candidates.push(path.clone());
        candidates.push(join("/boot", &path));
        candidates.push(join("/boot/efi", &path));
        candidates.push(join("/efi", &path));
        // A subvolume that fstab does not name: "/@/boot/vmlinuz", "/@/.snapshots/1/snapshot/boot/vmlinuz".
        candidates.extend(path.find("/boot/").and_then(|at| path.get(at..)).map(str::to_owned));
        let first = candidates.first().cloned();
        let found = candidates.into_iter().find(|candidate| self.guest.exists(candidate));
        found.or(first).unwrap_or(path)
    }
}
