// SPDX-License-Identifier: Apache-2.0
//! What a plan changes, and what it refuses.

use unmoor_images::manifest::Firmware;
use unmoor_images::partition::Role;

use super::machine::{MIB, Machine, ROOT, SWAP, bios_guest, entry, exists, partition_file, request};
use super::{payload, run, text};
use crate::inspection::Layer;
use crate::plan::{Plan, Severity};

fn refusals(plan: &Plan) -> String {
    let errors = plan.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.text.as_str()).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_mbr_becomes_a_gpt_with_room_from_swap_and_every_reference_follows() {
    let machine = bios_guest("unused");
    machine.put(
        "etc/default/grub",
        "GRUB_CMDLINE_LINUX=\"root=PARTUUID=1234abcd-01 resume=PARTUUID=1234ABCD-05\"\n",
    );
    machine.put(
        "boot/grub/grub.cfg",
        "menuentry x {\n\tlinux16 /vmlinuz root=PARTUUID=1234abcd-01\n\tinitrd16 /initrd\n}\n",
    );
    machine.seal();
    let plan = machine.plan(&request(Firmware::Uefi, payload()), |_| {});
    assert_eq!(
        plan,
        machine.plan(&request(Firmware::Uefi, payload()), |_| {}),
        "a plan is a function of its inputs"
    );
    let saved = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&saved).unwrap(), plan);
    machine.apply(&plan);

    let verdict = run("gdisk", "sgdisk", &["-v", text(&machine.disk())]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    let table = machine.layout().table;
    let of = |number: u32| table.partitions.iter().find(|partition| partition.number == number).unwrap();
    assert_eq!((of(1).start, of(1).len), (MIB, 200 * MIB));
    // Swap keeps its number and its start, and gives up its end: the gap behind the last partition is too small.
    assert_eq!((of(5).start, of(5).len), (202 * MIB, 222 * MIB));
    let (esp, start) = partition_file(&machine, Role::Esp);
    assert_eq!((start, of(2).role), (424 * MIB, Role::Esp));
    assert_eq!(of(5).type_id, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");
    assert!(
        of(1).partuuid.as_deref().is_some_and(|id| id.len() == 36)
            && table.disk_id.is_some_and(|id| id.len() == 36)
    );

    run("dosfstools", "fsck.fat", &["-n", text(&esp)]);
    let listing = run("mtools", "mdir", &["-/", "-b", "-i", text(&esp), "::"]);
    for name in [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/grubx64.efi",
        "EFI/BOOT/mmx64.efi",
        "EFI/debian/shimx64.efi",
        "EFI/debian/grub.cfg",
    ] {
        assert!(listing.contains(&format!("::/{name}\n")), "{listing}");
    }
    let copied = machine.dir.path().join("shim");
    run("mtools", "mcopy", &["-i", text(&esp), "::/EFI/BOOT/BOOTX64.EFI", text(&copied)]);
    assert!(
        std::fs::read(copied).unwrap() == payload()["shim/shimx64.efi.signed"],
        "the signed shim is kept to the byte"
    );
    let stub = run("mtools", "mtype", &["-i", text(&esp), "::/EFI/debian/grub.cfg"]);
    assert!(
        stub.contains(&format!(
            "search.fs_uuid {ROOT} root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
        )),
        "{stub}"
    );
    let serial = run("util-linux", "blkid", &["-p", "-o", "value", "-s", "UUID", text(&esp)]);

    let swap = machine.extract(of(5).start, of(5).len);
    let swap = run("util-linux", "blkid", &["-p", "-o", "export", text(&swap)]);
    assert!(swap.contains(&format!("UUID={SWAP}")) && swap.contains("LABEL=swap"), "{swap}");
    let facts = machine.layout();
    let facts = facts
        .all_regions()
        .filter_map(|region| region.filesystem())
        .find(|facts| facts.kind.name() == "swap")
        .unwrap();
    assert_eq!(facts.size_bytes, of(5).len);

    let (one, five) = (of(1).partuuid.clone().unwrap(), of(5).partuuid.clone().unwrap());
    assert_eq!(
        machine.get("etc/fstab"),
        format!(
            "PARTUUID={one} / ext4 errors=remount-ro 0 1\nUUID={SWAP} none swap sw 0 0\nUUID={}  /boot/efi  vfat  umask=0077  0  1\n",
            serial.trim()
        )
    );
    assert_eq!(
        machine.get("etc/default/grub"),
        format!("GRUB_CMDLINE_LINUX=\"root=PARTUUID={one} resume=PARTUUID={five}\"\n")
    );
    assert_eq!(
        machine.get("boot/grub/grub.cfg"),
        format!("menuentry x {{\n\tlinux /vmlinuz root=PARTUUID={one}\n\tinitrd /initrd\n}}\n")
    );
    assert!(exists(&machine.files().join("boot/efi")));
    assert!(plan.capabilities.uefi && plan.capabilities.secure_boot);
    assert!(plan.findings.iter().any(|finding| {
        finding
            .remedy
            .as_deref()
            .is_some_and(|remedy| remedy.contains("apt-get install grub-efi-amd64 shim-signed"))
    }));
}

#[test]
fn a_gap_or_the_end_of_a_larger_disk_is_taken_before_swap_is() {
    let script = "label: dos\nlabel-id: 1\nstart=2048, size=100M, type=83\nstart=411648, size=99M, type=82\n";
    let machine = Machine::new(Firmware::Bios, 300 * MIB, script, 1, &[]);
    machine.put("boot/grub/grub.cfg", "x");
    machine.seal();
    let plan = machine.plan(&request(Firmware::Uefi, payload()), |_| {});
    machine.apply(&plan);
    let (_, start) = partition_file(&machine, Role::Esp);
    assert_eq!(start, 101 * MIB);
    let swap = machine.layout().table.partitions.iter().find(|partition| partition.number == 2).unwrap().len;
    // Its last sectors are the second copy's.
    assert_eq!(swap, 300 * MIB - 33 * 512 - 201 * MIB);

    let full =
        Machine::new(Firmware::Bios, 100 * MIB, "label: dos\nlabel-id: 1\nstart=2048, type=83\n", 1, &[]);
    full.put("boot/grub/grub.cfg", "x");
    full.seal();
    let text = refusals(&full.plan(&request(Firmware::Uefi, payload()), |_| {}));
    assert!(
        text.contains("a GPT needs the last 16896 bytes of the disk, and partition 1 takes 16896 of them"),
        "{text}"
    );
    std::fs::File::options().write(true).open(full.disk()).unwrap().set_len(101 * MIB).unwrap();
    let text = refusals(&full.plan(&request(Firmware::Uefi, payload()), |_| {}));
    assert!(text.contains("67108864 bytes are needed, the largest gap has 0, and swap can give up 0; 67108864 bytes are missing"), "{text}");
    std::fs::File::options().write(true).open(full.disk()).unwrap().set_len(170 * MIB).unwrap();
    full.apply(&full.plan(&request(Firmware::Uefi, payload()), |_| {}));
}

#[test]
fn what_cannot_start_is_refused_by_name() {
    let machine = bios_guest("unused");
    let plan = |payload, change: fn(&mut crate::inspection::Inspection)| {
        refusals(&machine.plan(&request(Firmware::Uefi, payload), change))
    };
    assert!(plan(Default::default(), |_| {}).contains("shim-signed and grub-efi-amd64-signed"));
    let text = plan(payload(), |guest| guest.system.architecture = Some("aarch64".to_owned()));
    assert!(text.contains("made for aarch64"), "{text}");

    machine.put("boot/config-1", "CONFIG_X=y\n");
    let text = plan(payload(), |guest| {
        guest.kernels.push(crate::inspection::Kernel {
            release: "1".to_owned(),
            image: None,
            modules: None,
            initramfs: Vec::new(),
            config: Some("/boot/config-1".to_owned()),
            bootable: true,
            special: None,
        });
    });
    assert!(text.contains("kernel 1 is built without CONFIG_EFI_STUB"), "{text}");

    std::fs::remove_file(machine.files().join("boot/grub/grub.cfg")).unwrap();
    let text = plan(payload(), |guest| guest.boot.entries.push(entry("uki", "/boot/uki.efi", "uki")));
    assert!(text.contains("unified kernel images start with UEFI only"), "{text}");

    let suspended = bios_guest("unused");
    let swap =
        suspended.layout().table.partitions.iter().find(|partition| partition.number == 5).unwrap().start;
    use std::os::unix::fs::FileExt;
    let disk = std::fs::File::options().write(true).open(suspended.disk()).unwrap();
    disk.write_all_at(b"SWAPSPACE2S1SUSPEND\0", swap + 4076).unwrap();
    let files = crate::files::Directory::open(&suspended.files()).unwrap();
    let source = suspended.source();
    let options = unmoor_images::layout::Options {
        hibernated: unmoor_images::layout::Hibernated::Keep,
        ..Default::default()
    };
    let layouts =
        unmoor_images::layout::analyze(&[&*source], &options, &unmoor_images::monitor::Silent).unwrap();
    let (inspection, devices) = bios_guest("unused").inspection();
    let mut draft = crate::plan::Draft::new(&files);
    let request = request(Firmware::Uefi, payload());
    crate::firmware::plan(
        &mut draft,
        &inspection,
        &devices,
        &[&*source],
        &layouts,
        &request,
        &Default::default(),
    )
    .unwrap();
    let text = refusals(&draft.finish());
    assert!(text.contains("a system is suspended onto it"), "{text}");
}

#[test]
fn entries_of_another_loader_become_a_menu_that_grub_reads() {
    let machine = bios_guest("unused");
    std::fs::remove_file(machine.files().join("boot/grub/grub.cfg")).unwrap();
    machine.put("boot/vm linuz", "kernel");
    machine.put("boot/vm linuz.initrd", "initrd");
    machine.seal();
    let plan = machine.plan(&request(Firmware::Uefi, payload()), |guest| {
        guest.boot.entries.push(entry("it's \"one\"", "/boot/vm linuz", "systemd-boot"));
        guest.boot.entries.push(entry("two", "/boot/uki.efi", "uki"));
    });
    machine.apply(&plan);
    let menu = machine.get("boot/grub/unmoor.cfg");
    assert!(menu.contains("set default=0\nmenuentry 'it'\\''s \"one\"' {\n"), "{menu}");
    assert!(
        menu.contains(&format!(
            "linux '/boot/vm linuz' root=UUID={ROOT} quiet\n  initrd '/boot/vm linuz.initrd'\n"
        )),
        "{menu}"
    );
    run("grub-common", "grub-script-check", &[text(&machine.files().join("boot/grub/unmoor.cfg"))]);
    assert!(plan.findings.iter().any(|finding| finding.text.contains("left out: two")));
    let (esp, _) = partition_file(&machine, Role::Esp);
    assert!(
        run("mtools", "mtype", &["-i", text(&esp), "::/EFI/BOOT/grub.cfg"])
            .contains("configfile $prefix/unmoor.cfg")
    );
}

#[test]
fn a_menu_in_a_btrfs_subvolume_or_in_luks_is_found_there() {
    let machine = bios_guest("unused");
    let (mut inspection, mut devices) = machine.inspection();
    devices.devices[0].kind = "btrfs".to_owned();
    inspection.fstab[0].options = "subvol=/@rootfs,noatime".to_owned();
    let on = crate::firmware::locate::on_device("/boot/grub/grub.cfg", &inspection, &devices).unwrap();
    assert_eq!(on.path, "/@rootfs/boot/grub/grub.cfg");
    assert_eq!(on.modules(), ["btrfs"]);
    inspection.root.push(Layer::Luks {
        uuid: Some("ab-cd".to_owned()),
        version: 2,
        unlock: Default::default(),
    });
    let on = crate::firmware::locate::on_device("/boot/grub/grub.cfg", &inspection, &devices).unwrap();
    let stub = crate::firmware::grub::config::stub(&on).unwrap();
    assert!(stub.contains("cryptomount -u abcd\nsearch.fs_uuid"), "{stub}");
    inspection.fstab[0].mountpoint = "/boot".to_owned();
    let on = crate::firmware::locate::on_device("/boot/grub/grub.cfg", &inspection, &devices).unwrap();
    assert_eq!((on.path.as_str(), on.luks), ("/@rootfs/grub/grub.cfg", None));
}

#[test]
fn a_bios_boot_partition_comes_before_the_first_partition_or_from_swap() {
    let gap = "label: gpt\nstart=2048, size=64M, type=U\nstart=133120, size=100M, type=L\n";
    // Some tools begin the first partition right behind the table.
    let full = "label: gpt\nfirst-lba: 34\nstart=34, size=131038, type=U\nstart=131072, size=100M, type=L\nstart=335872, type=S\n";
    for (script, expected) in [(gap, Some(34 * 512)), (full, None)] {
        let machine = Machine::new(Firmware::Uefi, 300 * MIB, script, 2, &[]);
        machine.put("boot/grub/grub.cfg", "linuxefi /vmlinuz\ninitrdefi /initrd\ninsmod efi_gop\n");
        machine.seal();
        let plan = machine.plan(&request(Firmware::Bios, payload()), |_| {});
        let before = machine.layout().table.partitions;
        machine.apply(&plan);
        let verdict = run("gdisk", "sgdisk", &["-v", text(&machine.disk())]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let after = machine.layout().table.partitions;
        let bios = after.iter().find(|partition| partition.role == Role::BiosBoot).unwrap();
        // From swap it is the last MiB of what the table leaves.
        assert_eq!(bios.start, expected.unwrap_or(bios.start / MIB * MIB), "{bios:?}");
        assert!(
            before
                .iter()
                .all(|old| after.iter().any(|new| new.partuuid == old.partuuid && new.start == old.start))
        );
        assert_eq!(machine.get("boot/grub/grub.cfg"), "linux /vmlinuz\ninitrd /initrd\ninsmod efi_gop\n");
        assert!(exists(&machine.files().join("boot/grub/i386-pc/normal.mod")));
        assert!(!plan.capabilities.uefi && !plan.capabilities.secure_boot);
    }
}
