// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::inspection::GuestTool;

#[test]
fn lvm_looks_at_all_disks_again_in_the_initramfs_too() {
    let conf = "config { checks = 1 }\ndevices {\n\t# filter = [ \"a|.*|\" ]\n\tfilter = [ \"a|^/dev/sda2$|\",\n\t\t\"r|.*|\" ]\n\tglobal_filter = [ \"r|/dev/drbd.*|\" ]\n\tissue_discards = 0\n}\n";
    let mut guest = Guest::new(&[
        (
            "/etc/lvm/devices/system.devices",
            "VERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=naa.5 DEVNAME=/dev/sda2 PVID=x\n",
        ),
        ("/etc/lvm/lvm.conf", conf),
        ("/etc/lvm/lvmlocal.conf", "local {\n}"),
        ("/etc/lvm/cache/.cache", "x"),
    ]);
    guest.inspection.lvm.devices_file = true;
    guest.inspection.lvm.lvmlockd = true;
    let outcome = guest.plan();
    assert_eq!(outcome.text("/etc/lvm/devices/system.devices"), "(removed)");
    assert_eq!(outcome.text("/etc/lvm/cache/.cache"), "(removed)");
    assert_eq!(
        outcome.text("/etc/lvm/lvm.conf"),
        conf.replace(
            "\tfilter = [ \"a|^/dev/sda2$|\",\n\t\t\"r|.*|\" ]",
            "# \tfilter = [ \"a|^/dev/sda2$|\",\n# \t\t\"r|.*|\" ]"
        )
    );
    assert_eq!(
        outcome.initramfs["/etc/lvm/lvmlocal.conf"],
        "local {\n}\ndevices {\n\tuse_devicesfile = 0\n}\n"
    );
    assert_eq!(outcome.finding("use_lvmlockd").severity, Severity::Warning);

    // LVM itself reads both files, and has no filter.
    let etc = guest.folder.path().join("lvm");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("lvm.conf"), outcome.text("/etc/lvm/lvm.conf")).unwrap();
    fs::write(etc.join("lvmlocal.conf"), &outcome.initramfs["/etc/lvm/lvmlocal.conf"]).unwrap();
    let script = format!("LVM_SYSTEM_DIR={} lvmconfig --type full devices 2>/dev/null", etc.display());
    let seen = ask("lvm2", "sh", &["-c", &script]);
    assert!(
        seen.contains("use_devicesfile=0") && seen.contains("global_filter=\"r|/dev/drbd.*|\""),
        "{seen}"
    );
    assert!(seen.contains("issue_discards=0") && !seen.contains("sda2"), "{seen}");
}

#[test]
fn a_filter_s_end_is_not_a_bracket_within_its_patterns_or_comments() {
    let cases = [
        ("\tfilter = [ \"a|/dev/sd[ab]|\", \"r|.*|\" ]\n\tx = 1\n", 1),
        ("\tfilter = [\n\t\t# not ] yet\n\t\t\"a|/dev/sd[ab][0-9]|\", \"r|.*|\"\n\t]\n\tx = 1\n", 4),
        ("\tglobal_filter = \"a|/dev/vd[a-z]|\"\n\tx = 1\n", 1),
        ("\tdevices/filter = [ \"a|/dev/disk/by-id/ata-.*|\" ] # ours\n\tx = 1\n", 1),
    ];
    for (text, commented) in cases {
        let whole = format!("devices {{\n{text}}}\n");
        let outcome = Guest::new(&[("/etc/lvm/lvm.conf", &whole)]).plan();
        let new = outcome.text("/etc/lvm/lvm.conf");
        assert_eq!(new.lines().filter(|line| line.starts_with("# ")).count(), commented, "{new}");
        assert!(new.contains("\n\tx = 1\n"), "{new}");
        assert_eq!(new.replace("\n# ", "\n"), whole);
    }
    // What takes all disks, or names none, stays; so does what never ends.
    for text in [
        "filter = [ \"a|.*|\" ]\n",
        "filter = [ \"r|/dev/drbd[0-9]|\" ]\n",
        "filter = [ \"a|/dev/mapper/|\n",
        "filter =",
    ] {
        assert!(Guest::new(&[("/etc/lvm/lvm.conf", text)]).plan().files.is_empty(), "{text}");
    }
    // LVM reads what is left.
    let folder = tempfile::tempdir().unwrap();
    let outcome = Guest::new(&[(
        "/etc/lvm/lvm.conf",
        &format!("devices {{\n{}}}\n", cases[1].0.replace("\tx = 1\n", "")),
    )])
    .plan();
    fs::write(folder.path().join("lvm.conf"), outcome.text("/etc/lvm/lvm.conf")).unwrap();
    let script = format!("LVM_SYSTEM_DIR={} lvmconfig --type current", folder.path().display());
    assert!(!ask("lvm2", "sh", &["-c", &script]).contains("filter"));
}

