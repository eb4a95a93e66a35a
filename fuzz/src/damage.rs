// SPDX-License-Identifier: Apache-2.0
//! Damage to disks: as a failing medium does it, and as somebody does it who knows where fields are.

use unmoor_images::BlockSource;

use crate::Target;
use crate::disk::{Disk, MOST_SIZE, Machine};
use crate::random::Random;
use crate::seeds::Seed;

/// The damaged input of round `number`: the same in the smoke test and in longer runs.
pub fn damaged(target: &Target, seed: &Seed, number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let mut machine = Machine::decode(&seed.data);
    damage(&mut machine, &mut random);
    if !random.once_in(8) {
        (target.seal)(&mut machine);
    }
    machine.encode()
}

/// One to four changes. Everything follows from `random`.
pub fn damage(machine: &mut Machine, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let index = random.index(machine.disks.len());
        match random.below(40) {
            0 => machine.choices = random.bits(),
            1 => {
                let size = sizes(machine.disks[index].size(), random);
                machine.disks[index].resize(size);
            }
            2 if machine.disks[index].size() <= 1 << 20 => shift(&mut machine.disks[index], random),
            3 if machine.disks.len() < 4 => {
                // The same disk twice, or one that lacks.
                let copy = Machine::decode(&machine.encode()).disks.swap_remove(index);
                machine.disks.push(copy);
            }
            4 if machine.disks.len() > 1 => drop(machine.disks.swap_remove(index)),
            _ => drop(change(&mut machine.disks[index], random)),
        }
    }
}

/// Changes bytes at one place that holds something. Returns where: (first byte, length).
pub fn change(disk: &mut Disk, random: &mut Random) -> Option<(u64, u64)> {
    let pages = disk.pages();
    // Most pages of a seed are alike (inode tables, content); the first of each kind are what readers follow.
    let page = match random.below(4) {
        0 => *pages.get(random.index(pages.len().min(4)))?,
        _ => *pages.get(random.index(pages.len()))?,
    };
    let (page, content) = (page * 4096, disk.peek(page * 4096, 4096));
    let filled: Vec<usize> = (0..4096).filter(|at| content[*at] != 0).collect();
    let width = random.of(&[1, 2, 4, 8]);
    let near = match random.below(4) {
        0 => random.index(4096),
        1 => random.index(256),
        // Fields lie at multiples of their width, mostly.
        _ => filled.get(random.index(filled.len())).map_or(0, |at| at / width * width),
    }
    .min(4096 - 8);
    let at = page + near as u64;
    let old = disk.number(at, width);
    let written = match random.below(16) {
        0..4 => vec![content[near] ^ 1 << random.below(8)],
        4..9 => number(old, width, disk.size(), random).to_le_bytes()[..width].to_vec(),
        9..11 => {
            let swapped = old.swap_bytes() >> (64 - 8 * width);
            let new = number(swapped, width, disk.size(), random) << (64 - 8 * width);
            new.to_be_bytes()[..width].to_vec()
        }
        11 => disk.peek(page + random.below(4096 - 8), width),
        12 => {
            // A structure in the place of another: loops and doubled blocks.
            let from = pages[random.index(pages.len())] * 4096;
            let len = random.of(&[512, 1024, 4096]);
            let copied = disk.peek(from + random.below(4096 / len as u64) * len as u64, len);
            let to = page + random.below(4096 / len as u64) * len as u64;
            disk.write(to, &copied);
            return Some((to, len as u64));
        }
        13 => vec![random.of(&[0, 0xff]); random.of(&[4, 16, 512])],
        14 => digits(&content, near, random),
        _ => (0..width).map(|_| random.bits() as u8).collect(),
    };
    disk.write(at, &written);
    Some((at, written.len() as u64))
}

/// Numbers at which arithmetic breaks, and neighbours of the one that stands there.
fn number(old: u64, width: usize, size: u64, random: &mut Random) -> u64 {
    let bits = 8 * width as u32;
    match random.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => (1 << (bits - 1)) - 1,
        4 => 1 << (bits - 1),
        5 => old.wrapping_add(1),
        6 => old.wrapping_sub(1),
        7 => old << random.below(8),
        8 => old >> random.below(8),
        9 => 1 << random.below(bits.into()),
        10 => size >> random.of(&[0, 9, 10, 12, 16]),
        _ => u64::MAX >> random.below(bits.into()),
    }
}

/// A run of decimal digits, as in LVM's text and JSON, as another number of the same length.
fn digits(content: &[u8], near: usize, random: &mut Random) -> Vec<u8> {
    let run = content[near..].iter().take_while(|byte| byte.is_ascii_digit()).count().clamp(1, 24);
    let text = random.of(&[
        "000000000000000000000000",
        "999999999999999999999999",
        "922337203685477580799999",
        "1    ",
    ]);
    text.bytes().take(run).collect()
}

/// Inserts or removes bytes.
fn shift(disk: &mut Disk, random: &mut Random) {
    let mut bytes = disk.peek(0, disk.size() as usize);
    let at = random.index(bytes.len() + 1);
    let len = 1 + random.index(8);
    if random.once_in(2) {
        bytes.drain(at..(at + len).min(bytes.len()));
    } else {
        let from = random.index(bytes.len() + 1);
        let copied = bytes[from..(from + len).min(bytes.len())].to_vec();
        bytes.splice(at..at, copied);
    }
    *disk = Disk::of(&bytes);
}

fn sizes(size: u64, random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(size + 1),
        1 => size.saturating_sub(random.below(1 << 16)),
        2 => size + random.below(1 << 16),
        3 => size / 2,
        4 => size * 2,
        5 => random.of(&[0, 1, 511, 512, 513, 4095, 4096, 65536]),
        // Rarely: walking large disks takes time.
        6 if random.once_in(8) => MOST_SIZE >> random.below(20),
        _ => size & !4095,
    }
}
