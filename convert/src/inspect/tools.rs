// SPDX-License-Identifier: Apache-2.0
//! Guest tools of hypervisors, by the units and init scripts that start them.

use super::guest::{Guest, join};
use crate::inspection::GuestTool;

/// (hypervisor, package, unit or script names without endings)
const TOOLS: [(&str, &str, &[&str]); 13] = [
    (
        "vmware",
        "open-vm-tools",
        &[
            "open-vm-tools",
            "vmtoolsd",
            "vgauthd",
            "vgauth",
            "vmware-vmblock-fuse",
            "run-vmblock\\x2dfuse.mount",
        ],
    ),
    ("vmware", "vmware-tools", &["vmware-tools", "vmware-tools-thinprint"]),
    (
        "virtualbox",
        "virtualbox-guest-utils",
        &["virtualbox-guest-utils", "vboxadd", "vboxadd-service", "vboxservice", "vboxadd-x11"],
    ),
    (
        "xen",
        "xe-guest-utilities",
        &["xe-linux-distribution", "xe-daemon", "xe-guest-utilities", "xenstored", "xen-guest-agent"],
    ),
    ("xen", "xen-utils-guest", &["xendomains-wait-disks", "xen-watchdog"]),
    (
        "hyperv",
        "hyperv-daemons",
        &[
            "hypervkvpd",
            "hypervvssd",
            "hypervfcopyd",
            "hv-kvp-daemon",
            "hv-vss-daemon",
            "hv-fcopy-daemon",
            "hv_kvp_daemon",
            "hv_vss_daemon",
            "hv_fcopy_daemon",
        ],
    ),
    ("azure", "walinuxagent", &["walinuxagent", "waagent"]),
    ("kvm", "qemu-guest-agent", &["qemu-guest-agent", "qemu-ga"]),
    ("kvm", "spice-vdagent", &["spice-vdagentd", "spice-vdagent"]),
    (
        "gcp",
        "google-guest-agent",
        &["google-guest-agent", "google-startup-scripts", "google-shutdown-scripts"],
    ),
    ("aws", "amazon-ssm-agent", &["amazon-ssm-agent", "hibinit-agent", "ec2-hibinit-agent"]),
    ("parallels", "parallels-tools", &["prltoolsd", "prl-x11", "prltools_sg"]),
    ("nutanix", "nutanix-guest-tools", &["ngt_guest_agent", "ngt_self_service_restore"]),
];

pub(super) fn read(guest: &Guest<'_>) -> Vec<GuestTool> {
    let enabled = enabled(guest);
    let mut found = Vec::new();
    for (hypervisor, name, units) in TOOLS {
        let is_one = |path: &&String| {
            let file = path.rsplit('/').next().unwrap_or_default();
            // S20open-vm-tools
            let script =
                file.strip_prefix('S').and_then(|rest| rest.get(2..)).filter(|_| path.contains("/rc"));
            let stem = file.strip_suffix(".service").unwrap_or(file);
            units.iter().any(|unit| stem == *unit || script == Some(*unit))
        };
        let units: Vec<String> = enabled.iter().filter(is_one).cloned().collect();
        if !units.is_empty() {
            found.push(GuestTool { hypervisor: hypervisor.into(), name: name.into(), units });
        }
    }
    found
}

/// Links and scripts that start something: of systemd, OpenRC, System V, upstart.
fn enabled(guest: &Guest<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for base in ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"] {
        // /lib is /usr/lib.
        if base == "/lib/systemd/system"
            && guest.real_path(base).is_some_and(|real| real.starts_with("/usr/"))
        {
            continue;
        }
        for name in guest.list(base) {
            if name.ends_with(".wants") || name.ends_with(".requires") {
                let directory = join(base, &name);
                found.extend(guest.list(&directory).iter().map(|unit| join(&directory, unit)));
            }
        }
    }
    for runlevel in ["boot", "default", "sysinit"] {
        let directory = join("/etc/runlevels", runlevel);
        found.extend(guest.list(&directory).iter().map(|name| join(&directory, name)));
    }
    for base in ["/etc", "/etc/rc.d", "/etc/init.d"] {
        for level in ["rc2.d", "rc3.d", "rc5.d", "rcS.d"] {
            let directory = join(base, level);
            let scripts = guest.list(&directory).into_iter().filter(|name| name.starts_with('S'));
            found.extend(scripts.map(|name| join(&directory, &name)));
        }
    }
    for name in guest.list("/etc/init") {
        if let Some(stem) = name.strip_suffix(".conf")
            && !guest.exists(&join("/etc/init", &format!("{stem}.override")))
        {
            found.push(join("/etc/init", stem));
        }
    }
    // A unit that is masked starts nothing.
    found.retain(|path| {
        let unit = path.rsplit('/').next().unwrap_or_default();
        guest.read_link(&join("/etc/systemd/system", unit)).as_deref() != Some("/dev/null")
    });
    found.truncate(10_000);
    found
}
