// SPDX-License-Identifier: Apache-2.0
//! The limit: reading, hashing, compressing and writing the same used bytes, each by itself on all cores.
//!
//! Hashing and compressing are measured on evenly spaced MiBs, 1 GiB in all, held in memory, and scaled to all used bytes;
//! reading and writing are done in full.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::measure::{Figures, warm};
use crate::run::{Result, While, output};

const SLAB: usize = 1 << 20;
const CLUSTER: usize = 64 << 10;
const LEAF: usize = 256 << 10;
/// What `--compress default` is.
const LEVEL: i32 = 1;

/// The used ranges of a disk, cut into pieces of at most 1 MiB.
pub(super) struct Used {
    pieces: Vec<(u64, usize)>,
    pub(super) bytes: u64,
}

impl Used {
    /// As `unmoor dev show extents` prints them.
    pub(super) fn of(unmoor: &Path, disk: &Path) -> Result<Self> {
        let text = output(std::process::Command::new(unmoor).args(["dev", "show", "extents"]).arg(disk))?;
        let mut used = Self { pieces: Vec::new(), bytes: 0 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(start), Some(len), Some("Data")) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let start =
                u64::from_str_radix(start.trim_start_matches("0x"), 16).while_doing("reading extents")?;
            let len: u64 = len.parse().while_doing("reading extents")?;
            used.bytes += len;
            for at in (start..start + len).step_by(SLAB) {
                used.pieces.push((at, SLAB.min((start + len - at) as usize)));
            }
        }
        Ok(used)
    }
}

/// Measures the stages and holds our capture against their sum.
pub(super) fn compare(used: &Used, disk: &Path, folder: &Path, ours: &Figures) -> Result {
    warm(disk)?;
    let file = File::open(disk).while_doing("opening the disk")?;
    let reading = on_all_cores(used.pieces.len(), |index, buffer: &mut Vec<u8>| {
        if let Some((at, len)) = used.pieces.get(index) {
            buffer.resize(*len, 0);
            let _ = file.read_exact_at(buffer, *at);
        }
    });
    let mut sample = Vec::new();
    let step = (used.pieces.len() / 1024).max(1);
    for (at, len) in used.pieces.iter().step_by(step) {
        let mut piece = vec![0; *len];
        file.read_exact_at(&mut piece, *at).while_doing("reading the disk")?;
        sample.push(piece);
    }
    let scale = used.bytes as f64 / sample.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    let hashing = scale
        * on_all_cores(sample.len(), |index, _: &mut ()| {
            for leaf in sample.get(index).map_or(&[][..], Vec::as_slice).chunks(LEAF) {
                std::hint::black_box(blake3::hash(leaf));
            }
        });
    let compressing = scale
        * on_all_cores(sample.len(), |index, state: &mut Compressor| {
            for cluster in sample.get(index).map_or(&[][..], Vec::as_slice).chunks(CLUSTER) {
                state.run(cluster);
            }
        });
    let writing = write(&folder.join("limit.bin"), ours.bytes)?;
    let sum = reading + hashing + compressing + writing;
    println!("\nthe limit: each stage of these bytes by itself, all cores");
    println!(
        "  reading {reading:.2} s, hashing {hashing:.2} s, compressing {compressing:.2} s, writing {writing:.2} s: {sum:.2} s"
    );
    super::aim("capture's time against their sum", ours.seconds() / sum, None, Some(1.15));
    Ok(())
}

#[derive(Default)]
struct Compressor(Option<zstd::bulk::Compressor<'static>>);

impl Compressor {
    fn run(&mut self, cluster: &[u8]) {
        if self.0.is_none() {
            self.0 = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        if let Some(compressor) = &mut self.0 {
            std::hint::black_box(compressor.compress(cluster).ok());
        }
    }
}

/// Seconds that `work` takes for every index, on as many threads as there are cores.
fn on_all_cores<State: Default>(count: usize, work: impl Fn(usize, &mut State) + Sync) -> f64 {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut state = State::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    work(index, &mut state);
                }
            });
        }
    });
    start.elapsed().as_secs_f64()
}

/// Seconds to write `bytes` to a new file and flush it: past the page cache where that goes, as capture does.
fn write(path: &Path, bytes: u64) -> Result<f64> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let opened = options.clone().custom_flags(libc::O_DIRECT).open(path).or_else(|_| options.open(path));
    let mut file = opened.while_doing(format_args!("creating {}", path.display()))?;
    let mut memory = vec![0x5Au8; SLAB + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let Some(block) = memory.get_mut(start..start + SLAB) else { return Ok(f64::NAN) };
    // SAFETY: sync takes nothing and cannot fail.
    unsafe { libc::sync() };
    let began = Instant::now();
    for _ in 0..bytes.div_ceil(SLAB as u64) {
        file.write_all(block).while_doing("writing")?;
    }
    file.sync_all().while_doing("flushing")?;
    let seconds = began.elapsed().as_secs_f64();
    fs::remove_file(path).while_doing("removing a file")?;
    Ok(seconds)
}
