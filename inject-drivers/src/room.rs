// SPDX-License-Identifier: Apache-2.0
//! Whether the filesystems of initramfs files have room for what is added.

use std::collections::BTreeMap;

use unmoor_convert::files::Files;
use unmoor_convert::plan::{Draft, Severity};
use unmoor_images::Result;

/// What a filesystem may take beside the content, in bytes: indirect blocks and a directory block.
const OVERHEAD: u64 = 64 << 10;

/// Checks that each initramfs can be written anew beside the old one, one after the other, as they are when the plan is carried out.
/// `grown` has the path of each and the bytes that are added.
pub(crate) fn check(draft: &mut Draft, grown: &[(String, u64)]) -> Result<()> {
    let mut peaks: BTreeMap<u64, (u64, u64, String)> = BTreeMap::new();
    for (path, added) in grown {
        // As the draft shows it, which has the bytes already.
        let Some(found) = draft.metadata(path)? else { continue };
        let (peak, kept, _) = peaks.entry(found.device).or_insert((0, 0, path.clone()));
        *peak = (*peak).max(kept.saturating_add(found.size));
        *kept = kept.saturating_add(*added);
    }
    for (peak, _, path) in peaks.into_values() {
        let room = draft.room(&path)?;
        let needed = peak.saturating_add(OVERHEAD);
        let folder =
            path.rsplit_once('/').map_or("/", |(folder, _)| if folder.is_empty() { "/" } else { folder });
        if room.bytes < needed {
            draft.finding(
                Severity::Error,
                "room",
                format!(
                    "the filesystem of {folder} has {} bytes free, and a new copy of {path} needs {needed}: {} are lacking",
                    room.bytes,
                    needed - room.bytes
                ),
                Some("remove kernels that are no longer used from the source machine (apt autoremove, dnf remove --oldinstallonly)".to_owned()),
            );
        } else if room.inodes == 0 {
            draft.finding(
                Severity::Error,
                "room",
                format!("the filesystem of {folder} has no inode free for a new copy of {path}"),
                Some("remove files that are no longer used from it".to_owned()),
            );
        }
    }
    Ok(())
}
