// SPDX-License-Identifier: Apache-2.0
//! Partitions added and MBRs that become GPTs, judged by sgdisk, sfdisk and gptman.

use super::*;
use crate::ErrorKind;
use crate::partition::TableKind;
use crate::partition::rewrite::{BIOS_BOOT, ESP, Extension, NewPartition, TableRewrite, to_gpt};

fn extension(size: u64) -> Extension {
    let guids = (1..=128).map(|number: u32| (number, [number as u8; 16])).collect();
    Extension { size, disk_guid: *b"a disk's own id.", guids, ..Extension::default() }
}

fn new(range: std::ops::Range<u64>, type_id: &str, name: &str) -> NewPartition {
    NewPartition { number: None, range, type_id: type_id.to_owned(), guid: [0xE5; 16], name: name.to_owned() }
}

fn apply(source: &Disk, extension: &Extension) -> (Disk, TableRewrite) {
    let rewrite = to_gpt(source, extension).unwrap_or_else(|error| panic!("{}", error.chain()));
    let target = source.copy();
    target.resize(extension.size);
    for &(at, len) in &rewrite.clear {
        target.write(at, &vec![0; len as usize]);
    }
    for (at, data) in &rewrite.writes {
        target.write(*at, data);
    }
    let table = target.read();
    assert_eq!(table.kind, TableKind::Gpt);
    assert_eq!(table.warnings, [""; 0]);
    assert_eq!(table.partitions, rewrite.partitions);
    if source.sector_size == 512 {
        let verdict = target.sgdisk(&["-v"]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        assert_eq!(ours(&table), sfdisk_sees(&target));
    }
    let mut file = File::open(target.path()).unwrap();
    let second = gptman::GPT::read_from(&mut file, source.sector_size.into()).unwrap();
    assert_eq!(second.iter().filter(|(_, entry)| entry.is_used()).count(), table.partitions.len());
    (target, rewrite)
}

#[test]
fn an_mbr_becomes_a_gpt_with_the_same_numbers_places_and_content() {
    for count in [0, 1, 5, 56] {
        let disk = mbr::with_logicals(count);
        disk.resize(disk.size() + MIB);
        let before = disk.read();
        let (target, _) = apply(&disk, &extension(disk.size()));
        let after = target.read();
        let places = |table: &PartitionTable| -> Vec<_> {
            let content = table.partitions.iter().filter(|part| part.role != Role::Extended);
            content.map(|part| (part.number, part.start, part.len)).collect()
        };
        assert_eq!(places(&before), places(&after));
        assert!(after.partitions.iter().all(|part| part.number != 3), "the container vanishes");
        let root = &after.partitions[0];
        assert_eq!(root.type_id, "0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(root.partuuid.as_deref(), Some("01010101-0101-0101-0101-010101010101"));
        assert_eq!(root.name.as_deref(), Some("Linux filesystem"));
        assert_eq!(after.partitions[1].role, Role::Esp);
        // Nothing of the chain of EBRs is left to be found.
        for &(at, _) in before.metadata.iter().skip(1) {
            assert_eq!(target.bytes(at, 512), [0; 512]);
        }
    }
}

#[test]
fn new_partitions_stand_in_gaps_and_in_what_swap_gave_up() {
    let disk = Disk::new(300 * MIB, 512);
    disk.sfdisk(
        "label: dos\nlabel-id: 0x12345678\nstart=2048, size=100M, type=83, bootable\nstart=206848, size=150M, type=82\n",
    );
    disk.write(0, &[0x90; 440]);
    let mut wanted = extension(disk.size());
    wanted.shorten = vec![(2, 86 * MIB)];
    wanted.add = vec![
        new(187 * MIB..251 * MIB, ESP, "EFI system partition"),
        new(34 * 512..MIB, BIOS_BOOT, "BIOS boot partition"),
    ];
    wanted.boot_code = Some(vec![0x66; 440]);
    let (target, rewrite) = apply(&disk, &wanted);
    let numbers: Vec<_> =
        rewrite.partitions.iter().map(|part| (part.number, part.start, part.role)).collect();
    assert_eq!(
        numbers,
        [
            (4, 34 * 512, Role::BiosBoot),
            (1, MIB, Role::Content),
            (2, 101 * MIB, Role::Content),
            (3, 187 * MIB, Role::Esp)
        ]
    );
    assert_eq!(target.bytes(0, 440), [0x66; 440]);

    // A GPT is extended as well; everything else of it stays, on a larger disk too.
    let gpt = cloud();
    let mut wanted = extension(gpt.size() + 70 * MIB);
    wanted.add = vec![new(gpt.size()..gpt.size() + 64 * MIB, ESP, "second")];
    let (target, _) = apply(&gpt, &wanted);
    for old in gpt.read().partitions {
        assert!(target.read().partitions.contains(&old), "{old:?}");
    }
    let fourk = Disk::new(100 * MIB, 4096);
    fourk.parted(&["mklabel", "gpt", "mkpart", "one", "1MiB", "40MiB"]);
    let mut wanted = extension(fourk.size());
    wanted.add = vec![new(40 * MIB..90 * MIB, ESP, "esp")];
    apply(&fourk, &wanted);
}

#[test]
fn what_does_not_fit_is_refused_by_bytes() {
    let disk = Disk::new(100 * MIB, 512);
    disk.sfdisk("label: dos\nstart=2048, type=83\n");
    let error = to_gpt(&disk, &extension(disk.size())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.chain().contains("ends 16.5 KiB (16896 bytes) too late"), "{}", error.chain());
    let larger = extension(disk.size() + 16896);
    disk.resize(larger.size);
    apply(&disk, &larger);

    let early = Disk::new(100 * MIB, 512);
    early.sfdisk("label: dos\nstart=8, size=2048, type=83\n");
    let error = to_gpt(&early, &extension(early.size())).unwrap_err();
    assert!(error.chain().contains("partition 1 begins 13.0 KiB (13312 bytes) before"), "{}", error.chain());

    let mut overlapping = extension(disk.size());
    overlapping.add = vec![new(MIB..2 * MIB, ESP, "esp")];
    assert_eq!(to_gpt(&disk, &overlapping).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(to_gpt(&Disk::new(MIB, 512), &extension(MIB)).unwrap_err().kind(), ErrorKind::Usage);
}
