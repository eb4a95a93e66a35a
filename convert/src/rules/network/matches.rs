// SPDX-License-Identifier: Apache-2.0
//! What a configuration matches adapters by: the address in ifcfg's HWADDR, NetworkManager's mac-address, netplan's match, networkd's
//! `[Match]`, udev's rules. Addresses that a configuration *sets* (MACADDR, cloned-mac-address, hwaddress) stay.

use std::collections::BTreeSet;
use std::ops::Range;

use unmoor_images::Result;

use super::super::text::{Text, lines, whole_line};
use super::{Nic, RULE, Target, patterns};
use crate::files::Files;
use crate::inspection::Inspection;
use crate::plan::Draft;
use crate::request::Request;

const WHY: &str = "the adapter has another address and another place on the new machine";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Syntax {
    Ifcfg,
    NetworkManager,
    Networkd,
    Netplan,
    Ifupdown,
    Udev,
}

pub(super) fn plan(
    draft: &mut Draft<'_>,
    inspection: &Inspection,
    request: &Request,
    nics: &[Nic],
) -> Result<()> {
    // Adapters there are on no bus that udev makes names of.
    let kernel_names = matches!(request.hardware.hypervisor.as_deref(), Some("hyperv" | "xen"));
    for (path, syntax) in files(draft, inspection)? {
        let Some(file) = Text::read(draft, &path)? else { continue };
        let mut pieces = pieces(&file.text, syntax, nics, &here(inspection, &path, nics));
        pieces.extend(rules_by_place(&file.text, &path, inspection));
        if kernel_names {
            pieces.extend(patterns::widened(&file.text, syntax));
        }
        pieces.sort_by_key(|(range, _)| range.start);
        if pieces.is_empty() {
            continue;
        }
        file.write(draft, &path, &pieces, RULE, WHY)?;
        // udev in the initramfs names adapters first, by its own copies.
        if (path.ends_with(".link") || syntax == Syntax::Udev)
            && let Some(content) = draft.read(&path, 1 << 20)?
        {
            draft.initramfs_file(&path, content, 0o644);
        }
    }
    Ok(())
}

fn files(draft: &Draft<'_>, inspection: &Inspection) -> Result<BTreeSet<(String, Syntax)>> {
    let mut all = BTreeSet::new();
    for (folder, syntax) in [
        ("/etc/sysconfig/network-scripts", Syntax::Ifcfg),
        ("/etc/sysconfig/network", Syntax::Ifcfg),
        ("/etc/NetworkManager/system-connections", Syntax::NetworkManager),
        ("/etc/systemd/network", Syntax::Networkd),
        ("/etc/netplan", Syntax::Netplan),
        ("/etc/network/interfaces.d", Syntax::Ifupdown),
        ("/etc/udev/rules.d", Syntax::Udev),
    ] {
        for name in draft.list(folder)? {
            let wanted = match syntax {
                Syntax::Ifcfg => name.starts_with("ifcfg-"),
                Syntax::Networkd => name.ends_with(".network") || name.ends_with(".link"),
                Syntax::Netplan => name.ends_with(".yaml") || name.ends_with(".yml"),
                Syntax::Udev => name.ends_with(".rules"),
                Syntax::NetworkManager | Syntax::Ifupdown => true,
            };
            if wanted && let Some(real) = draft.real_path(&format!("{folder}/{name}"))? {
                all.insert((real, syntax));
            }
        }
    }
    all.insert(("/etc/network/interfaces".into(), Syntax::Ifupdown));
    for pinned in &inspection.network.pinned_names {
        let syntax = if pinned.file.ends_with(".link") { Syntax::Networkd } else { Syntax::Udev };
        if pinned.file.starts_with("/etc/") {
            all.insert((pinned.file.clone(), syntax));
        }
    }
    Ok(all)
}

/// udev rules that name an adapter by where it is plugged in: another one may be there now.
fn rules_by_place(text: &str, path: &str, inspection: &Inspection) -> Vec<(Range<usize>, String)> {
    let by_place = |line: &str| {
        inspection.network.pinned_names.iter().any(|pinned| {
            pinned.file == path
                && pinned.mac.is_none()
                && pinned.path.is_some()
                && path.ends_with(".rules")
                && line.contains(&format!("NAME=\"{}\"", pinned.name))
        })
    };
    let found = lines(text).filter(|(_, line)| !line.trim_start().starts_with('#') && by_place(line));
    found.map(|(start, _)| (start..start, "# ".to_owned())).collect()
}

/// The interface that a file is about by its path or driver on the old machine.
fn here<'a>(inspection: &Inspection, path: &str, nics: &'a [Nic]) -> Option<&'a Nic> {
    let by_place = |matches: &std::collections::BTreeMap<String, String>| {
        matches.contains_key("path") || matches.contains_key("driver")
    };
    let interface =
        inspection.network.interfaces.iter().find(|interface| {
            interface.configured_by.iter().any(|by| by.file == path && by_place(&by.matches))
        });
    let pinned =
        inspection.network.pinned_names.iter().find(|pinned| pinned.file == path && pinned.path.is_some());
    let name = interface.and_then(|found| found.name.as_ref()).or(pinned.map(|pinned| &pinned.name));
    let mac = interface.and_then(|found| found.mac.as_ref());
    nics.iter().find(|nic| {
        name.is_some() && nic.name.as_ref() == name
            || mac.is_some_and(|mac| nic.mac.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(mac)))
    })
}

