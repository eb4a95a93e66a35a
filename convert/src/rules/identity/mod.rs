// SPDX-License-Identifier: Apache-2.0
//! A clone is a second machine: what the first is known by is made anew. All of it is a function of the request's seed.
//!
//! Identities of disks (UUIDs of filesystems, partitions and volume groups) are [`crate::identity`]'s.

mod machine_id;

use unmoor_images::Result;

use super::text::{Text, lines};
use crate::files::{Files, Kind};
use crate::inspection::Inspection;
use crate::plan::{Draft, Severity};
use crate::request::{Identity, Request};

const RULE: &str = "identity";

/// Removed; what uses them makes them anew.
const REMOVED: [&str; 20] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/random-seed",
    "/var/lib/misc/random-seed",
    "/boot/efi/loader/random-seed",
    "/efi/loader/random-seed",
    "/boot/loader/random-seed",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/NetworkManager/seen-bssids",
    "/var/lib/wicked/duid.xml",
    "/var/lib/wicked/iaid.xml",
    "/etc/dhcpcd.duid",
    "/var/lib/dhcpcd/duid",
    "/var/lib/dhcpcd/secret",
    "/etc/dropbear/dropbear_rsa_host_key",
    "/etc/dropbear/dropbear_dss_host_key",
    "/etc/dropbear/dropbear_ecdsa_host_key",
    "/etc/dropbear/dropbear_ed25519_host_key",
    "/var/lib/dhcp/dhclient.duid",
    "/var/lib/dhcp6c/dhcp6c_duid",
];
/// (directory, how names begin, how they end)
const PATTERNS: [(&str, &str, &str); 9] = [
    ("/var/lib/dhcp", "dhclient", ".leases"),
    ("/var/lib/dhclient", "", ".leases"),
    ("/var/lib/dhclient", "", ".lease"),
    ("/var/lib/NetworkManager", "", ".lease"),
    ("/var/lib/NetworkManager", "dhclient", ".conf"),
    ("/var/lib/dhcpcd", "", ".lease"),
    ("/var/lib/dhcpcd", "", ".lease6"),
    ("/var/lib/wicked", "lease-", ".xml"),
    ("/var/lib/systemd/netif/leases", "", ""),
];

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, request: &Request) -> Result<()> {
    if request.identity == Identity::Move {
        return Ok(());
    }
    machine_id::plan(draft, inspection, &request.seed)?;
    ssh(draft)?;
    for path in REMOVED {
        remove(draft, path, "a clone has its own")?;
    }
    for (folder, begin, end) in PATTERNS {
        for name in draft.list(folder)? {
            if name.starts_with(begin) && name.ends_with(end) {
                remove(draft, &format!("{folder}/{name}"), "a clone asks for an address of its own")?;
            }
        }
    }
    storage(draft, &request.seed)?;
    draft.finding(
        Severity::Note,
        RULE,
        "the clone has its original's host name and static addresses",
        Some("change them before both are on one network".into()),
    );
    Ok(())
}

fn remove(draft: &mut Draft<'_>, path: &str, why: &str) -> Result<()> {
    match draft.link_metadata(path)?.map(|found| found.kind) {
        Some(Kind::File) => draft.remove(path, RULE, why),
        _ => Ok(()),
    }
}

