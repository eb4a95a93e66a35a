// SPDX-License-Identifier: Apache-2.0
//! Guest tools of a hypervisor that is not there any more: their services are disabled, their packages stay.

use unmoor_images::Result;

use crate::files::{Files, Kind};
use crate::inspection::{GuestTool, Inspection};
use crate::plan::{Draft, Severity};
use crate::request::Hardware;

const RULE: &str = "guest-tools";
const SYSTEM: &str = "/etc/systemd/system";

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, hardware: &Hardware) -> Result<()> {
    for tool in &inspection.tools {
        if hardware.hypervisor.as_deref() == Some(tool.hypervisor.as_str()) || tool.units.is_empty() {
            continue;
        }
        for unit in &tool.units {
            disable(draft, tool, unit)?;
        }
        draft.finding(
            Severity::Note,
            RULE,
            format!("{} ({}) is disabled; its package stays", tool.name, tool.hypervisor),
            Some(format!("remove the package {} when the machine has proved itself", tool.name)),
        );
    }
    Ok(())
}

fn disable(draft: &mut Draft<'_>, tool: &GuestTool, unit: &str) -> Result<()> {
    let why =
        format!("{} belongs to {}, which is not the new machine's hypervisor", tool.name, tool.hypervisor);
    let (folder, name) = unit.rsplit_once('/').unwrap_or(("", unit));
    if folder.contains("/rc") && folder.ends_with(".d")
        || folder == "/etc/init.d"
        || folder == "/etc/rc.d/init.d"
    {
        return disable_script(draft, name, &why);
    }
    if folder.starts_with("/etc/runlevels/") {
        return draft.remove(unit, RULE, why);
    }
    if folder == "/etc/init" {
        return draft.write(&format!("{unit}.override"), b"manual\n".to_vec(), RULE, why);
    }
    let mut found = false;
    for wants in draft
        .list(SYSTEM)?
        .into_iter()
        .filter(|wants| wants.ends_with(".wants") || wants.ends_with(".requires"))
    {
        let link = format!("{SYSTEM}/{wants}/{name}");
        if draft.link_metadata(&link)?.is_some_and(|found| found.kind == Kind::Link) {
            draft.remove(&link, RULE, why.clone())?;
            found = true;
        }
    }
    // Enabled by its package's own links: masked.
    let mask = format!("{SYSTEM}/{name}");
    if !found && draft.link_metadata(&mask)?.is_none() {
        draft.link(&mask, "/dev/null", RULE, why)?;
    }
    Ok(())
}

/// System V: start links become stop links (insserv and chkconfig take that for "disabled").
fn disable_script(draft: &mut Draft<'_>, name: &str, why: &str) -> Result<()> {
    let script = name.trim_start_matches(['S', 'K']).trim_start_matches(|c: char| c.is_ascii_digit());
    let script = if name.starts_with(['S', 'K']) && script.len() < name.len() { script } else { name };
    for base in ["/etc", "/etc/rc.d"] {
        for level in ["2", "3", "4", "5", "S"] {
            let folder = format!("{base}/rc{level}.d");
            for link in draft.list(&folder)? {
                let starts = link.strip_prefix('S').is_some_and(|rest| rest.get(2..) == Some(script));
                let path = format!("{folder}/{link}");
                if let Some(target) = draft.read_link(&path)?.filter(|_| starts) {
                    draft.remove(&path, RULE, why)?;
                    draft.link(&format!("{folder}/K01{script}"), &target, RULE, why)?;
                }
            }
        }
    }
    Ok(())
}
