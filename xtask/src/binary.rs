// SPDX-License-Identifier: Apache-2.0
//! The binary as it is shipped: release build, static.

use crate::run::{Failure, Result, While, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Naming the target, even where it is the host's, keeps the flags below from build scripts and procedural macros, which
/// cannot be static, and from the caches of ordinary builds.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds unmoor as it is shipped; returns its path.
pub(crate) fn static_release() -> Result<PathBuf> {
    let root = workspace();
    run(cargo()
        .args(["build", "--release", "--package", "unmoor", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join(TARGET).join("release").join("unmoor");
    let bytes = std::fs::read(&path).while_doing(format_args!("reading {}", path.display()))?;
    if has_interpreter(&bytes) {
        return Err(Failure::new(format!("{} is not static: it names a dynamic loader", path.display())));
    }
    Ok(path)
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Whether a 64-bit little-endian ELF file has a PT_INTERP segment (System V ABI, "Program Header").
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| elf.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    let table = elf.get(32..40).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (size, count) = (usize::from(u16_at(54)), usize::from(u16_at(56)));
    let table = usize::try_from(table).unwrap_or(usize::MAX);
    (0..count).any(|index| {
        let start = table.saturating_add(index * size);
        elf.get(start..start.saturating_add(4)) == Some(&PT_INTERP.to_le_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::has_interpreter;

    #[test]
    fn this_test_names_a_dynamic_loader_and_an_empty_file_does_not() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&own));
        assert!(!has_interpreter(&[]));
    }
}
