// SPDX-License-Identifier: Apache-2.0
//! A whole guest: found out about, planned for, changed, and changed back.
use super::*;
use crate::apply::{Options, UndoOptions, apply, undo};
use crate::inspect::inspect;
use crate::request::TargetNic;

fn picture(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_symlink() {
                all.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
            } else if path.is_dir() {
                left.push(path);
            } else {
                all.insert(name, String::from_utf8(fs::read(&path).unwrap()).unwrap());
            }
        }
    }
    all
}

#[test]
fn a_bullseye_that_names_its_disk_everywhere_is_fitted_and_taken_back() {
    let mut guest = Guest::new(&[
        ("/etc/os-release", "ID=debian\nVERSION_ID=\"11\"\nPRETTY_NAME=\"Debian GNU/Linux 11 (bullseye)\"\n"),
        ("/usr/bin/env", ""),
        ("/usr/lib/systemd/systemd", ""),
        ("/usr/lib/udev/rules.d/80-net-setup-link.rules", ""),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/etc/fstab", "/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sda5 none swap sw 0 0\n"),
        ("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n"),
        (
            "/etc/network/interfaces",
            "auto lo\niface lo inet loopback\n\nauto ens3\niface ens3 inet static\n  address 192.0.2.7/24\n",
        ),
        (
            "/etc/default/grub",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"resume=/dev/sda5 console=ttyS1\"\nGRUB_DISABLE_LINUX_UUID=true\n",
        ),
        (
            "/boot/grub/grub.cfg",
            "set default=\"0\"\nmenuentry 'Debian' {\n\tlinux /boot/vmlinuz-5.10.0-30-amd64 root=/dev/sda1 ro resume=/dev/sda5 console=ttyS1\n\tinitrd /boot/initrd.img-5.10.0-30-amd64\n}\n",
        ),
        ("/boot/vmlinuz-5.10.0-30-amd64", "kernel"),
        ("/boot/initrd.img-5.10.0-30-amd64", "070701x"),
        ("/usr/lib/modules/5.10.0-30-amd64/modules.dep", ""),
    ]);
    let directory = Directory::open(guest.folder.path()).unwrap();
    guest.inspection = inspect(&directory, &guest.devices, None).unwrap();
    guest.request.hardware.nics =
        vec![TargetNic { mac: Some("02:00:00:00:00:0a".into()), modalias: None, model: None }];
    let before = picture(guest.folder.path());
    let outcome = guest.plan();
    assert_eq!(outcome.worst(), Some(Severity::Note), "{:#?}", outcome.plan.findings);
    let saved = Plan::load(outcome.plan.to_json().unwrap().as_bytes()).unwrap();
    assert!(saved.show(&directory).unwrap().contains("\n-/dev/sda1 / ext4 errors=remount-ro 0 1\n"));
    apply(&saved, &directory, &Options { now: guest.request.now, ..Options::default() }).unwrap();

    let after = picture(guest.folder.path());
    for (path, text) in after.iter().filter(|(path, _)| !path.starts_with("var/lib/unmoor")) {
        assert!(!text.contains("/dev/sda") && !text.contains("ttyS1"), "{path}: {text}");
    }
    assert!(
        after["boot/grub/grub.cfg"]
            .contains(&format!("root=UUID={ROOT} ro resume=UUID={SWAP} console=ttyS0\n"))
    );
    assert!(after["etc/systemd/network/70-unmoor-ens3.link"].contains("MACAddress=02:00:00:00:00:0a\n"));
    // Found out about again, nothing is left to do.
    guest.inspection = inspect(&directory, &guest.devices, None).unwrap();
    assert_eq!(guest.plan().files, BTreeMap::new());

    undo(&directory, &UndoOptions::default()).unwrap();
    assert_eq!(picture(guest.folder.path()), before);
}