#[test]
fn patterns_of_devices_are_names_of_hardware_unless_they_take_every_bus() {
    for (line, wanted) in [
        ("DEVICE /dev/sd*", true),
        ("DEVICE /dev/sd[abc]1 /dev/sdd1", true),
        ("DEVICE /dev/disk/by-id/ata-*-part1", true),
        ("DEVICE /dev/[sh]d*", true),
        ("DEVICE partitions", false),
        ("DEVICE /dev/*", false),
        ("DEVICE /dev/md?", false),
        ("DEVICE containers /dev/mapper/*", false),
    ] {
        let outcome = Guest::new(&[("/etc/mdadm/mdadm.conf", &format!("{line}\n"))]).plan();
        let changed = outcome.files.get("/etc/mdadm/mdadm.conf").map(String::as_str);
        assert_eq!(changed, wanted.then_some("DEVICE partitions containers\n"), "{line}");
    }
}

#[test]
fn arrays_are_found_by_uuid() {
    let guest = Guest::new(&[(
        "/etc/mdadm/mdadm.conf",
        "DEVICE /dev/sda1 /dev/sdb1\nARRAY /dev/md0 devices=/dev/sda1,/dev/sdb1 UUID=1:2:3:4\nARRAY /dev/md1 devices=/dev/sda2,/dev/sdb2\nMAILADDR root\n",
    )]);
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/etc/mdadm/mdadm.conf"),
        "DEVICE partitions containers\nARRAY /dev/md0 UUID=1:2:3:4\nARRAY /dev/md1 devices=/dev/sda2,/dev/sdb2\nMAILADDR root\n"
    );
    assert!(outcome.finding("/dev/md1").remedy.is_some());
}

#[test]
fn multipath_names_are_forgotten_in_a_virtual_machine_and_kept_on_metal() {
    let mut guest = Guest::new(&[
        ("/etc/multipath/bindings", "mpatha 3600"),
        ("/etc/multipath/wwids", "/3600/"),
        ("/etc/fstab", "/dev/mapper/mpatha-part1 / ext4 x 0 1\n"),
    ]);
    guest.devices.devices[0].names.push("/dev/mapper/mpatha-part1".into());
    let outcome = guest.plan();
    assert_eq!(outcome.text("/etc/multipath/bindings"), "(removed)");
    assert_eq!(outcome.text("/etc/multipath/wwids"), "(removed)");
    assert!(outcome.text("/etc/fstab").starts_with(&format!("UUID={ROOT} ")));
    guest.request.hardware.hypervisor = None;
    let outcome = guest.plan();
    assert!(!outcome.files.contains_key("/etc/multipath/bindings"));
    assert_eq!(outcome.finding("multipath").severity, Severity::Note);
}

