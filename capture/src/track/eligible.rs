// SPDX-License-Identifier: Apache-2.0
//! Can the writes to a disk be followed at all?

use std::fs;
use std::path::Path;

use unmoor_images::{Error, Result};

/// Refuses a device whose writes do not pass as requests of its own.
pub fn check(number: u64) -> Result<()> {
    let folder = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
    check_folder(Path::new(&folder))
}

fn check_folder(folder: &Path) -> Result<()> {
    let refused = |because: &str| Err(Error::unsupported("tracking writes", because.to_owned()));
    let name = fs::canonicalize(folder).unwrap_or_default();
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned();
    if folder.join("partition").exists() {
        return refused("it is a partition: name the whole disk");
    }
    if !folder.join("queue").exists() {
        return refused("the kernel shows no request queue for it");
    }
    match text("queue/zoned").as_str() {
        "" | "none" => {}
        zoned => {
            return refused(&format!(
                "it is a zoned disk ({zoned}), whose zones are written and reset as wholes"
            ));
        }
    }
    // Without request queues of blk-mq (since 4.18's time, all request-based drivers) there are no requests to hear of: device-mapper,
    // md, zram, pmem, drbd, bcache hand bios down.
    if !folder.join("mq").exists() {
        return refused(&format!("{name} has no requests of its own: name the disks beneath it"));
    }
    // The head of an NVMe multipath has a queue of its own; its requests are those of hidden path devices.
    if folder.join("multipath").exists() || is_multipath_head(folder, &name) {
        return refused(&format!(
            "{name} is an NVMe namespace of several paths, whose requests go by hidden devices"
        ));
    }
    Ok(())
}

/// `nvme0n1` is the head where the same subsystem has `nvme0c0n1`.
fn is_multipath_head(folder: &Path, name: &str) -> bool {
    let Some((controller, namespace)) = name.strip_prefix("nvme").and_then(|rest| rest.rsplit_once('n'))
    else {
        return false;
    };
    let device = folder.join("device");
    let entries = fs::read_dir(&device).into_iter().flatten().flatten();
    let paths = entries.flat_map(|entry| {
        let below = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        below.map(|entry| entry.file_name()).chain([entry.file_name()]).collect::<Vec<_>>()
    });
    let (begin, end) = (format!("nvme{controller}c"), format!("n{namespace}"));
    paths
        .filter_map(|path| path.into_string().ok())
        .any(|path| path.starts_with(&begin) && path.ends_with(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, files: &[&str], zoned: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join(name);
        for file in files {
            fs::create_dir_all(disk.join(file)).unwrap();
        }
        if disk.join("queue").exists() {
            fs::write(disk.join("queue/zoned"), zoned).unwrap();
        }
        check_folder(&disk).map_or_else(|error| error.chain(), |()| "fine".into())
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_reason() {
        assert_eq!(refusal("sda", &["queue", "mq/0"], "none"), "fine");
        assert_eq!(refusal("nvme0n1", &["queue", "mq/0", "device/hwmon1"], "none"), "fine");
        assert!(refusal("sda", &["queue", "mq"], "host-managed").contains("zoned"));
        assert!(refusal("dm-0", &["queue"], "none").contains("beneath"));
        assert!(refusal("sda1", &["partition"], "none").contains("whole disk"));
        assert!(refusal("sda", &[], "none").contains("no request queue"));
        let paths = ["queue", "mq", "device/nvme0/nvme0c0n1"];
        assert!(refusal("nvme0n1", &paths, "none").contains("several paths"));
    }
}
