// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::partition::TableKind;

/// Primary, swap, and a container of `count` logical partitions.
pub(super) fn with_logicals(count: usize) -> Disk {
    let disk = Disk::new((64 + 2 * count as u64) * MIB, 512);
    let mut script =
        "label: dos\nlabel-id: 0xdeadbee5\nsize=20M, type=83, bootable\nsize=10M, type=ef\ntype=5\n"
            .to_owned();
    for _ in 0..count {
        script.push_str("size=1M, type=83\n");
    }
    disk.sfdisk(&script);
    disk
}

#[test]
fn sixty_logical_partitions_are_read_as_sfdisk_reads_them() {
    for count in [0, 1, 2, 56] {
        let disk = with_logicals(count);
        let table = disk.read();
        assert_eq!((table.kind, table.disk_id.as_deref()), (TableKind::Mbr, Some("deadbee5")));
        assert_eq!(ours(&table), sfdisk_sees(&disk), "{count}");
        assert_eq!(table.metadata.len(), 1 + count.max(1), "{count}");
        assert_eq!(table.warnings, [""; 0]);
        let roles: Vec<_> = table.partitions.iter().take(3).map(|part| (part.role, part.bootable)).collect();
        assert_eq!(roles, [(Role::Content, true), (Role::Esp, false), (Role::Extended, false)]);
        let gaps = gaps(&table, disk.size());
        assert_eq!(gaps[0], Gap { range: 0..MIB, kind: GapKind::BootArea });
        let ebrs = gaps.iter().filter(|gap| gap.kind == GapKind::BootArea).skip(1);
        assert!(ebrs.clone().all(|gap| gap.range.end - gap.range.start == 512));
        assert_eq!(ebrs.count(), count.max(1));
    }

    let disk = with_logicals(56);
    let table = disk.read();
    let mut file = File::open(disk.path()).unwrap();
    let second = mbrman::MBR::read_from(&mut file, 512).unwrap();
    let mut theirs: Vec<_> = second
        .iter()
        .filter(|(_, part)| part.is_used())
        .map(|(number, part)| {
            (number as u32, u64::from(part.starting_lba) * 512, u64::from(part.sectors) * 512)
        })
        .collect();
    theirs.sort_unstable();
    assert_eq!(places(&table), theirs);
}

#[test]
fn logical_partitions_keep_linux_numbers_when_the_chain_is_out_of_order() {
    let disk = with_logicals(6);
    run("sfdisk", &["--delete", "--quiet", "--no-reread", text(&disk.path()), "6", "8"], "");
    run(
        "sfdisk",
        &["--append", "--quiet", "--no-reread", text(&disk.path())],
        "start=34M, size=1M, type=83
",
    );
    let table = disk.read();
    assert_eq!(table.partitions.iter().filter(|part| part.number > 4).count(), 5);
    assert_eq!(ours(&table), sfdisk_sees(&disk));
    assert!(!ours(&table).is_sorted_by_key(|part| part.1), "the last of the chain lies before others");
}

#[test]
fn a_broken_chain_ends_and_its_container_is_kept_whole() {
    let good = with_logicals(6);
    let table = good.read();
    let ebr = |number| table.metadata[number as usize - 4].0;
    let container = table.partitions.iter().find(|part| part.role == Role::Extended).unwrap();
    let start_of = |number| table.partitions.iter().find(|part| part.number == number).unwrap().start;
    let relative = |at: u64| (((at - container.start) / 512) as u32).to_le_bytes();

    type Damage<'a> = Box<dyn Fn(&Disk) + 'a>;
    let cases: [(&str, Damage<'_>, usize); 4] = [
        // The second EBR leads back to itself, or to the first.
        ("circle", Box::new(|disk| disk.write(ebr(6) + 446 + 16 + 8, &relative(ebr(6)))), 2),
        ("circle", Box::new(|disk| disk.write(ebr(7) + 446 + 16 + 8, &relative(ebr(5)))), 3),
        ("signature", Box::new(|disk| disk.write(ebr(8) + 510, &[0; 2])), 3),
        ("only", Box::new(|disk| disk.write(ebr(7) + 446 + 16 + 8, &[0xff; 4])), 3),
    ];
    for (word, damage, found) in cases {
        let disk = good.copy();
        damage(&disk);
        let table = disk.read();
        assert_eq!(table.partitions.len(), 3 + found, "{word}: {:?}", table.partitions);
        warned(&table, "broken");
        let range = container.start..container.start + container.len;
        let free = gaps(&table, disk.size()).into_iter().filter(|gap| {
            gap.kind == GapKind::Gap && gap.range.start < range.end && gap.range.end > range.start
        });
        assert_eq!(free.collect::<Vec<_>>(), [], "{word}");
        assert!(start_of(10) < range.end);
    }
}

#[test]
fn partitions_that_overlap_or_leave_the_disk_are_told() {
    let disk = with_logicals(2);
    disk.write(446 + 16 + 8, &((10 * MIB / 512) as u32).to_le_bytes());
    warned(&disk.read(), "partition 2 overlaps partition 1");

    disk.resize(33 * MIB);
    let table = disk.read();
    warned(&table, "partition 3 ends");
    assert!(table.partitions.iter().all(|part| part.start + part.len <= 33 * MIB));
}

#[test]
fn free_space_far_before_the_first_partition_is_no_boot_area() {
    let disk = Disk::new(200 * MIB, 512);
    disk.sfdisk("label: dos\nstart=100M, size=10M\nstart=150M, type=5\nstart=160M, size=1M\n");
    let mut table = disk.read();
    let kinds = |table: &PartitionTable| -> Vec<(u64, u64, GapKind)> {
        gaps(table, disk.size()).into_iter().map(|gap| (gap.range.start, gap.range.end, gap.kind)).collect()
    };
    let (boot, gap) = (GapKind::BootArea, GapKind::Gap);
    assert_eq!(
        kinds(&table),
        [
            (0, 16 * MIB, boot),
            (16 * MIB, 100 * MIB, gap),
            (110 * MIB, 150 * MIB, gap),
            (150 * MIB, 150 * MIB + 512, boot),
            (150 * MIB + 512, 160 * MIB, gap),
            (161 * MIB, 200 * MIB, gap),
        ]
    );
    table.kind = TableKind::None;
    assert_eq!(kinds(&table), []);
}