fn pieces(text: &str, syntax: Syntax, nics: &[Nic], here: &Option<&Nic>) -> Vec<(Range<usize>, String)> {
    let mut out: Vec<(Range<usize>, String)> = Vec::new();
    let mut section = String::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut connection = None;
    let mut needs_name: Option<&Nic> = None;
    let has_name = lines(text).any(|(_, line)| line.trim_start().starts_with("interface-name="));
    for (start, line) in lines(text) {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.to_ascii_lowercase();
            if section == "connection" {
                connection = Some(whole_line(text, start).end);
            }
            continue;
        }
        let indent = line.len() - trimmed.len();
        if syntax == Syntax::Netplan {
            parents.retain(|(depth, _)| *depth < indent);
        }
        let key = trimmed.split(['=', ':', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
        let in_match = match syntax {
            Syntax::Ifcfg => key == "hwaddr",
            Syntax::NetworkManager => {
                key == "mac-address" || section == "match" && matches!(key.as_str(), "path" | "driver")
            }
            Syntax::Networkd => {
                section == "match"
                    && matches!(key.as_str(), "macaddress" | "permanentmacaddress" | "path" | "driver")
            }
            Syntax::Netplan => {
                line.contains("match:") || parents.last().is_some_and(|(_, parent)| parent == "match")
            }
            Syntax::Ifupdown => !key.starts_with("hwaddress"),
            Syntax::Udev => true,
        };
        if syntax == Syntax::Netplan && trimmed.trim_end().ends_with(':') {
            parents.push((indent, key.trim_matches(['"', '\'']).to_owned()));
        }
        if !in_match {
            continue;
        }
        let by_place = matches!(key.as_str(), "path" | "driver")
            && matches!(syntax, Syntax::Networkd | Syntax::NetworkManager);
        if by_place {
            // "Any place" holds on any machine: an earlier run wrote it.
            if let Some(nic) = here.filter(|_| !trimmed.trim_end().ends_with("=*")) {
                out.push((start..start + line.len(), place_line(text, syntax, nic)));
                if syntax == Syntax::NetworkManager {
                    needs_name = Some(nic);
                }
            }
            continue;
        }
        for nic in nics {
            let Some((at, old)) = nic.mac.as_deref().and_then(|mac| find(line, mac)) else { continue };
            let range = start + at..start + at + old.len();
            match (&nic.target, syntax) {
                (Target::Mac(new), _) => {
                    let upper = old.bytes().any(|byte| byte.is_ascii_uppercase());
                    let new = if upper { new.to_ascii_uppercase() } else { new.clone() };
                    if new != old {
                        out.push((range, new));
                    }
                }
                (Target::Unknown, _) => {}
                (Target::Only, Syntax::Udev) => out.push((range, "?*".into())),
                (Target::Only, Syntax::Networkd) => out.push((start..start + line.len(), "Path=*".into())),
                (Target::Only, Syntax::Ifcfg) => out.push((start + indent..start + indent, "#".into())),
                (Target::Only, Syntax::NetworkManager) => {
                    out.push((start + indent..start + indent, "#".into()));
                    needs_name = Some(nic);
                }
                (Target::Only, Syntax::Netplan) => {
                    if let (Some(at), Some(name)) = (line.find("macaddress"), &nic.name) {
                        let whole = start + at..start + line.trim_end_matches(['}', ' ']).len();
                        out.push((whole, format!("name: {name}")));
                    }
                }
                (Target::Only, Syntax::Ifupdown) => {}
            }
            break;
        }
    }
    if let (Some(at), Some(nic), false) = (connection, needs_name, has_name)
        && let Some(name) = &nic.name
    {
        out.push((at..at, format!("interface-name={name}\n")));
    }
    out.sort_by_key(|(range, _)| range.start);
    out
}

/// What takes the place of a match by path or driver.
fn place_line(text: &str, syntax: Syntax, nic: &Nic) -> String {
    let link = text.contains("[Link]") && !text.contains("[Network]");
    match (&nic.target, syntax, &nic.name) {
        (_, Syntax::NetworkManager, _) => "# (unmoor: matched by name)".into(),
        (_, _, Some(name)) if !link => format!("Name={name}"),
        (Target::Mac(mac), ..) => format!("MACAddress={mac}"),
        _ => "Path=*".into(),
    }
}

/// An address in a line, with ":" or "-" between its bytes; its own spelling.
fn find<'a>(line: &'a str, mac: &str) -> Option<(usize, &'a str)> {
    let lower = line.to_ascii_lowercase();
    let at = lower.find(mac).or_else(|| lower.find(&mac.replace(':', "-")))?;
    Some((at, line.get(at..at + mac.len())?))
}
