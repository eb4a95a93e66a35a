// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::ErrorKind;
use crate::partition::rewrite::{Options, Placement, TableRewrite, plan, trailing};

fn to(size: u64) -> Options {
    Options { size, sector_size: 512, ..Options::default() }
}

/// Does what a plan says, on a copy of the source cut or extended to the target's size.
fn apply(source: &Disk, options: &Options) -> (Disk, TableRewrite) {
    let rewrite = plan(source, options).unwrap_or_else(|error| panic!("{}", error.chain()));
    let target = Disk { sector_size: options.sector_size, ..source.copy() };
    target.resize(options.size);
    for &(at, len) in &rewrite.clear {
        target.write(at, &vec![0; len as usize]);
    }
    for (at, data) in &rewrite.writes {
        assert!(at.is_multiple_of(options.sector_size.into()));
        assert!(data.len().is_multiple_of(options.sector_size as usize));
        target.write(*at, data);
    }
    let table = target.read();
    let expected = |warning: &&String| !warning.contains("hybrid");
    assert_eq!(table.warnings.iter().filter(expected).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(table.partitions, rewrite.partitions);
    (target, rewrite)
}

fn refusal(source: &Disk, options: &Options) -> String {
    let error = plan(source, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
    error.chain()
}

fn sgdisk_is_content(disk: &Disk) {
    let output = disk.sgdisk(&["-v"]);
    assert!(output.contains("No problems found"), "{output}");
}

/// All that must not change: number, type, identity and name.
fn identities(disk: &Disk) -> Vec<impl Ord + std::fmt::Debug + use<>> {
    let mut all: Vec<_> = disk
        .read()
        .partitions
        .into_iter()
        .map(|part| (part.number, part.type_id, part.partuuid, part.name, part.bootable))
        .collect();
    all.sort();
    all
}

fn place(disk: &Disk, number: u32) -> (u64, u64) {
    let table = disk.read();
    let part = table.partitions.iter().find(|part| part.number == number).unwrap();
    (part.start, part.len)
}

/// Debian's classic layout: root, and an extended partition with swap, whose EBR stands two sectors before it.
fn classic() -> Disk {
    let disk = Disk::new(100 * MIB, 512);
    disk.sfdisk(
        "label: dos\nlabel-id: 0x12345678\nstart=2048, size=80M, type=83, bootable\n\
         start=169982, size=32770, type=5\nstart=169984, size=32768, type=82\n",
    );
    let boot_code: Vec<u8> = (0..440).map(|index| index as u8 | 1).collect();
    disk.write(0, &boot_code);
    disk
}

#[test]
fn a_rewrite_without_change_is_identical() {
    let hybrid = cloud();
    hybrid.write(0, &[0x90; 440]);
    hybrid.sgdisk(&["-h", "15:1"]);
    let fourk = Disk::new(100 * MIB, 4096);
    fourk.parted(&["mklabel", "gpt", "mkpart", "one", "1MiB", "40MiB", "mkpart", "two", "40MiB", "100%"]);
    let fourk_mbr = Disk::new(100 * MIB, 4096);
    let commands = "mklabel msdos mkpart primary 1MiB 9MiB mkpart extended 9MiB 90MiB mkpart logical 10MiB 20MiB \
                    mkpart logical 30MiB 40MiB";
    fourk_mbr.parted(&commands.split_whitespace().collect::<Vec<_>>());
    let fdisk = Disk::new(100 * MIB + 512 * 7, 512);
    fdisk.sfdisk("label: gpt\nsize=20M, attrs=\"RequiredPartition LegacyBIOSBootable\"\nname=last\n");
    let moved = Disk::new(100 * MIB, 512);
    moved.sgdisk(&["-j", "1000", "-n0:0:+10M"]);
    let long = Disk::new(100 * MIB, 512);
    long.sgdisk(&["-S", "130", "-n0:0:+10M"]);
    for disk in [
        cloud(),
        hybrid,
        fourk,
        fourk_mbr,
        fdisk,
        moved,
        long,
        classic(),
        mbr::with_logicals(0),
        mbr::with_logicals(56),
    ] {
        let options = Options { size: disk.size(), sector_size: disk.sector_size, ..Options::default() };
        let (target, rewrite) = apply(&disk, &options);
        assert_eq!(rewrite.clear, []);
        assert_eq!(rewrite.notes, [""; 0]);
        for at in (0..disk.size()).step_by(MIB as usize) {
            let len = MIB.min(disk.size() - at) as usize;
            assert!(target.bytes(at, len) == disk.bytes(at, len), "the MiB at {at} differs");
        }
    }
}

#[test]
fn a_gpt_follows_the_end_of_the_disk() {
    let hybrid = cloud();
    hybrid.sgdisk(&["-h", "15:1"]);
    // Its backup stands in the middle of the free space.
    let (enlarged, _) = apply(&cloud(), &to(90 * MIB));
    enlarged.resize(100 * MIB);
    let no_primary = cloud();
    no_primary.write(512, &[0; 4096]);
    let no_backup = cloud();
    no_backup.write(100 * MIB - 4096, &[0; 4096]);
    for disk in [cloud(), hybrid, enlarged, no_primary, no_backup] {
        let before = identities(&disk);
        for size in [62 * MIB, 70 * MIB, 100 * MIB, 150 * MIB + 512, 3 << 40] {
            let (target, rewrite) = apply(&disk, &to(size));
            sgdisk_is_content(&target);
            assert_eq!(identities(&target), before);
            assert_eq!(ours(&target.read()), ours(&disk.read()));
            assert_eq!(target.bytes(0, 440), disk.bytes(0, 440));
            // No second GPT is left anywhere.
            let old = if size > 100 * MIB { [90 * MIB - 512, 100 * MIB - 512] } else { [size - 512; 2] };
            assert!(size <= 100 * MIB || old.iter().all(|&at| target.bytes(at, 8) != b"EFI PART"), "{size}");
            assert!(rewrite.clear.iter().all(|&(start, _)| start >= 61 * MIB));
        }
        let protective = plan(&disk, &to(3 << 40)).unwrap().writes[0].1[446..510].to_vec();
        assert!(protective.chunks(16).any(|entry| entry[4] == 0xee));
    }
    let plain = plan(&cloud(), &to(3 << 40)).unwrap().writes[0].1[446..462].to_vec();
    assert_eq!(plain[12..], [0xff; 4], "2^32 sectors and more are clamped");
}

#[test]
fn a_smaller_disk_is_refused_by_how_many_bytes() {
    let disk = cloud();
    // The last partition ends at 61 MiB; behind it 33 sectors are needed.
    plan(&disk, &to(61 * MIB + 33 * 512)).unwrap();
    let text = refusal(&disk, &to(61 * MIB + 32 * 512));
    assert!(text.contains("too small by 512 bytes: partition 1 ends"), "{text}");
    assert!(text.contains(&format!("({} bytes) is needed", 61 * MIB + 33 * 512)), "{text}");
    let text = refusal(&classic(), &to(90 * MIB));
    assert!(text.contains("too small by") && text.contains("partition 5"), "{text}");
}

#[test]
fn the_last_partition_grows_to_the_last_whole_mib() {
    let disk = cloud();
    let (target, rewrite) = apply(&disk, &Options { grow_last: true, ..to(200 * MIB) });
    sgdisk_is_content(&target);
    assert_eq!(place(&target, 1), (29 * MIB, 170 * MIB));
    assert_eq!(identities(&target), identities(&disk));
    assert!(rewrite.notes.iter().any(|note| note.contains("partition 1 grows")), "{:?}", rewrite.notes);
    // The old backup lies within the grown partition now, and is cleared.
    assert!(rewrite.clear.contains(&(100 * MIB - 33 * 512, 33 * 512)), "{:?}", rewrite.clear);

    let swap_last = Disk::new(100 * MIB, 512);
    swap_last.sgdisk(&["-n1:0:+50M", "-n2:0:+20M", "-t2:8200", "-c2:swap"]);
    let table = swap_last.read();
    assert_eq!(trailing(&table.partitions), [2]);
    let (target, rewrite) = apply(&swap_last, &Options { grow_last: true, ..to(200 * MIB) });
    assert_eq!(ours(&target.read()), ours(&table));
    assert!(rewrite.notes.iter().any(|note| note.contains("not grown: it is swap")), "{:?}", rewrite.notes);
    for (size, root, swap) in [
        (200 * MIB, (MIB, 178 * MIB), (179 * MIB, 20 * MIB)),
        (71 * MIB + 512 * 40, (MIB, 50 * MIB), (51 * MIB, 20 * MIB)),
    ] {
        let (target, _) = apply(&swap_last, &Options { grow_last: true, move_to_end: vec![2], ..to(size) });
        sgdisk_is_content(&target);
        assert_eq!((place(&target, 1), place(&target, 2)), (root, swap));
        assert_eq!(identities(&target), identities(&swap_last));
    }
    // An ESP behind the swap, as a change of firmware makes it: both go, in their order.
    let esp_last = Disk::new(100 * MIB, 512);
    esp_last.sgdisk(&["-n1:0:+50M", "-n2:0:+20M", "-t2:8200", "-n3:0:+10M", "-t3:ef00"]);
    assert_eq!(trailing(&esp_last.read().partitions), [3, 2]);
    let options = Options { grow_last: true, move_to_end: vec![3, 2], ..to(200 * MIB) };
    let (target, _) = apply(&esp_last, &options);
    sgdisk_is_content(&target);
    assert_eq!(place(&target, 1), (MIB, 168 * MIB));
    assert_eq!((place(&target, 2), place(&target, 3)), ((169 * MIB, 20 * MIB), (189 * MIB, 10 * MIB)));
    refusal(&esp_last, &Options { move_to_end: vec![2, 3], ..to(200 * MIB) });
    refusal(&swap_last, &Options { move_to_end: vec![1], ..to(200 * MIB) });
    let usage = plan(&swap_last, &Options { move_to_end: vec![9], ..to(200 * MIB) }).unwrap_err();
    assert_eq!(usage.kind(), ErrorKind::Usage);
}

fn sfdisk_is_content(disk: &Disk) {
    let (status, output) = attempt("sfdisk", &["--verify", text(&disk.path())], "");
    assert!(status && output.contains("No errors detected"), "{output}");
    assert_eq!(ours(&disk.read()), sfdisk_sees(disk));
}

#[test]
fn a_logical_swap_moves_with_its_boot_record_and_its_container() {
    let disk = classic();
    let table = disk.read();
    assert_eq!(trailing(&table.partitions), [5]);
    let (target, rewrite) = apply(&disk, &Options { grow_last: true, move_to_end: vec![5], ..to(300 * MIB) });
    sfdisk_is_content(&target);
    assert_eq!(place(&target, 5), (284 * MIB, 16 * MIB));
    assert_eq!(place(&target, 2), (284 * MIB - 1024, 16 * MIB + 1024));
    assert_eq!(place(&target, 1), (MIB, 282 * MIB));
    assert_eq!(identities(&target), identities(&disk));
    assert_eq!(target.bytes(0, 446), disk.bytes(0, 446));
    assert_eq!(rewrite.clear, [(169_982 * 512, 512)]);

    // Several logical partitions: the container grows, the last but one of them grows, the last moves.
    let several = mbr::with_logicals(3);
    let (target, _) = apply(&several, &Options { grow_last: true, move_to_end: vec![7], ..to(300 * MIB) });
    sfdisk_is_content(&target);
    assert_eq!(place(&target, 7), (299 * MIB, MIB));
    assert_eq!(place(&target, 6), (34 * MIB, 264 * MIB));
    assert_eq!(place(&target, 5), place(&several, 5));

    let (target, _) = apply(&several, &Options { grow_last: true, ..to(300 * MIB) });
    sfdisk_is_content(&target);
    assert_eq!(place(&target, 7), (36 * MIB, 264 * MIB));
    // The container's free end is given up where the target is smaller.
    let (target, rewrite) = apply(&several, &to(38 * MIB));
    sfdisk_is_content(&target);
    assert!(rewrite.notes.iter().any(|note| note.contains("extended partition 3")), "{:?}", rewrite.notes);

    // A first logical partition that has others behind it.
    let text = refusal(&several, &Options { move_to_end: vec![5], ..to(300 * MIB) });
    assert!(text.contains("not the last one"), "{text}");
    let placements = vec![Placement { number: 5, start: Some(60 * MIB), len: None }];
    let text = refusal(&several, &Options { placements, ..to(300 * MIB) });
    assert!(text.contains("before its start"), "{text}");
}

#[test]
fn an_mbr_ends_at_two_to_the_32_sectors() {
    let disk = Disk::new(100 * MIB, 512);
    disk.sfdisk("label: dos\nsize=20M\nsize=20M\n");
    let options = Options { grow_last: true, ..to(3 << 40) };
    let (target, rewrite) = apply(&disk, &options);
    assert_eq!(place(&target, 2), (21 * MIB, (2 << 40) - 21 * MIB));
    assert!(rewrite.notes.iter().any(|note| note.contains("1.0 TiB")), "{:?}", rewrite.notes);
    assert_eq!(ours(&target.read()), sfdisk_sees(&target));
    let placements = vec![Placement { number: 2, start: Some(10 * MIB), len: Some(10 * MIB) }];
    let text = refusal(&disk, &Options { placements, ..options });
    assert!(text.contains("overlap partition 1"), "{text}");
}

#[test]
fn a_table_is_translated_between_sector_sizes_and_back() {
    let hybrid = cloud();
    hybrid.sgdisk(&["-h", "15:1"]);
    for disk in [cloud(), hybrid, classic(), mbr::with_logicals(5)] {
        let size = disk.size();
        let (large, rewrite) = apply(&disk, &Options { size, sector_size: 4096, ..Options::default() });
        assert!(rewrite.notes.iter().any(|note| note.contains("BIOS")), "{:?}", rewrite.notes);
        let table = large.read();
        assert_eq!(table.sector_size, 4096);
        assert_eq!(identities(&large), identities(&disk));
        assert_eq!(places(&table), parted_sees(&large));
        let content = |disk: &Disk| -> Vec<_> {
            let mut parts = disk.read().partitions;
            parts.retain(|part| part.role != Role::Extended);
            parts
        };
        assert_eq!(content(&large), content(&disk));
        assert_ne!(large.bytes(512, 8), b"EFI PART", "the table for 512-byte sectors is gone");

        let (back, _) = apply(&large, &Options { size, sector_size: 512, ..Options::default() });
        assert_eq!(content(&back), content(&disk));
        assert_eq!(identities(&back), identities(&disk));
        assert_ne!(back.bytes(4096, 8), b"EFI PART", "the table for 4096-byte sectors is gone");
        if table.kind == crate::partition::TableKind::Gpt {
            sgdisk_is_content(&back);
        } else {
            sfdisk_is_content(&back);
        }
    }
    let odd = Disk::new(100 * MIB, 512);
    odd.sgdisk(&["-a1", "-n1:2048:8191", "-n2:8193:16392"]);
    let text = refusal(&odd, &Options { size: 100 * MIB, sector_size: 4096, ..Options::default() });
    assert!(text.contains("partition 2 starts at byte 4194816"), "{text}");
}

#[test]
fn a_broken_chain_is_only_kept() {
    let disk = mbr::with_logicals(4);
    let ebr = disk.read().metadata[3].0;
    disk.write(ebr + 510, &[0; 2]);
    let same = plan(&disk, &to(disk.size())).unwrap();
    assert_eq!(same.clear, []);
    for (at, data) in same.writes {
        assert_eq!(disk.bytes(at, data.len()), data);
    }
    refusal(&disk, &Options { grow_last: true, ..to(300 * MIB) });
    refusal(&disk, &to(60 * MIB));
}

/// sgdisk learns the sector size from the device only.
#[test]
fn sgdisk_is_content_with_a_rewritten_disk_of_4096_byte_sectors() {
    struct Loop(String);
    impl Drop for Loop {
        fn drop(&mut self) {
            attempt("losetup", &["--detach", &self.0], "");
        }
    }
    let disk = cloud();
    let options = Options { size: 150 * MIB, sector_size: 4096, grow_last: true, ..Options::default() };
    let (target, _) = apply(&disk, &options);
    let path = target.path();
    let (status, output) =
        attempt("losetup", &["--find", "--show", "--sector-size", "4096", text(&path)], "");
    if !status {
        println!("skipped: needs root to attach a loop device: {output}");
        return;
    }
    let device = Loop(output.trim().to_owned());
    let output = run("sgdisk", &["-v", &device.0], "");
    assert!(output.contains("No problems found"), "{output}");
    let output = run("sgdisk", &["-p", &device.0], "");
    assert!(output.contains("Sector size (logical): 4096") || output.contains("4096/"), "{output}");
}
