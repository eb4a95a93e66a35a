// SPDX-License-Identifier: Apache-2.0
//! The operating system: release, architecture, init, SELinux, consoles.

use super::guest::Guest;
use crate::inspection::{Boot, System};
use crate::os::architecture;
use crate::syntax::assignments::{assignments, get};

/// Programs that every system has.
const PROGRAMS: [&str; 6] =
    ["/usr/bin/bash", "/bin/sh", "/usr/bin/env", "/usr/bin/ls", "/bin/busybox", "/sbin/init"];
/// Programs are a few MiB at most.
const MOST_PROGRAM: u64 = 64 << 20;

pub(super) fn read(guest: &Guest<'_>) -> System {
    let release = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| guest.text(path));
    let release = assignments(release.as_deref().unwrap_or_default());
    let value = |key: &str| {
        get(&release, key).map(|value| value.chars().filter(|char| !char.is_control()).take(256).collect())
    };
    let mut system = System {
        id: value("ID"),
        id_like: value("ID_LIKE")
            .map(|like: String| like.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        version_id: value("VERSION_ID"),
        name: value("PRETTY_NAME").or_else(|| value("NAME")),
        architecture: PROGRAMS
            .iter()
            .find_map(|path| guest.bytes(path, MOST_PROGRAM))
            .and_then(|program| architecture(&program)),
        hostname: guest.line("/etc/hostname").or_else(|| old_hostname(guest)),
        init: init(guest).map(str::to_owned),
        selinux: selinux(guest),
        package_manager: package_manager(guest).map(str::to_owned),
    };
    if system.id.is_none() {
        old_release(guest, &mut system);
    }
    system
}

/// Red Hat's until 7.
fn old_hostname(guest: &Guest<'_>) -> Option<String> {
    get(&assignments(&guest.text("/etc/sysconfig/network")?), "HOSTNAME")
}

/// Systems from before os-release (2012): "CentOS release 5.11 (Final)".
fn old_release(guest: &Guest<'_>, system: &mut System) {
    for (path, id, like) in [
        ("/etc/centos-release", "centos", "rhel"),
        ("/etc/redhat-release", "rhel", "fedora"),
        ("/etc/SuSE-release", "sles", "suse"),
        ("/etc/alpine-release", "alpine", ""),
        ("/etc/debian_version", "debian", ""),
    ] {
        let Some(line) = guest.line(path) else { continue };
        let id = if line.starts_with("CentOS") { "centos" } else { id };
        system.id = Some(id.to_owned());
        system.id_like = (!like.is_empty()).then(|| like.to_owned()).into_iter().collect();
        let number =
            line.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        system.version_id = number.map(str::to_owned);
        system.name = Some(if path.ends_with("debian_version") { format!("Debian {line}") } else { line });
        return;
    }
}

/// Which program is process 1, by files that only it has.
fn init(guest: &Guest<'_>) -> Option<&'static str> {
    for (path, name) in [
        ("/usr/lib/systemd/systemd", "systemd"),
        ("/lib/systemd/systemd", "systemd"),
        ("/sbin/openrc", "openrc"),
        ("/usr/sbin/openrc", "openrc"),
        ("/sbin/initctl", "upstart"),
        ("/etc/inittab", "sysvinit"),
    ] {
        if guest.exists(path) {
            // Alpine's inittab is read by busybox.
            let busybox =
                name == "sysvinit" && guest.exists("/bin/busybox") && !guest.exists("/sbin/telinit");
            return Some(if busybox { "busybox" } else { name });
        }
    }
    None
}

/// selinux(8): the mode in which /etc/selinux/config has it start.
fn selinux(guest: &Guest<'_>) -> Option<String> {
    let config =
        ["/etc/selinux/config", "/etc/sysconfig/selinux"].iter().find_map(|path| guest.text(path))?;
    get(&assignments(&config), "SELINUX").map(|mode| mode.to_ascii_lowercase())
}

/// Kernel arguments win over the configuration.
pub(super) fn selinux_by_arguments(system: &mut System, boot: &Boot) {
    let Some(entry) = boot.entries.iter().find(|entry| entry.default) else { return };
    for argument in &entry.arguments {
        let mode = match argument.as_str() {
            "selinux=0" => "disabled",
            "enforcing=0" => "permissive",
            _ => continue,
        };
        if system.selinux.as_deref().is_some_and(|known| known != "disabled") {
            system.selinux = Some(mode.to_owned());
        }
    }
}

fn package_manager(guest: &Guest<'_>) -> Option<&'static str> {
    [
        ("/var/lib/dpkg/status", "dpkg"),
        ("/var/lib/pacman/local", "pacman"),
        ("/lib/apk/db/installed", "apk"),
        ("/usr/lib/sysimage/rpm", "rpm"),
        ("/var/lib/rpm", "rpm"),
    ]
    .iter()
    .find(|(path, _)| guest.exists(path))
    .map(|(_, name)| *name)
}

/// Serial and virtual consoles: "ttyS0", "hvc0".
pub(super) fn consoles(guest: &Guest<'_>, boot: &Boot) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let serial = ["ttyS", "ttyAMA", "hvc", "xvc", "ttyUSB"];
        let known = found.iter().any(|known| known == name);
        if serial.iter().any(|prefix| name.starts_with(prefix)) && !known && found.len() < 32 {
            found.push(name.to_owned());
        }
    };
    for argument in boot.entries.iter().flat_map(|entry| &entry.arguments) {
        if let Some(console) = argument.strip_prefix("console=") {
            add(console.split(',').next().unwrap_or_default());
        }
    }
    for directory in ["/etc/systemd/system/getty.target.wants", "/etc/systemd/system/multi-user.target.wants"]
    {
        for name in guest.list(directory) {
            let unit = name.strip_prefix("serial-getty@").or_else(|| name.strip_prefix("getty@"));
            if let Some(console) = unit.and_then(|name| name.strip_suffix(".service")) {
                add(console);
            }
        }
    }
    // T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100
    for line in guest.text("/etc/inittab").unwrap_or_default().lines() {
        if !line.trim_start().starts_with('#') && line.contains("getty") {
            line.split([' ', '\t', ':', '/']).for_each(&mut add);
        }
    }
    // upstart: /etc/init/ttyS0.conf.
    for name in guest.list("/etc/init") {
        add(name.strip_suffix(".conf").unwrap_or_default());
    }
    found
}
