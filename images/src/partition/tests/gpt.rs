// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::partition::TableKind;

#[test]
fn a_cloud_image_is_read_as_other_tools_read_it() {
    let disk = cloud();
    let table = disk.read();
    assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, 512));
    assert_eq!(ours(&table), sfdisk_sees(&disk));
    assert_eq!(table.warnings, [""; 0]);
    let by_number = |number| table.partitions.iter().find(|part| part.number == number).unwrap();
    assert_eq!(by_number(14).role, Role::BiosBoot);
    assert_eq!(by_number(15).role, Role::Esp);
    assert_eq!(by_number(1).name.as_deref(), Some("Wurzel ä€"));
    assert!(by_number(1).bootable && !by_number(3).bootable);
    assert!(table.partitions.is_sorted_by_key(|part| part.start));
    let identity = disk.sgdisk(&["-p"]).to_lowercase();
    assert!(identity.contains(table.disk_id.as_deref().unwrap()), "{identity}");

    let end = 100 * MIB;
    let array = 128 * 128;
    assert_eq!(
        table.metadata,
        [(0, 512), (512, 512), (1024, array), (end - 512 - array, array), (end - 512, 512)]
    );
    let first_content = by_number(15).start;
    assert_eq!(first_content, 5 * MIB);
    let tail = by_number(1).start + by_number(1).len;
    assert_eq!(
        gaps(&table, end),
        [
            Gap { range: 0..first_content, kind: GapKind::BootArea },
            Gap { range: tail..end - 33 * 512, kind: GapKind::Gap },
            Gap { range: end - 33 * 512..end, kind: GapKind::BootArea },
        ]
    );

    let mut file = File::open(disk.path()).unwrap();
    let second = gptman::GPT::read_from(&mut file, 512).unwrap();
    let theirs: Vec<_> = second
        .iter()
        .filter(|(_, part)| part.is_used())
        .map(|(number, part)| (number, part.starting_lba * 512, part.size().unwrap() * 512))
        .collect();
    assert_eq!(places(&table), theirs);
}

#[test]
fn a_damaged_primary_is_replaced_by_the_backup() {
    let disk = cloud();
    let good = ours(&disk.read());
    type Damage = fn(&Disk);
    let cases: [(&str, Damage); 6] = [
        ("checksum", |disk| disk.flip(512 + 56)),
        ("no signature", |disk| disk.write(512, &[0; 512])),
        ("entries", |disk| disk.flip(1024 + 40)),
        ("no signature", |disk| disk.write(512, &[0; 33 * 512])),
        ("belongs elsewhere", |disk| {
            // A backup header copied over the primary.
            let backup = disk.bytes(100 * MIB - 512, 512);
            disk.write(512, &backup);
        }),
        // The disk grew and then lost its primary's checksum: only that header says where the backup is.
        ("checksum", |disk| {
            disk.resize(200 * MIB);
            disk.flip(512 + 40);
        }),
    ];
    for (word, damage) in cases {
        let disk = disk.copy();
        damage(&disk);
        let table = disk.read();
        assert_eq!(ours(&table), good, "{word}");
        warned(&table, "the backup is used");
        warned(&table, word);
    }
}

#[test]
fn a_damaged_backup_is_told_and_two_damaged_copies_are_no_table() {
    let disk = cloud();
    let good = ours(&disk.read());
    disk.write(100 * MIB - 512, &[0; 512]);
    let table = disk.read();
    assert_eq!(ours(&table), good);
    warned(&table, "backup GPT cannot be used");

    disk.flip(1024);
    let table = disk.read();
    assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 0));
    warned(&table, "neither copy");
}

#[test]
fn a_disk_that_changed_its_size_keeps_its_partitions() {
    let disk = cloud();
    let good = disk.read();
    disk.resize(150 * MIB);
    let table = disk.read();
    assert_eq!(ours(&table), ours(&good));
    warned(&table, "not at the end");
    assert_eq!(table.metadata, good.metadata);

    // An image that was cut in the middle of the last partition.
    disk.resize(40 * MIB);
    let table = disk.read();
    warned(&table, "larger disk");
    warned(&table, "partition 1 ends");
    assert_eq!(table.partitions.len(), 4);
}

#[test]
fn a_table_for_other_sectors_is_found_and_told() {
    let disk = Disk::new(100 * MIB, 4096);
    disk.parted(&["mklabel", "gpt", "mkpart", "one", "1MiB", "40MiB", "mkpart", "two", "40MiB", "100%"]);
    let table = disk.read();
    assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, 4096));
    assert_eq!(places(&table), parted_sees(&disk));
    assert_eq!(table.warnings, [""; 0]);
    assert_eq!(table.metadata[..3], [(0, 4096), (4096, 4096), (8192, 16384)]);

    let image = Disk { sector_size: 512, ..disk };
    let seen = image.read();
    assert_eq!(ours(&seen), ours(&table));
    warned(&seen, "table is for 4096-byte sectors");

    let wrong = Disk { sector_size: 4096, ..cloud() };
    let table = wrong.read();
    assert_eq!((table.sector_size, table.partitions.len()), (512, 4));
    warned(&table, "table is for 512-byte sectors");
}

#[test]
fn a_hybrid_mbr_is_told_and_a_gpt_without_protection_is_ignored() {
    let disk = cloud();
    let good = ours(&disk.read());
    disk.sgdisk(&["-h", "15:1"]);
    let table = disk.read();
    assert_eq!(ours(&table), good);
    warned(&table, "hybrid");

    disk.write(446, &[0; 66]);
    let table = disk.read();
    assert_eq!(table.kind, TableKind::None);
    warned(&table, "no protective MBR");
}

#[test]
fn an_array_moved_up_or_longer_than_usual_is_read() {
    for arguments in [["-S", "200"], ["-j", "1000"]] {
        let disk = Disk::new(100 * MIB, 512);
        disk.sgdisk(&[&arguments[..], &["-n0:0:+10M", "-n0:0:+10M"]].concat());
        let table = disk.read();
        assert_eq!(places(&table), parted_sees(&disk), "{arguments:?}");
        assert_eq!(table.warnings, [""; 0]);
    }
}