/// 16 bytes that are a function of seed and purpose.
pub(super) fn derived(seed: &[u8; 32], purpose: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(purpose.as_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// A random UUID (RFC 9562, version 4) without dashes.
pub(super) fn uuid_digits(seed: &[u8; 32], purpose: &str) -> String {
    let mut bytes = derived(seed, purpose);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// With dashes.
pub(super) fn uuid(seed: &[u8; 32], purpose: &str) -> String {
    let digits = uuid_digits(seed, purpose);
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Host keys go. Red Hat's, SUSE's, Arch's and Alpine's sshd makes new ones when it starts; Debian's does so at the package's
/// installation only, so that a unit is left there which does it before sshd starts.
fn ssh(draft: &mut Draft<'_>) -> Result<()> {
    const UNIT: &str = "/etc/systemd/system/unmoor-ssh-keys.service";
    let mut any = false;
    for name in draft.list("/etc/ssh")? {
        let own = name.strip_prefix("ssh_host_").is_some_and(|rest| {
            let rest = rest.strip_suffix(".pub").or(rest.strip_suffix("-cert.pub")).unwrap_or(rest);
            rest.ends_with("_key") || rest.ends_with("key-cert")
        });
        if own {
            any = true;
            remove(draft, &format!("/etc/ssh/{name}"), "a clone has its own host keys")?;
        }
    }
    if !any {
        return Ok(());
    }
    let mut program = None;
    for path in ["/usr/bin/ssh-keygen", "/bin/ssh-keygen"] {
        if program.is_none() && draft.exists(path)? {
            program = Some(path);
        }
    }
    let mut systemd = false;
    for path in ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"] {
        systemd |= draft.exists(path)?;
    }
    let mut makes_its_own = false;
    for path in [
        "/usr/lib/systemd/system/sshd-keygen@.service",
        "/usr/lib/systemd/system/sshd-keygen.service",
        "/usr/lib/systemd/system/sshdgenkeys.service",
        "/usr/sbin/sshd-gen-keys-start",
    ] {
        makes_its_own |= draft.exists(path)?;
    }
    let Some(program) = program.filter(|_| systemd && !makes_its_own) else {
        if !systemd {
            draft.finding(
                Severity::Warning,
                RULE,
                "the guest's SSH host keys are removed, and not every init script makes new ones",
                Some("if sshd does not start, run: ssh-keygen -A".into()),
            );
        }
        return Ok(());
    };
    let unit = format!(
        "# Made by unmoor: a clone gets host keys of its own before the SSH server starts.\n\
         [Unit]\nDescription=Make SSH host keys\nConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key\n\
         Before=ssh.service sshd.service ssh.socket sshd.socket\n\n\
         [Service]\nType=oneshot\nExecStart={program} -A\nRemainAfterExit=yes\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    let why = "Debian's SSH server does not make host keys by itself";
    draft.write(UNIT, unit.into_bytes(), RULE, why)?;
    draft.link(
        "/etc/systemd/system/multi-user.target.wants/unmoor-ssh-keys.service",
        "../unmoor-ssh-keys.service",
        RULE,
        why,
    )
}

/// Names by which storage knows the machine: two machines of one name destroy each other's sessions.
fn storage(draft: &mut Draft<'_>, seed: &[u8; 32]) -> Result<()> {
    const ISCSI: &str = "/etc/iscsi/initiatorname.iscsi";
    if let Some(file) = Text::read(draft, ISCSI)? {
        let mut pieces = Vec::new();
        for (start, line) in lines(&file.text) {
            let Some(name) = line.strip_prefix("InitiatorName=") else { continue };
            // iqn.1993-08.org.debian:01:0123456789ab: what follows the last colon is the machine's.
            let base = name.rsplit_once(':').map_or(name, |(base, _)| base);
            let own: String = uuid_digits(seed, "iscsi").chars().take(12).collect();
            pieces.push((start..start + line.len(), format!("InitiatorName={base}:{own}")));
        }
        file.write(draft, ISCSI, &pieces, RULE, "a clone has an initiator name of its own")?;
    }
    let host = uuid(seed, "nvme");
    for (path, content) in [
        ("/etc/nvme/hostnqn", format!("nqn.2014-08.org.nvmexpress:uuid:{host}\n")),
        ("/etc/nvme/hostid", format!("{host}\n")),
    ] {
        if draft.exists(path)? {
            draft.write(path, content.into_bytes(), RULE, "a clone has an NVMe host name of its own")?;
        }
    }
    if draft.metadata("/etc/hostid")?.is_some_and(|found| found.kind == Kind::File && found.size == 4) {
        let id = derived(seed, "hostid");
        let id: Vec<u8> = id.iter().copied().take(4).collect();
        draft.write("/etc/hostid", id, RULE, "a clone has a host id of its own")?;
    }
    Ok(())
}