#[test]
fn logins_move_to_the_new_serial_console() {
    let tree: Tree<'_> = &[
        (
            "/etc/systemd/system/getty.target.wants/serial-getty@hvc0.service",
            "-> /usr/lib/systemd/system/serial-getty@.service",
        ),
        (
            "/etc/systemd/system/getty.target.wants/getty@tty1.service",
            "-> /usr/lib/systemd/system/getty@.service",
        ),
        (
            "/etc/inittab",
            "1:2345:respawn:/sbin/getty 38400 tty1\n#T0:23:respawn:/sbin/getty -L ttyS0 9600\nco:2345:respawn:/sbin/agetty xvc0 9600 vt100\n",
        ),
    ];
    let outcome = Guest::new(tree).plan();
    let wants = "/etc/systemd/system/getty.target.wants";
    assert_eq!(outcome.text(&format!("{wants}/serial-getty@hvc0.service")), "(removed)");
    assert_eq!(
        outcome.text(&format!("{wants}/serial-getty@ttyS0.service")),
        "-> /usr/lib/systemd/system/serial-getty@.service"
    );
    assert!(outcome.text("/etc/inittab").ends_with("\nco:2345:respawn:/sbin/agetty ttyS0 9600 vt100\n"));

    let mut guest = Guest::new(tree);
    guest.request.hardware.serial = None;
    let outcome = guest.plan();
    assert!(!outcome.files.contains_key(&format!("{wants}/serial-getty@ttyS0.service")));
    assert!(outcome.text("/etc/inittab").ends_with("\n#co:2345:respawn:/sbin/agetty xvc0 9600 vt100\n"));
}

#[test]
fn x_gets_a_driver_that_works_on_any_card() {
    let guest = Guest::new(&[
        (
            "/etc/X11/xorg.conf",
            "Section \"Device\"\n\tIdentifier \"Card0\"\n\tDriver  \"nvidia\"\n\tVendorName \"NVIDIA\"\n\tBusID \"PCI:1:0:0\"\nEndSection\nSection \"InputDevice\"\n\tDriver \"kbd\"\nEndSection\n",
        ),
        (
            "/etc/X11/xorg.conf.d/10-fb.conf",
            "Section \"Device\"\n\tDriver \"fbdev\"\n\tBusID \"PCI:1:0:0\"\nEndSection\n",
        ),
    ]);
    let outcome = guest.plan();
    assert_eq!(
        outcome.text("/etc/X11/xorg.conf"),
        "Section \"Device\"\n\tIdentifier \"Card0\"\n\tDriver  \"modesetting\"\n\t#VendorName \"NVIDIA\"\n\t#BusID \"PCI:1:0:0\"\nEndSection\nSection \"InputDevice\"\n\tDriver \"kbd\"\nEndSection\n"
    );
    assert_eq!(outcome.files.len(), 1);
}

#[test]
fn tools_of_another_hypervisor_are_disabled_and_those_of_the_new_one_stay() {
    let mut guest = Guest::new(&[
        (
            "/etc/systemd/system/multi-user.target.wants/open-vm-tools.service",
            "-> /lib/systemd/system/open-vm-tools.service",
        ),
        (
            "/etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service",
            "-> /lib/systemd/system/qemu-guest-agent.service",
        ),
        ("/usr/lib/systemd/system/multi-user.target.wants/vmblock.service", "-> ../vmblock.service"),
        ("/etc/rc2.d/S20vmware-tools", "-> ../init.d/vmware-tools"),
        ("/etc/runlevels/default/open-vm-tools", "-> /etc/init.d/open-vm-tools"),
    ]);
    let tool = |hypervisor: &str, name: &str, units: &[&str]| GuestTool {
        hypervisor: hypervisor.into(),
        name: name.into(),
        units: units.iter().map(|unit| (*unit).to_owned()).collect(),
    };
    guest.inspection.tools = vec![
        tool(
            "vmware",
            "open-vm-tools",
            &[
                "/etc/systemd/system/multi-user.target.wants/open-vm-tools.service",
                "/usr/lib/systemd/system/multi-user.target.wants/vmblock.service",
                "/etc/rc2.d/S20vmware-tools",
                "/etc/runlevels/default/open-vm-tools",
                "/etc/init/vmware-tools",
            ],
        ),
        tool(
            "kvm",
            "qemu-guest-agent",
            &["/etc/systemd/system/multi-user.target.wants/qemu-guest-agent.service"],
        ),
    ];
    let outcome = guest.plan();
    let wanted: BTreeMap<String, String> = [
        ("/etc/systemd/system/multi-user.target.wants/open-vm-tools.service", "(removed)"),
        ("/etc/systemd/system/vmblock.service", "-> /dev/null"),
        ("/etc/rc2.d/S20vmware-tools", "(removed)"),
        ("/etc/rc2.d/K01vmware-tools", "-> ../init.d/vmware-tools"),
        ("/etc/runlevels/default/open-vm-tools", "(removed)"),
        ("/etc/init/vmware-tools.override", "manual\n"),
    ]
    .map(|(path, content)| (path.to_owned(), content.to_owned()))
    .into();
    assert_eq!(outcome.files, wanted);
    assert_eq!(outcome.worst(), Some(Severity::Note));
}

