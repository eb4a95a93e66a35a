// SPDX-License-Identifier: Apache-2.0
//! initramfs-tools' own answer to where the machine is resumed from (initramfs-tools(7), initramfs.conf(5)).

use unmoor_images::Result;

use super::boot::assignments;
use super::references::{Verdict, judge};
use super::text::Text;
use crate::devices::Devices;
use crate::files::Files;
use crate::plan::Draft;

const WHY: &str = "the machine waits for the swap area to resume from, by a name that the old hardware had";

pub(super) fn plan(draft: &mut Draft<'_>, devices: &Devices) -> Result<()> {
    let mut paths = vec!["/etc/initramfs-tools/initramfs.conf".to_owned()];
    for name in draft.list("/etc/initramfs-tools/conf.d")? {
        paths.push(format!("/etc/initramfs-tools/conf.d/{name}"));
    }
    let mut last = None;
    for path in paths {
        let Some(file) = Text::read(draft, &path)? else { continue };
        let mut pieces = Vec::new();
        for (name, range) in assignments(&file.text) {
            let value = file.text.get(range.clone()).unwrap_or_default();
            match name.as_str() {
                "RESUME" if matches!(value, "auto" | "none" | "") => {}
                "RESUME" => {
                    let new = match judge(devices, value) {
                        Verdict::Becomes(new) => new,
                        Verdict::Holds if !value.contains('=') || devices.resolve(value).is_some() => {
                            continue;
                        }
                        _ => "none".to_owned(),
                    };
                    last = Some(new.clone());
                    pieces.push((range, new));
                }
                "ROOT" => {
                    if let Verdict::Becomes(new) = judge(devices, value) {
                        pieces.push((range, new));
                    }
                }
                _ => {}
            }
        }
        file.write(draft, &path, &pieces, "resume", WHY)?;
    }
    // The initramfs has a copy; its init reads all of conf.d in order of names, so that the last one counts.
    if let Some(new) = last {
        draft.initramfs_file("/conf/conf.d/zz-unmoor-resume", format!("RESUME={new}\n").into_bytes(), 0o644);
    }
    Ok(())
}
