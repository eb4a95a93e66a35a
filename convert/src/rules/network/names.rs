// SPDX-License-Identifier: Apache-2.0
//! Names: systemd's .link files (systemd.link(5)), udev rules for a udev before them.
//!
//! The kernel hands out eth0, eth1, ... as it finds adapters, and udev cannot rename one to a name that another still has. So an ethN
//! that the kernel might hand out gets a name of ours first, and its own in a second step, when every adapter has left ethN.

use std::fmt::Write;

use unmoor_images::Result;

use super::{Nic, RULE, Target};
use crate::files::Files;
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};
use crate::request::Request;

const RULES: &str = "/etc/udev/rules.d/81-unmoor-names.rules";
const OLD_RULES: &str = "/etc/udev/rules.d/70-persistent-net.rules";
const HEAD: &str = "# Made by unmoor: the adapter keeps the name that it had before the machine moved.\n";
const WHY: &str = "on another bus the adapter would get another name";

pub(super) fn plan(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    request: &Request,
    nics: &[Nic],
) -> Result<()> {
    // What is pinned already was changed where it stands.
    let pinned = |name: &str| {
        let mut all = inspection.network.pinned_names.iter();
        all.any(|pinned| pinned.name == name && (pinned.mac.is_some() || pinned.file.ends_with(".link")))
    };
    let named: Vec<(&str, &Target)> = nics
        .iter()
        .filter(|nic| nic.target != Target::Unknown)
        .filter_map(|nic| Some((nic.name.as_deref()?, &nic.target)))
        .filter(|(name, _)| is_name(name) && !pinned(name))
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    let mut links = false;
    let mut udev = false;
    for folder in ["/usr/lib/udev", "/lib/udev"] {
        links |= draft.exists(&format!("{folder}/rules.d/80-net-setup-link.rules"))?;
        udev |= draft.exists(folder)?;
    }
    if !links {
        if udev {
            return old_rules(draft, &named);
        }
        if named.len() > 1 || named.iter().any(|(name, _)| *name != "eth0") {
            draft.finding(
                Severity::Warning,
                RULE,
                "the guest has no udev: its adapters are called eth0, eth1, ... in the order in which the kernel finds them",
                Some("put the new machine's adapters in the old one's order".into()),
            );
        }
        return Ok(());
    }
    // Names that the kernel may hand out while it finds the adapters.
    let adapters = request.hardware.nics.len().max(nics.len());
    let mut steps = String::new();
    for (name, target) in named {
        let owned = kernel_number(name).is_some_and(|number| number < adapters && adapters > 1);
        let first = if owned {
            format!("unmoor{}", kernel_number(name).unwrap_or_default())
        } else {
            name.to_owned()
        };
        let content = format!("{HEAD}[Match]\n{}\n[Link]\nName={first}\n", match_lines(target, request));
        let path = format!("/etc/systemd/network/70-unmoor-{name}.link");
        draft.write(&path, content.clone().into_bytes(), RULE, WHY)?;
        draft.initramfs_file(&path, content.into_bytes(), 0o644);
        if owned {
            let _ = writeln!(
                steps,
                "SUBSYSTEM==\"net\", ACTION==\"add|move\", KERNEL==\"{first}\", RUN+=\"/bin/sh -c 'PATH=/usr/sbin:/sbin:/usr/bin:/bin; \
                 for try in 1 2 3 4 5 6 7 8 9 10 11 12; do ip link set dev {first} name {name} && exit 0; sleep 0.25; done'\""
            );
        }
    }
    if !steps.is_empty() {
        draft.write(
            RULES,
            format!("{HEAD}{steps}").into_bytes(),
            RULE,
            "the kernel gives the names ethN itself: an adapter gets its own when no other has it any more",
        )?;
    }
    Ok(())
}

/// The lines of `[Match]`. VLANs, bridges and bonds share the address of an adapter; they are on no bus, and so have no path.
fn match_lines(target: &Target, request: &Request) -> String {
    let address = match target {
        Target::Mac(mac) => format!("MACAddress={mac}\n"),
        _ => String::new(),
    };
    let kind = match request.hardware.hypervisor.as_deref() {
        // A virtual function of the same address may stand beside it.
        Some("hyperv") => "Driver=hv_netvsc\n",
        Some("xen") => "Type=ether\n",
        _ => "Path=*\n",
    };
    format!("{address}{kind}")
}

/// udev before systemd 197 waits for names to get free by itself.
fn old_rules(draft: &mut Draft<'_>, named: &[(&str, &Target)]) -> Result<()> {
    let mut content = draft.text(OLD_RULES)?.unwrap_or_default();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    content.push_str(HEAD);
    for (name, target) in named {
        let address = match target {
            Target::Mac(mac) => mac,
            _ => "?*",
        };
        let _ = writeln!(
            content,
            "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{{address}}==\"{address}\", ATTR{{type}}==\"1\", \
             KERNEL==\"eth*\", NAME=\"{name}\""
        );
    }
    draft.write(OLD_RULES, content.clone().into_bytes(), RULE, WHY)?;
    draft.initramfs_file(OLD_RULES, content.into_bytes(), 0o644);
    Ok(())
}

/// "eth3" -> 3
fn kernel_number(name: &str) -> Option<usize> {
    let number = name.strip_prefix("eth")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// What the kernel takes for a name (net/core/dev.c, dev_valid_name), and no file name or rule trips over.
fn is_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && !matches!(name, "." | "..")
}
