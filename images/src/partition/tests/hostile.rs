// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::partition::rewrite::{self, Options, Placement};

/// A disk in memory.
struct Bytes(Vec<u8>, u32);

impl BlockSource for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn sector_size(&self) -> u32 {
        self.1
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        crate::source::check_range(self.size(), offset, buf.len())?;
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

/// A small generator of its own, so that a failing seed can be run again (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % end.max(1)
    }
}

/// Makes the checksums of a GPT right again, so that what is under them reaches the parser.
fn seal(disk: &mut [u8], header: usize, sector: usize) {
    let field = |disk: &[u8], at: usize, len: usize| {
        disk[header + at..header + at + len].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let start = field(disk, 72, 8).checked_mul(sector as u64);
    let len = field(disk, 80, 4).checked_mul(field(disk, 84, 4));
    if let (Some(start), Some(len)) = (start, len)
        && let Some(entries) = start.checked_add(len).and_then(|end| disk.get(start as usize..end as usize))
    {
        let sum = crc32fast::hash(entries);
        disk[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
    }
    let size = (field(disk, 12, 4) as usize).min(sector);
    let sum = crate::partition::gpt::header_checksum(&disk[header..header + size]);
    disk[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn flipped_bytes_neither_panic_nor_leave_a_byte_unaccounted_for() {
    let fourk = Disk::new(24 * MIB, 4096);
    fourk.parted(&["mklabel", "gpt", "mkpart", "a", "1MiB", "9MiB", "mkpart", "b", "9MiB", "20MiB"]);
    let gpt = Disk::new(24 * MIB, 512);
    gpt.sgdisk(&["-n0:0:+4M", "-n0:0:+4M", "-t2:8200", "-n5:0:+4M", "-h", "1:2"]);
    let mbr = Disk::new(24 * MIB, 512);
    mbr.sfdisk("label: dos\nsize=4M\ntype=5\nsize=1M\nsize=1M\nsize=2M, type=82\n");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut answers = [0u32; 4];
    for (disk, rounds) in [(&gpt, 2500), (&fourk, 1500), (&mbr, 2500)] {
        let sector = disk.sector_size as usize;
        let table = disk.read();
        let mut source = Bytes(disk.bytes(0, 24 << 20), disk.sector_size);
        for round in 0..rounds {
            let mut undo = Vec::new();
            for &(start, len) in &table.metadata {
                undo.push((start as usize, source.0[start as usize..(start + len) as usize].to_vec()));
            }
            for _ in 0..1 + random.below(4) {
                let (start, len) = table.metadata[random.below(table.metadata.len() as u64) as usize];
                // Mostly where the fields are: entries of boot records, headers, the first entries of an array.
                let within = match (random.below(8), len) {
                    (0, _) => random.below(len),
                    (_, 0..=4096) if table.kind == crate::partition::TableKind::Mbr || start == 0 => {
                        446 + random.below(66)
                    }
                    (_, 0..=4096) => random.below(92),
                    _ => random.below(5 * 128),
                };
                let byte = &mut source.0[(start + within) as usize];
                *byte = match random.below(3) {
                    0 => *byte ^ 1 << random.below(8),
                    1 => 0xff,
                    _ => random.below(256) as u8,
                };
            }
            if table.kind == crate::partition::TableKind::Gpt && round % 4 != 0 {
                seal(&mut source.0, sector, sector);
                let last = source.0.len() - sector;
                seal(&mut source.0, last, sector);
            }
            let found = read(&source).unwrap();
            assert!(found.warnings.len() <= 40);
            check_cover(&found, source.size());
            let options = Options {
                size: [8, 24, 24, 40, 4 << 20][random.below(5) as usize] * MIB + random.below(3) * 512,
                sector_size: [512, 4096][random.below(2) as usize],
                grow_last: random.below(2) == 0,
                move_to_end: (0..random.below(3)).map(|_| random.below(8) as u32).collect(),
                placements: (0..random.below(2))
                    .map(|_| Placement {
                        number: random.below(8) as u32,
                        start: Some(random.below(1 << 26) & !4095),
                        len: (random.below(2) == 0).then(|| random.below(1 << 26) & !511),
                    })
                    .collect(),
            };
            match rewrite::plan(&source, &options) {
                Ok(plan) => {
                    answers[0] += 1;
                    let end = |&(at, ref data): &(u64, Vec<u8>)| at + data.len() as u64;
                    assert!(plan.writes.iter().all(|write| end(write) <= options.size));
                }
                Err(error) => match error.kind() {
                    crate::ErrorKind::Refused => answers[1] += 1,
                    crate::ErrorKind::Usage => answers[2] += 1,
                    _ => {
                        answers[3] += 1;
                        println!("{}", error.chain());
                    }
                },
            }
            for (start, bytes) in undo {
                source.0[start..start + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    println!("planned, refused, usage, other: {answers:?}");
    assert!(answers[0] > 200 && answers[1] > 200 && answers[3] == 0, "{answers:?}");
}

#[test]
fn a_million_entries_or_a_thousand_warnings_are_bounded() {
    let disk = cloud();
    let mut source = Bytes(disk.bytes(0, 100 << 20), 512);
    // An array of 4 GiB: refused before anything is allocated.
    source.0[512 + 80..512 + 84].copy_from_slice(&u32::MAX.to_le_bytes());
    seal(&mut source.0, 512, 512);
    let table = read(&source).unwrap();
    warned(&table, "number of entries");
    assert_eq!(table.partitions.len(), 4);

    // 4 MiB of partitions that all say the same.
    let entry = source.0[1024..1152].to_vec();
    source.0[512 + 80..512 + 84].copy_from_slice(&32768u32.to_le_bytes());
    for index in 0..32768 {
        source.0[1024 + index * 128..1024 + (index + 1) * 128].copy_from_slice(&entry);
    }
    seal(&mut source.0, 512, 512);
    let table = read(&source).unwrap();
    check_cover(&table, source.size());
    assert_eq!(table.partitions.len(), 32768);
    assert!(table.warnings.len() < 30, "{:?}", table.warnings.len());
}

#[test]
fn damaged_chains_are_read_as_libblkid_reads_them() {
    let disk = Disk::new(24 * MIB, 512);
    disk.sfdisk("label: dos\nsize=4M\ntype=5\nsize=1M\nsize=1M\nsize=2M\nsize=1M\n");
    let table = disk.read();
    let clean: Vec<_> = table.metadata.iter().map(|&(at, len)| (at, disk.bytes(at, len as usize))).collect();
    let mut random = Random(42);
    let mut compared = 0;
    for _ in 0..160 {
        for (at, bytes) in &clean {
            disk.write(*at, bytes);
        }
        for _ in 0..1 + random.below(3) {
            let (at, bytes) = &clean[random.below(clean.len() as u64) as usize];
            // Type, low bytes of start and count: changes that leave most of the table sensible.
            let field = [4, 8, 9, 12, 13][random.below(5) as usize];
            let within = 446 + 16 * random.below(4) + field;
            let value = [0, 1, 5, bytes[within as usize] ^ 8][random.below(4) as usize];
            disk.write(at + within, &[value]);
        }
        let table = disk.read();
        // Where we warn we may differ. libblkid drops a partition whose start is taken; Linux does not.
        let twice = table.partitions.array_windows().any(|[one, next]| one.start == next.start);
        if !table.warnings.is_empty() || twice {
            continue;
        }
        let output = run("partx", &["-g", "-b", "-o", "NR,START,SECTORS", "-s", text(&disk.path())], "");
        let mut theirs: Vec<(u32, u64, u64)> = output
            .lines()
            .map(|line| {
                let mut fields = line.split_whitespace().map(|field| field.parse::<u64>().unwrap());
                let mut next = || fields.next().unwrap();
                (next() as u32, next() * 512, next() * 512)
            })
            .collect();
        theirs.sort_unstable();
        let mut ours = places(&table);
        // partx gives a container its true size, not the one sector that the kernel shows.
        ours.sort_unstable();
        assert_eq!(ours, theirs, "{:?}", table.partitions);
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
}
