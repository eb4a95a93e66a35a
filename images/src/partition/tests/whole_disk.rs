// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::partition::TableKind;

#[test]
fn a_filesystem_on_the_whole_disk_is_no_table() {
    let makers: &[&[&str]] = &[
        &["mkfs.fat", "-F", "12", "-s", "64"],
        &["mkfs.fat", "-F", "16"],
        &["mkfs.fat", "-F", "32"],
        &["mkfs.fat", "-F", "32", "--mbr=y"],
        &["mkfs.fat", "-S", "4096"],
        &["mkntfs", "-Q", "-F"],
        &["mke2fs", "-q", "-F"],
    ];
    for maker in makers {
        let disk = Disk::new(64 * MIB, 512);
        run(maker[0], &[&maker[1..], &[text(&disk.path())]].concat(), "");
        let table = disk.read();
        assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 0), "{maker:?}");
        assert_eq!(gaps(&table, disk.size()), []);
    }
}

#[test]
fn boot_code_without_a_partition_is_no_table() {
    let disk = Disk::new(64 * MIB, 512);
    assert_eq!(disk.read().kind, TableKind::None);
    // extlinux or GRUB on an unpartitioned disk: code and a signature, no entries.
    run("mke2fs", &["-q", "-F", text(&disk.path())], "");
    disk.write(0, &[0xeb, 0x63, 0x90]);
    disk.write(510, &[0x55, 0xaa]);
    assert_eq!(disk.read().kind, TableKind::None);
    // Entries that make no sense on this disk, or that have impossible flags.
    for entry in [[0x80u8; 16], [0x41; 16]] {
        disk.write(446, &entry);
        assert_eq!(disk.read().kind, TableKind::None);
    }
    disk.resize(100);
    assert_eq!(disk.read().kind, TableKind::None);
}

#[test]
fn a_stale_backup_under_a_whole_disk_filesystem_is_no_table() {
    let disk = cloud();
    let (boot, backup) = (disk.bytes(0, 512), disk.bytes(100 * MIB - 33 * 512, 33 * 512));
    run("mke2fs", &["-q", "-F", text(&disk.path())], "");
    let table = disk.read();
    assert_eq!(table.kind, TableKind::None);
    // Even if the protective MBR and the backup survived, as they do where an image is copied onto the disk.
    disk.write(0, &boot);
    disk.write(100 * MIB - 33 * 512, &backup);
    let table = disk.read();
    assert_eq!(table.kind, TableKind::None);
    warned(&table, "ext filesystem");
}

#[test]
fn a_partitioned_disk_that_once_was_one_fat_is_a_table() {
    let disk = Disk::new(64 * MIB, 512);
    run("mkfs.fat", &["-F", "16", text(&disk.path())], "");
    let code = disk.bytes(0, 440);
    disk.sfdisk("label: dos\nsize=20M\nsize=20M\n");
    disk.write(0, &code);
    let table = disk.read();
    assert_eq!(table.kind, TableKind::Mbr);
    assert_eq!(ours(&table), sfdisk_sees(&disk));
}
