// SPDX-License-Identifier: Apache-2.0
//! Files that make this machine this one.

use super::guest::Guest;
use crate::inspection::IdentityFiles;

/// Single files.
const FILES: [&str; 22] = [
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
    "/boot/loader/random-seed",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/wicked/duid.xml",
    "/var/lib/wicked/iaid.xml",
    "/etc/dhcpcd.duid",
    "/var/lib/dhcpcd/duid",
    "/var/lib/dhcpcd/secret",
    "/etc/iscsi/initiatorname.iscsi",
    "/etc/nvme/hostnqn",
    "/etc/nvme/hostid",
    "/etc/hostid",
    "/etc/dropbear/dropbear_rsa_host_key",
    "/etc/dropbear/dropbear_ed25519_host_key",
    "/var/lib/cloud/data/instance-id",
    "/etc/multipath/wwids",
];
/// (directory, how names begin, how they end)
const PATTERNS: [(&str, &str, &str); 7] = [
    ("/etc/ssh", "ssh_host_", ""),
    ("/var/lib/dhcp", "", ".leases"),
    ("/var/lib/dhclient", "", ".leases"),
    ("/var/lib/NetworkManager", "", ".lease"),
    ("/var/lib/dhcpcd", "", ".lease"),
    ("/var/lib/wicked", "lease-", ".xml"),
    ("/var/lib/systemd/network", "", ""),
];

pub(super) fn read(guest: &Guest<'_>) -> IdentityFiles {
    let mut files: Vec<String> = FILES.iter().map(|path| (*path).to_owned()).collect();
    for (directory, begin, end) in PATTERNS {
        let named = |path: &String| path.rsplit('/').next().is_some_and(|name| name.starts_with(begin));
        files.extend(guest.files_in(directory, end).into_iter().filter(named));
    }
    // A link to /etc/machine-id is that.
    files.retain(|path| guest.is_file(path) && !guest.is_link(path));
    IdentityFiles { machine_id: guest.line("/etc/machine-id"), files }
}
