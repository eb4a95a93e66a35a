// SPDX-License-Identifier: Apache-2.0
//! Partitions get new PARTUUIDs when an MBR becomes a GPT: every reference of the guest follows.

use std::collections::BTreeSet;

use unmoor_images::Result;

use crate::files::{Files, MOST_TEXT};
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};

const RULE: &str = "partuuid";
/// A GRUB environment block has this length, always.
const ENVIRONMENT: usize = 1024;

const FILES: &[&str] = &[
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/default/grub",
    "/etc/sysconfig/grub",
    "/etc/kernel/cmdline",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/mkinitcpio.conf",
    "/etc/dracut.conf",
    "/etc/lilo.conf",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/grub/grubenv",
    "/boot/grub2/grubenv",
    "/boot/grub/menu.lst",
    "/boot/grub/custom.cfg",
    "/boot/grub2/custom.cfg",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
];
const DIRECTORIES: &[&str] =
    &["/boot/loader/entries", "/etc/default/grub.d", "/etc/grub.d", "/etc/dracut.conf.d"];

/// Rewrites each old PARTUUID to its new one in all files that may name it.
pub(super) fn follow(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    changes: &[(String, String)],
) -> Result<()> {
    let mut paths: BTreeSet<String> = FILES.iter().map(|path| (*path).to_owned()).collect();
    for directory in DIRECTORIES {
        paths.extend(draft.list(directory)?.into_iter().map(|name| format!("{directory}/{name}")));
    }
    let boot = &inspection.boot;
    paths.extend(boot.entries.iter().map(|entry| entry.file.clone()));
    paths.extend(boot.loaders.iter().filter_map(|loader| loader.config.clone()));
    paths.extend(boot.argument_files.iter().cloned());
    paths.extend(inspection.resume.iter().map(|resume| resume.file.clone()));
    for path in paths {
        let is_text = draft.metadata(&path)?.is_some_and(|found| found.size <= MOST_TEXT);
        if !is_text {
            continue;
        }
        let Some(old) = draft.read(&path, MOST_TEXT)? else { continue };
        let Some(new) = replaced(&old, changes) else { continue };
        let new = match path.ends_with("/grubenv") && old.len() == ENVIRONMENT {
            false => new,
            true => match environment(new) {
                Some(new) => new,
                None => {
                    draft.finding(
                        Severity::Error,
                        RULE,
                        format!(
                            "{path} is full: the longer PARTUUID of a GPT does not fit in its 1024 bytes"
                        ),
                        Some("shorten kernelopts, or name the partition by UUID= there".to_owned()),
                    );
                    continue;
                }
            },
        };
        draft.write(&path, new, RULE, "partitions of a GPT have PARTUUIDs of their own")?;
    }
    Ok(())
}

/// With every reference replaced; `None` where there is none.
fn replaced(text: &[u8], changes: &[(String, String)]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut rest, mut changed) = (text, false);
    'next: while let Some((first, after)) = rest.split_first() {
        for prefix in [&b"PARTUUID="[..], b"by-partuuid/"] {
            let Some(found) = rest.get(..prefix.len()).filter(|found| found.eq_ignore_ascii_case(prefix))
            else {
                continue;
            };
            // fstab may have it in quotes.
            let behind = rest.get(prefix.len()..).unwrap_or_default();
            let quote = usize::from(behind.first().is_some_and(|byte| matches!(byte, b'"' | b'\'')));
            let value = behind.get(quote..).unwrap_or_default();
            let end = value.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
            let (value, _) = value.split_at(end.unwrap_or(value.len()));
            let Some((_, new)) = changes.iter().find(|(old, _)| value.eq_ignore_ascii_case(old.as_bytes()))
            else {
                continue;
            };
            out.extend_from_slice(found);
            out.extend_from_slice(behind.get(..quote).unwrap_or_default());
            out.extend_from_slice(new.as_bytes());
            rest = behind.get(quote + value.len()..).unwrap_or_default();
            changed = true;
            continue 'next;
        }
        out.push(*first);
        rest = after;
    }
    changed.then_some(out)
}

/// An environment block in its fixed length: what pads it makes room.
fn environment(mut text: Vec<u8>) -> Option<Vec<u8>> {
    while text.len() > ENVIRONMENT && text.last() == Some(&b'#') {
        text.pop();
    }
    (text.len() == ENVIRONMENT).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn references_follow_whatever_their_case_and_longer_ones_are_left_alone() {
        let changes =
            [("1234abcd-01".to_owned(), "NEW".to_owned()), ("1234abcd-05".to_owned(), "FIVE".to_owned())];
        let text = b"PARTUUID=1234ABCD-01 / ext4\n/dev/disk/by-partuuid/1234abcd-05 none\nroot=PARTUUID=1234abcd-015 UUID=1234abcd-01\nPARTUUID=\"1234abcd-01\"";
        let new = String::from_utf8(replaced(text, &changes).unwrap()).unwrap();
        assert_eq!(
            new,
            "PARTUUID=NEW / ext4\n/dev/disk/by-partuuid/FIVE none\nroot=PARTUUID=1234abcd-015 UUID=1234abcd-01\nPARTUUID=\"NEW\""
        );
        assert_eq!(replaced(b"UUID=1234abcd-01", &changes), None);
        assert_eq!(replaced(b"PARTUUID=", &changes), None);
    }

    #[test]
    fn an_environment_block_keeps_its_length_or_is_full() {
        let mut block = b"# GRUB Environment Block\nkernelopts=root=PARTUUID=0123456789ab\n".to_vec();
        block.resize(1050, b'#');
        let fitted = environment(block.clone()).unwrap();
        assert!(fitted.len() == 1024 && block.starts_with(&fitted));
        let full = [vec![b'x'; 1030], vec![b'#'; 5]].concat();
        assert_eq!(environment(full), None);
    }
}
