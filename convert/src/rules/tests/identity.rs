// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::inspection::{Loader, LoaderKind};

const OLD: &str = "0123456789abcdef0123456789abcdef";

fn debian() -> Guest {
    let mut guest = Guest::new(&[
        ("/etc/machine-id", &format!("{OLD}\n")),
        ("/var/lib/dbus/machine-id", "-> /etc/machine-id"),
        ("/etc/ssh/ssh_host_ed25519_key", "secret"),
        ("/etc/ssh/ssh_host_ed25519_key.pub", "public"),
        ("/etc/ssh/sshd_config", "Port 22\n"),
        ("/usr/bin/ssh-keygen", "x"),
        ("/usr/lib/systemd/systemd", "x"),
        ("/var/lib/systemd/random-seed", "seed"),
        ("/var/lib/dhcp/dhclient.eth0.leases", "lease {}\n"),
        ("/var/lib/dhcp/dhcpd.conf", "not a lease\n"),
        ("/etc/iscsi/initiatorname.iscsi", "## comment\nInitiatorName=iqn.1993-08.org.debian:01:aaaa\n"),
        ("/etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:x\n"),
        ("/etc/hostid", "abcd"),
    ]);
    guest.request.identity = Identity::Clone;
    guest
}

#[test]
fn a_clone_shares_nothing_that_it_is_known_by() {
    let guest = debian();
    let outcome = guest.plan();
    let id = outcome.text("/etc/machine-id");
    assert!(id.len() == 33 && id.trim_end() != OLD && id.as_bytes()[12] == b'4', "{id}");
    for path in [
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/var/lib/systemd/random-seed",
        "/var/lib/dhcp/dhclient.eth0.leases",
    ] {
        assert_eq!(outcome.text(path), "(removed)");
    }
    for path in ["/var/lib/dhcp/dhcpd.conf", "/etc/ssh/sshd_config", "/var/lib/dbus/machine-id"] {
        assert!(!outcome.files.contains_key(path), "{path}");
    }
    let iscsi = outcome.text("/etc/iscsi/initiatorname.iscsi");
    assert!(
        iscsi.starts_with("## comment\nInitiatorName=iqn.1993-08.org.debian:01:") && !iscsi.contains("aaaa"),
        "{iscsi}"
    );
    assert_ne!(outcome.text("/etc/nvme/hostnqn"), "nqn.2014-08.org.nvmexpress:uuid:x\n");
    assert!(!outcome.files.contains_key("/etc/kernel/entry-token"));
    assert!(outcome.finding("host name").remedy.is_some());

    // A function of the seed alone.
    assert_eq!(guest.plan().files, outcome.files);
    let mut other = debian();
    other.request.seed = [8; 32];
    assert_ne!(other.plan().text("/etc/machine-id"), id);

    let mut moved = debian();
    moved.request.identity = Identity::Move;
    assert!(moved.plan().files.is_empty());
}

#[test]
fn host_keys_are_made_anew_where_the_distribution_does_not() {
    let outcome = debian().plan();
    let unit = outcome.text("/etc/systemd/system/unmoor-ssh-keys.service");
    assert_eq!(
        outcome.text("/etc/systemd/system/multi-user.target.wants/unmoor-ssh-keys.service"),
        "-> ../unmoor-ssh-keys.service"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unmoor-ssh-keys.service");
    // The program is the guest's; the verifier looks at this machine.
    fs::write(&path, unit.replace("/usr/bin/ssh-keygen", "/bin/true")).unwrap();
    ask("systemd", "systemd-analyze", &["verify", "--man=no", path.to_str().unwrap()]);

    let guest = debian();
    put(guest.folder.path(), "/usr/lib/systemd/system/sshd-keygen@.service", "x");
    assert!(!guest.plan().files.contains_key("/etc/systemd/system/unmoor-ssh-keys.service"));
}

#[test]
fn boot_entries_keep_their_token_or_follow_the_machine_id() {
    let entry = format!("/efi/loader/entries/{OLD}-6.1.conf");
    let mut guest = Guest::new(&[("/etc/machine-id", OLD), (&entry, "title x\n")]);
    guest.request.identity = Identity::Clone;
    let outcome = guest.plan();
    assert_eq!(outcome.text("/etc/kernel/entry-token"), format!("{OLD}\n"));
    assert!(!outcome.files.contains_key(&entry));

    let entry = format!("/boot/loader/entries/{OLD}-6.1.conf");
    let mut block = format!("# GRUB Environment Block\nsaved_entry={OLD}-6.1\n");
    block.push_str(&"#".repeat(1024 - block.len()));
    let mut guest =
        Guest::new(&[("/etc/machine-id", OLD), (&entry, "title x\n"), ("/boot/grub2/grubenv", &block)]);
    guest.inspection.boot.loaders.push(Loader {
        kind: LoaderKind::Grub2,
        firmware: Firmware::Bios,
        config: None,
        binaries: Vec::new(),
        shim: false,
    });
    guest.request.identity = Identity::Clone;
    let outcome = guest.plan();
    let new = outcome.text("/etc/machine-id").trim_end().to_owned();
    assert_eq!(outcome.text(&entry), "(removed)");
    assert_eq!(outcome.text(&format!("/boot/loader/entries/{new}-6.1.conf")), "title x\n");
    let grubenv = outcome.text("/boot/grub2/grubenv");
    assert!(grubenv.contains(&format!("saved_entry={new}-6.1\n")) && grubenv.len() == 1024);
}
