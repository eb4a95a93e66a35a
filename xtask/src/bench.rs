// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: unmoor beside what a user would pick instead, in one run, as ratios of medians.
//!
//! Rounds are interleaved (ours, theirs, ours, theirs), so that a machine whose speed drifts is the same for all. Nothing here
//! is a test: figures are printed beside what was aimed at, and the exit status says only whether it could be measured.

mod agents;
mod convert;
mod disk;
mod large;
mod limit;
mod live;
mod measure;
#[path = "../../tests/s3/proxy.rs"]
mod proxy;
mod remote;
mod scale;
mod serve;
mod store;

use std::path::{Path, PathBuf};

use crate::binary::static_release;
use crate::lab::Scratch;
use crate::packages::{self, Need};
use crate::run::{Result, While};
use measure::{Command, Figures, warm};

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Capture,
    Restore,
    Large,
    Convert,
    Store,
    S3,
    Scale,
    Agents,
    Serve,
    Live,
}

/// Measures `parts`, or all where none is named, `rounds` times each.
pub(crate) fn run(parts: &[Part], rounds: usize) -> Result {
    let wanted = |part: Part| parts.is_empty() || parts.contains(&part);
    packages::require(&[Need::Build, Need::Bench])?;
    let unmoor = static_release()?;
    let scratch = Scratch::new("bench")?;
    if parts == [Part::Convert] {
        return convert::run(&unmoor, scratch.path(), rounds);
    }
    if parts == [Part::Scale] {
        return scale::run(&unmoor, scratch.path());
    }
    if parts == [Part::Agents] {
        return agents::run(&unmoor, scratch.path());
    }
    if parts == [Part::Live] {
        return live::run(&unmoor, scratch.path());
    }
    let disk = disk::lived_in()?;
    let used = limit::Used::of(&unmoor, &disk)?;
    println!("\nlived-in ext4 of 12 GiB, {:.2} GiB of it used; medians of {rounds}", used.bytes as f64 / GIB);
    if wanted(Part::Capture) {
        let captured = capture(&unmoor, &disk, scratch.path(), rounds)?;
        limit::compare(&used, &disk, scratch.path(), &captured)?;
        levels(&unmoor, &disk, scratch.path())?;
    }
    if wanted(Part::Restore) {
        if !wanted(Part::Capture) {
            // The images that are restored.
            capture(&unmoor, &disk, scratch.path(), 1)?;
        }
        let images = scratch.path();
        println!(
            "\nrestore to raw, image in the page cache; theirs without and with a flush, ours always flushed"
        );
        restore(&unmoor, &disk, images, images, rounds)?;
        // Where the disk is slower than every tool, all tools tie: memory shows what the tool itself needs.
        if let Some(memory) = Memory::with_room(images, 16 << 30)? {
            println!("\nthe same into memory");
            restore(&unmoor, &disk, images, &memory.0, rounds)?;
        } else {
            println!("\nnot measured into memory: no tmpfs of 16 GiB can be mounted");
        }
    }
    if wanted(Part::Store) {
        store::run(&unmoor, &disk, scratch.path(), rounds)?;
    }
    if wanted(Part::Serve) {
        serve::run(&disk, scratch.path(), rounds)?;
    }
    if wanted(Part::S3) {
        remote::run(&unmoor, &disk, scratch.path(), rounds)?;
    }
    if wanted(Part::Scale) {
        scale::run(&unmoor, scratch.path())?;
    }
    if wanted(Part::Large) {
        large::run(&unmoor, scratch.path())?;
    }
    if wanted(Part::Convert) {
        convert::run(&unmoor, scratch.path(), rounds)?;
    }
    if wanted(Part::Agents) {
        agents::run(&unmoor, scratch.path())?;
    }
    if wanted(Part::Live) {
        live::run(&unmoor, scratch.path())?;
    }
    Ok(())
}

const GIB: f64 = (1u64 << 30) as f64;

/// One line: what, seconds, and the ratio to ours where there is one.
fn line(what: &str, figures: &Figures, ours: Option<&Figures>) {
    let ratio = ours.map(|ours| format!("{:5.2}x", figures.seconds() / ours.seconds())).unwrap_or_default();
    let size = if figures.bytes > 0 {
        format!("{:7.0} MiB", figures.bytes as f64 / (1 << 20) as f64)
    } else {
        String::new()
    };
    println!("  {what:<44} {:7.2} s {ratio:>7} {size:>12}  ({})", figures.seconds(), figures.spread());
}

/// States a ratio beside what was aimed at.
fn aim(what: &str, ratio: f64, at_least: Option<f64>, at_most: Option<f64>) {
    let (met, wanted) = match (at_least, at_most) {
        (Some(least), _) => (ratio >= least, format!("at least {least:.2}")),
        (None, Some(most)) => (ratio <= most, format!("at most {most:.2}")),
        (None, None) => (true, "no aim".into()),
    };
    println!("  {} {what}: {ratio:.2} ({wanted})", if met { "met   " } else { "MISSED" });
}

