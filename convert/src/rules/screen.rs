// SPDX-License-Identifier: Apache-2.0
//! xorg.conf with the driver of a graphics card that is no longer there: X would not start.

use std::ops::Range;

use unmoor_images::Result;

use super::text::{Text, files_in, lines, words};
use crate::plan::Draft;

const RULE: &str = "xorg";
/// Drivers that work on what they find.
const GENERIC: [&str; 3] = ["modesetting", "fbdev", "vesa"];
/// Of a Device section, what ties it to a card.
const TIED: [&str; 4] = ["vendorname", "boardname", "busid", "chipid"];

pub(super) fn plan(draft: &mut Draft<'_>) -> Result<()> {
    let mut paths = vec!["/etc/X11/xorg.conf".to_owned()];
    paths.extend(files_in(draft, "/etc/X11/xorg.conf.d", ".conf")?);
    for path in paths {
        let Some(file) = Text::read(draft, &path)? else { continue };
        let mut pieces: Vec<(Range<usize>, String)> = Vec::new();
        let mut pending: Vec<(Range<usize>, String)> = Vec::new();
        let mut device = false;
        let mut old_driver = false;
        for (start, line) in lines(&file.text) {
            let all = words(line, start);
            let Some((first, keyword)) = all.first() else { continue };
            let value = all.get(1);
            let bare =
                value.map(|(_, value)| value.trim_matches('"').to_ascii_lowercase()).unwrap_or_default();
            match keyword.to_ascii_lowercase().as_str() {
                "section" => (device, old_driver) = (bare == "device", false),
                "endsection" => {
                    if device && old_driver {
                        pieces.append(&mut pending);
                    }
                    pending.clear();
                    device = false;
                }
                "driver" if device && !bare.is_empty() && !GENERIC.contains(&bare.as_str()) => {
                    old_driver = true;
                    if let Some((range, _)) = value {
                        pending.push((range.clone(), "\"modesetting\"".to_owned()));
                    }
                }
                tied if device && TIED.contains(&tied) => {
                    pending.push((first.start..first.start, "#".to_owned()));
                }
                _ => {}
            }
        }
        file.write(
            draft,
            &path,
            &pieces,
            RULE,
            "the new machine has another graphics card; modesetting drives any",
        )?;
    }
    Ok(())
}