#[test]
fn damaged_configuration_is_never_more_than_an_error() {
    let tree: Tree<'_> = &[
        ("/etc/fstab", "/dev/sda1 / ext4 defaults,journal_path=/dev/sda5 0 1\n/dev/sdq /x ext4 a 0 0\n"),
        ("/etc/crypttab", "a /dev/sda1 /key:/dev/sda5 luks\n"),
        (
            "/boot/grub/grub.cfg",
            "menuentry 'x' {\nlinux /v \"root=/dev/sda1\" resume=/dev/sdz console=ttyS3 cryptdevice=/dev/sda1:x ifname=e:52:54:00:00:00:01\ninitrd /i\n}\nset kernelopts=\"root=/dev/sda1\"\n",
        ),
        ("/boot/grub2/grubenv", "# GRUB Environment Block\nkernelopts=root=/dev/sda1\n####"),
        ("/etc/default/grub", "A='x' B=\"root=/dev/sda1 \\\" y\"\nexport C=d\nGRUB_DISABLE_UUID=true\n"),
        ("/boot/loader/entries/x.conf", "options root=/dev/sda1\ninitrd x\n"),
        ("/etc/lvm/lvm.conf", "filter=[\"a|/dev/sda|\"\n]\n"),
        ("/etc/mdadm.conf", "DEVICE /dev/sda1\nARRAY x devices=/dev/sda\n"),
        ("/etc/inittab", "a:1:r:/sbin/getty ttyS3\n"),
        ("/etc/X11/xorg.conf", "Section \"Device\"\nDriver \"x\"\nBusID \"y\"\nEndSection\n"),
        ("/var/cache/debconf/config.dat", "Name: grub-pc/install_devices\nValue: /dev/sda, /dev/sdb\n\n"),
        (
            "/etc/netplan/a.yaml",
            "network:\n  ethernets:\n    e:\n      match: {macaddress: '52:54:00:00:00:01'}\n",
        ),
        (
            "/etc/NetworkManager/system-connections/a",
            "[connection]\nid=a\n[ethernet]\nmac-address=52:54:00:00:00:01\n",
        ),
        ("/etc/systemd/network/a.network", "[Match]\nMACAddress=52:54:00:00:00:01\nPath=pci\n"),
        (
            "/etc/udev/rules.d/70-persistent-net.rules",
            "ATTR{address}==\"52:54:00:00:00:01\", NAME=\"eth0\"\n",
        ),
        ("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.x:1\n"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ];
    let mut guest = Guest::new(tree);
    guest.request.identity = Identity::Clone;
    guest.inspection.network.interfaces.push(crate::inspection::Interface {
        name: Some("eth0".into()),
        mac: Some("52:54:00:00:00:01".into()),
        ..Default::default()
    });
    assert!(guest.plan().files.len() >= tree.len());
    // A small generator (xorshift): the same damage in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..300 {
        for (path, content) in tree {
            let mut bytes = content.as_bytes().to_vec();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                match next(5) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, b"\"'\\=[]:# \n\t\0\xff\xc3"[next(14)]),
                    2 if !bytes.is_empty() => bytes[at] = next(256) as u8,
                    3 => {
                        let piece = bytes[at..].to_vec();
                        bytes.extend(piece);
                    }
                    _ if !bytes.is_empty() => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            fs::write(guest.folder.path().join(path.trim_start_matches('/')), bytes).unwrap();
        }
        guest.request.hardware.serial = [None, Some("ttyS0".to_owned())][round % 2].clone();
        if let Err(error) = guest.try_plan() {
            assert!(error.chain().len() < 4096);
        }
    }
}
