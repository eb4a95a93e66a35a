// SPDX-License-Identifier: Apache-2.0
//! Image stores: two generations of a disk into an empty store, beside restic and borg, which read the disk from a pipe.

use std::path::{Path, PathBuf};

use super::measure::{self, Command, Figures, warm};
use super::{aim, line};
use crate::binary::workspace;
use crate::lab;
use crate::run::{Result, While, as_root, run as run_command};

/// A program that stores disks.
struct Peer {
    name: &'static str,
    /// Makes the store REPO.
    init: String,
    /// Stores the disk DISK in it.
    store: String,
    /// Restores the latest to OUT.
    restore: String,
}

/// First and second capture, bytes of the store, and a restore; theirs as many rounds as ours.
pub(super) fn run(unmoor: &Path, first: &Path, folder: &Path, rounds: usize) -> Result {
    println!("\nimage stores, page cache warm; two generations, medians of {rounds}");
    let second = second_generation(first)?;
    let unmoor = unmoor.display();
    let peers = [
        Peer {
            name: "unmoor",
            init: format!("{unmoor} images init dir:REPO"),
            store: format!("{unmoor} capture DISK dir:REPO/m"),
            restore: format!("{unmoor} restore --yes --force dir:REPO/m OUT"),
        },
        Peer {
            name: "restic --stdin",
            init: "RESTIC_PASSWORD=x restic -q init -r REPO".into(),
            store: "RESTIC_PASSWORD=x restic -q backup -r REPO --stdin --stdin-filename d < DISK".into(),
            restore: "RESTIC_PASSWORD=x restic -q dump -r REPO latest d > OUT".into(),
        },
        Peer {
            name: "borg create - (zstd,1)",
            init: "borg init -e none REPO".into(),
            store: "borg create -C zstd,1 REPO::{utcnow} - < DISK".into(),
            restore: "borg extract --stdout REPO::$(borg list --last 1 --format '{archive}' REPO) > OUT"
                .into(),
        },
    ];
    let mut all = Vec::new();
    // They neither flush nor read back: so what ours costs without reading back.
    let mut unread = Figures::default();
    for peer in &peers {
        let repo = folder.join(format!("store-{}", all.len()));
        let fill = |text: &str, disk: &Path| {
            text.replace("REPO", &repo.display().to_string()).replace("DISK", &disk.display().to_string())
        };
        let raw = folder.join("stored.raw");
        let (mut captures, mut bytes) = ((Figures::default(), Figures::default()), (0, 0));
        for _ in 0..rounds.max(1) {
            let _ = std::fs::remove_dir_all(&repo);
            let mut init = std::process::Command::new("bash");
            run_command(
                init.args(["-c", &format!("{} > {}/log 2>&1", fill(&peer.init, first), folder.display())]),
            )?;
            let once = |disk: &Path| -> Result<(Figures, u64)> {
                let command = Command::new(peer.name, fill(&peer.store, disk), folder.join("none"));
                let figures = measure::interleaved(&[command], 1, || warm(disk))?;
                let figures = figures.into_iter().next().unwrap_or_default();
                Ok((figures, used(&repo)?))
            };
            let (one, after_one) = once(first)?;
            let (two, after_two) = once(&second)?;
            captures.0.add(one);
            captures.1.add(two);
            bytes = (after_one, after_two - after_one);
        }
        captures.0.bytes = bytes.0;
        captures.1.bytes = bytes.1;
        let command = Command::new(peer.name, fill(&peer.restore, first), raw.clone());
        let restore =
            measure::interleaved(&[command], rounds, || Ok(()))?.into_iter().next().unwrap_or_default();
        measure::same_used_bytes(&second, &raw)?;
        let _ = std::fs::remove_file(&raw);
        if peer.name == "unmoor" {
            let restore = fill(&peer.restore, first).replace("--yes", "--yes --no-verify");
            let command = Command::new(peer.name, restore, raw.clone());
            unread =
                measure::interleaved(&[command], rounds, || Ok(()))?.into_iter().next().unwrap_or_default();
            measure::same_used_bytes(&second, &raw)?;
            let _ = std::fs::remove_file(&raw);
        }
        std::fs::remove_dir_all(&repo).while_doing("removing a store")?;
        all.push((peer.name, captures.0, captures.1, restore));
    }
    let Some(((_, first, second, restore), theirs)) = all.split_first() else { return Ok(()) };
    for (name, one, two, back) in &all {
        line(&format!("{name}: first capture"), one, Some(first));
        line(&format!("{name}: second capture, bytes added"), two, Some(second));
        line(&format!("{name}: restore of the second"), back, Some(restore));
    }
    line("unmoor, --no-verify: restore of the second", &unread, Some(restore));
    let least = |figure: fn(&(&str, Figures, Figures, Figures)) -> f64| {
        theirs.iter().map(figure).fold(f64::INFINITY, f64::min)
    };
    let ratio = |theirs: f64, ours: &Figures| theirs / ours.seconds();
    aim("first: times as fast as the fastest", ratio(least(|peer| peer.1.seconds()), first), Some(2.5), None);
    aim("second: times as fast", ratio(least(|peer| peer.2.seconds()), second), Some(2.0), None);
    aim("restore: times as fast", ratio(least(|peer| peer.3.seconds()), restore), Some(3.0), None);
    aim("restore without reading back", ratio(least(|peer| peer.3.seconds()), &unread), Some(3.0), None);
    let size = |bytes: u64, theirs: f64| bytes as f64 / theirs;
    aim(
        "first: size against the smallest",
        size(first.bytes, least(|peer| peer.1.bytes as f64)),
        None,
        Some(1.1),
    );
    aim(
        "second: bytes added against the least",
        size(second.bytes, least(|peer| peer.2.bytes as f64)),
        None,
        Some(1.2),
    );
    aim("peak memory in MiB", first.peak_mib().max(second.peak_mib()), None, Some(300.0));
    Ok(())
}

/// Bytes of all files of a store.
fn used(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut waiting: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).while_doing("listing a store")? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else {
                bytes += entry.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}

fn second_generation(first: &Path) -> Result<PathBuf> {
    let recipes = [
        include_str!("../../../tests/lab/bench-disk.sh"),
        include_str!("../../../tests/lab/bench-second.sh"),
    ];
    let folder = lab::cached("bench-ext4-second", &recipes, |folder| {
        let script = workspace().join("tests/lab/bench-second.sh");
        run_command(as_root("bash").arg(script).arg(first).arg(folder.join("disk.raw")))
    })?;
    Ok(folder.join("disk.raw"))
}