fn capture(unmoor: &Path, disk: &Path, folder: &Path, rounds: usize) -> Result<Figures> {
    let (unmoor, disk) = (unmoor.display(), disk.display());
    let out = |name: &str| folder.join(name);
    let commands = [
        Command::new("unmoor capture", format!("{unmoor} capture --force {disk} OUT"), out("ours.qcow2")),
        Command::new(
            "partclone.ext4 -c | zstd -1 -T0",
            format!("partclone.ext4 -c -q -L /dev/null -s {disk} -o - | zstd -q -f -1 -T0 -o OUT"),
            out("partclone.zst"),
        ),
        Command::new(
            "qemu-img convert -c (zstd, -m 8 -W)",
            format!("qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -m 8 -W {disk} OUT"),
            out("qemu.qcow2"),
        ),
        Command::new(
            "zstd -1 -T0 of the whole disk",
            format!("zstd -q -f -1 -T0 {disk} -o OUT"),
            out("whole.zst"),
        ),
    ];
    println!("\ncapture, page cache warm");
    let figures = measure::interleaved(&commands, rounds, || warm(Path::new(&disk.to_string())))?;
    if let [ours, partclone, qemu, whole] = figures.as_slice() {
        line("unmoor capture (zstd, flushed, hashed)", ours, None);
        line("partclone.ext4 -c | zstd -1 -T0", partclone, Some(ours));
        line("qemu-img convert -c (zstd, -m 8 -W)", qemu, Some(ours));
        line("zstd -1 -T0 of the whole disk", whole, Some(ours));
        aim("times as fast as partclone | zstd", partclone.seconds() / ours.seconds(), Some(3.0), None);
        aim("times as fast as qemu-img", qemu.seconds() / ours.seconds(), Some(1.7), None);
        aim("size, against partclone | zstd", ours.bytes as f64 / partclone.bytes as f64, None, Some(1.1));
        aim("peak memory in MiB", ours.peak_mib(), None, Some(256.0));
    }
    figures.into_iter().next().ok_or_else(|| crate::run::Failure::new("nothing was measured"))
}

fn levels(unmoor: &Path, disk: &Path, folder: &Path) -> Result {
    println!("\ncapture by --compress, one run each");
    for level in ["none", "fast", "default", "auto", "best"] {
        let text = format!("{} capture --force --compress {level} {} OUT", unmoor.display(), disk.display());
        let command = Command::new(level, text, folder.join("level.qcow2"));
        let figures = measure::interleaved(&[command], 1, || warm(disk))?;
        figures.iter().for_each(|figures| line(&format!("--compress {level}"), figures, None));
    }
    Ok(())
}

/// A folder in memory, unmounted and removed at the end. Not below /dev: no tool takes a name there for a file's.
struct Memory(PathBuf);

impl Memory {
    /// None where this process may not mount, or where there is no room for `bytes`.
    fn with_room(folder: &Path, bytes: u64) -> Result<Option<Self>> {
        let free = std::fs::read_to_string("/proc/meminfo").while_doing("reading /proc/meminfo")?;
        let free =
            free.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
        let free: u64 = free.and_then(|text| text.parse().ok()).unwrap_or(0);
        let path = folder.join("memory");
        std::fs::create_dir(&path).while_doing(format_args!("creating {}", path.display()))?;
        let size = format!("size={bytes}");
        let flags = nix::mount::MsFlags::MS_NOSUID;
        let mounted = free.saturating_mul(1024) > bytes
            && nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(size.as_str())).is_ok();
        Ok(mounted.then_some(Self(path)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // What cannot be unmounted goes with the next boot.
        let _ = nix::mount::umount(&self.0);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Restores the images in `images` to `folder`.
fn restore(unmoor: &Path, disk: &Path, images: &Path, folder: &Path, rounds: usize) -> Result {
    let (unmoor, disk, at) = (unmoor.display(), disk.display(), images.display());
    let out = |name: &str| folder.join(name);
    let ours = format!("{unmoor} restore --yes --force {at}/ours.qcow2 OUT");
    let commands = [
        Command::new("unmoor restore", ours.clone(), out("ours.raw")),
        Command::new("unmoor restore --no-verify", format!("{ours} --no-verify"), out("unverified.raw")).dropped(),
        Command::new(
            "zstd -d | partclone.restore",
            format!(
                "truncate -s 12G OUT && zstd -q -d -c {at}/partclone.zst | partclone.restore -q -C -L /dev/null -s - -O OUT"
            ),
            out("partclone.raw"),
        )
        .dropped(),
        Command::new(
            "qemu-img convert -m 8 -W",
            format!("qemu-img convert -m 8 -W -f qcow2 -O raw {at}/qemu.qcow2 OUT"),
            out("qemu.raw"),
        )
        .dropped(),
        Command::new(
            "zstd -d --sparse",
            format!("zstd -q -f -d --sparse {at}/whole.zst -o OUT"),
            out("whole.raw"),
        )
        .dropped(),
    ];
    let measured = measure::interleaved(&commands, rounds, || Ok(()))?;
    let flushed: Vec<Command> = commands.iter().skip(2).map(Command::flushed).collect();
    let flushed = measure::interleaved(&flushed, rounds, || Ok(()))?;
    if let [ours, unverified, theirs @ ..] = measured.as_slice() {
        line("unmoor restore (read back)", ours, None);
        line("unmoor restore --no-verify", unverified, Some(ours));
        for (command, figures) in commands.iter().skip(2).zip(theirs) {
            line(command.name, figures, Some(ours));
        }
        for (command, figures) in commands.iter().skip(2).zip(&flushed) {
            line(&format!("{} && sync", command.name), figures, Some(ours));
        }
        let fastest = |all: &[Figures]| all.iter().map(Figures::seconds).fold(f64::INFINITY, f64::min);
        aim("times as fast as the fastest, flushed", fastest(&flushed) / ours.seconds(), Some(2.0), None);
        aim("times as fast as the fastest, not flushed", fastest(theirs) / ours.seconds(), Some(2.0), None);
        aim("the same, not read back", fastest(theirs) / unverified.seconds(), Some(2.0), None);
        aim("peak memory in MiB", ours.peak_mib(), None, Some(256.0));
    }
    measure::same_used_bytes(Path::new(&disk.to_string()), &out("ours.raw"))
}
