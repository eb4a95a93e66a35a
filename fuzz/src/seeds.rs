// SPDX-License-Identifier: Apache-2.0
//! The corpus: `seeds/TARGET/NAME.zst`, listed in `seeds/INDEX.md`.

use std::path::{Path, PathBuf};

/// One input that is kept.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Target whose input it is.
    pub target: String,
    /// File name without its ending.
    pub name: String,
    /// What the target's summary must be.
    pub found: String,
    /// The input.
    pub data: Vec<u8>,
}

/// Where the corpus lies.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// Largest input; a compressed file of 20 KiB cannot become more by mistake.
const MOST: usize = 32 << 20;

/// Where a seed's file is.
pub fn path(target: &str, name: &str) -> PathBuf {
    folder().join(target).join(format!("{name}.zst"))
}

/// All seeds that the index lists, of one target or of all.
pub fn load(target: Option<&str>) -> Vec<Seed> {
    let index = std::fs::read_to_string(folder().join("INDEX.md")).expect("reading seeds/INDEX.md");
    let mut seeds = Vec::new();
    // | ext/ext4-1k | ext4 | recipe |
    for line in index.lines().filter(|line| line.starts_with("| ") && line.contains('/')) {
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect();
        let (Some((of, name)), Some(found)) = (cells[0].split_once('/'), cells.get(1)) else { continue };
        if target.is_some_and(|target| target != of) {
            continue;
        }
        let path = path(of, name);
        let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let data =
            zstd::bulk::decompress(&file, MOST).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        seeds.push(Seed { target: of.into(), name: name.into(), found: (*found).into(), data });
    }
    seeds
}

/// Writes a seed's file; returns its length in bytes.
pub fn store(target: &str, name: &str, data: &[u8]) -> std::io::Result<usize> {
    let packed = zstd::bulk::compress(data, 19)?;
    let path = path(target, name);
    std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
    std::fs::write(&path, &packed)?;
    Ok(packed.len())
}
