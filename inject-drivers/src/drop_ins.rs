// SPDX-License-Identifier: Apache-2.0
//! Configuration that makes the guest's own tools put the drivers into the initramfs of later kernels.
//!
//! Tools that look at the machine that they run on ("host only") will see the new one by then; a list of modules, or a rebuild
//! that happens elsewhere, does not. The drop-ins add and take nothing away. They name what the default kernel has as modules,
//! and each tool passes over names that a later kernel does not have.

use unmoor_convert::files::Files;
use unmoor_convert::plan::{Draft, Severity};
use unmoor_convert::request::Request;
use unmoor_images::Result;

use crate::RULE;
use crate::fit::Fit;

const HEAD: &str = "# Written by unmoor: drivers of the machine that this system was fitted to.\n# It may be removed once the system runs there.\n";
const WHY: &str = "later kernels need the drivers too";

pub(crate) fn plan(draft: &mut Draft, request: &Request, fits: &[Fit]) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for name in fits.iter().filter(|fit| fit.trouble.is_none()).flat_map(|fit| &fit.wanted) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    let has = |draft: &Draft, paths: &[&str]| -> Result<bool> {
        for path in paths {
            if draft.exists(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if has(
        draft,
        &["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut", "/usr/lib/dracut/dracut-functions.sh"],
    )? {
        let text = format!("{HEAD}add_drivers+=\" {list} \"\n");
        draft.write("/etc/dracut.conf.d/50-unmoor.conf", text.into_bytes(), RULE, WHY)?;
    }
    if has(draft, &["/usr/share/initramfs-tools/hook-functions"])? {
        // Not /etc/initramfs-tools/modules: what stands there is loaded at every start whether its hardware is there or not.
        let text = format!(
            "#!/bin/sh\n{HEAD}case \"$1\" in\nprereqs) exit 0 ;;\nesac\n. /usr/share/initramfs-tools/hook-functions\nmanual_add_modules {list}\n"
        );
        draft.write_mode("/etc/initramfs-tools/hooks/unmoor", text.into_bytes(), 0o755, RULE, WHY)?;
    }
    if has(draft, &["/usr/bin/mkinitcpio"])? {
        mkinitcpio(draft, request, &names)?;
    }
    Ok(())
}

/// mkinitcpio fails on a module that does not exist, but for names that end in '?', and loads at every start what its list names. So
/// only what will be there is listed.
fn mkinitcpio(draft: &mut Draft, request: &Request, names: &[String]) -> Result<()> {
    let program = draft.text("/usr/bin/mkinitcpio")?.unwrap_or_default();
    if !request.hardware.parts.iter().any(|part| part.certain) {
        return Ok(());
    }
    if !program.contains("mkinitcpio.conf.d") {
        draft.finding(
            Severity::Warning,
            RULE,
            "this mkinitcpio reads no drop-ins: kernels that are installed later get the drivers only if `autodetect` finds them",
            Some(format!("add to MODULES in /etc/mkinitcpio.conf: {}", names.join(" "))),
        );
        return Ok(());
    }
    let list: Vec<String> = names.iter().map(|name| format!("{name}?")).collect();
    let text = format!("{HEAD}MODULES+=({})\n", list.join(" "));
    draft.write("/etc/mkinitcpio.conf.d/50-unmoor.conf", text.into_bytes(), RULE, WHY)
}
