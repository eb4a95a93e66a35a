// SPDX-License-Identifier: Apache-2.0
//! What an initramfs has of old identities: dracut's command line and what it waits for, initramfs-tools' swap to resume from,
//! copies of crypttab and mdadm.conf. A file that is put behind the initramfs takes the place of the one within.

use unmoor_images::Result;
use unmoor_initramfs::archive::{self, Kind as Inner, Limits};

use super::RULE;
use super::names::Names;
use crate::files::Files;
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};
use crate::syntax::pe;

/// The largest image that is read, in bytes; and the largest file within that is configuration.
const MOST: u64 = 1 << 30;
const MOST_FILE: u64 = 1 << 20;
/// Within the names of units that start others; a link there is what counts, not its target.
const WANTS: [&str; 2] = [".wants/", ".requires/"];

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, names: &Names) -> Result<()> {
    let kernels = inspection.kernels.iter().filter(|kernel| kernel.bootable);
    let mut paths: Vec<&str> =
        kernels.flat_map(|kernel| &kernel.initramfs).map(|one| one.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        if draft.metadata(path)?.is_none_or(|found| found.size > MOST) {
            continue;
        }
        let Some(bytes) = draft.read(path, MOST)? else { continue };
        let image = match pe::parse(&bytes) {
            Ok(program) => program.section(&bytes, ".initrd").unwrap_or_default(),
            Err(_) => &bytes,
        };
        // One that cannot be read is a finding of lint's.
        let Ok(archive) = archive::read(image, &Limits::default()) else { continue };
        for (inner, node) in archive.tree.below("/") {
            match &node.kind {
                Inner::File(content) if content.size <= MOST_FILE => {
                    let Some(new) = content.bytes.as_deref().and_then(|old| names.replaced(old)) else {
                        continue;
                    };
                    if is_program(&new) {
                        tell(draft, path, &inner);
                        continue;
                    }
                    draft.initramfs_file(&format!("/{inner}"), new, node.mode);
                }
                // systemd waits for each device that is wanted by its old name. An empty file where such a link leads masks the unit, so
                // that nobody waits; what root needs is waited for by its new name, from the command line.
                Inner::Link(target) if is_wanted(names, &inner, target) => {
                    draft.initramfs_file(&led_to(&inner, target), Vec::new(), 0o644);
                }
                Inner::Link(target) if names.renamed(target).is_some() => tell(draft, path, &inner),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A link by which a unit of an old name is started with others.
fn is_wanted(names: &Names, path: &str, target: &str) -> bool {
    let wants = WANTS.iter().any(|wants| path.contains(wants));
    wants && (names.renamed(path).is_some() || names.renamed(target).is_some())
}

/// Where a link at `path` leads, as its words say it.
fn led_to(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.starts_with('/') {
        true => Vec::new(),
        false => path.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_program(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") || bytes.contains(&0)
}

fn tell(draft: &mut Draft<'_>, path: &str, inner: &str) {
    draft.finding(
        Severity::Warning,
        RULE,
        format!(
            "{inner} within {path} names something by its old identity, and cannot be changed from outside"
        ),
        Some("make the initramfs anew in the clone: update-initramfs -u, dracut -f".to_owned()),
    );
}
