// SPDX-License-Identifier: Apache-2.0
//! Large sparse disks: memory, and the time to find what is used.

use std::fs::File;
use std::path::Path;

use super::measure::{self, Command};
use crate::run::{Result, While};

/// 8 TiB captured; 1 TiB of ext4 and XFS inspected.
pub(super) fn run(unmoor: &Path, folder: &Path) -> Result {
    println!("\nlarge sparse disks");
    let unmoor = unmoor.display();
    let make = |name: &str, size: u64, program: &str, arguments: &[&str]| -> Result<std::path::PathBuf> {
        let path = folder.join(name);
        let file = File::create(&path).while_doing("creating a sparse disk")?;
        file.set_len(size).while_doing("sizing a sparse disk")?;
        run_quiet(program, arguments, &path)?;
        Ok(path)
    };
    let eight = make("eight.raw", 8 << 40, "mke2fs", &["-q", "-F", "-t", "ext4"])?;
    let text = format!("{unmoor} capture --force {} OUT", eight.display());
    let figures =
        measure::interleaved(&[Command::new("8 TiB", text, folder.join("eight.qcow2"))], 1, || Ok(()))?;
    for figures in &figures {
        super::line("capture of a sparse 8 TiB ext4", figures, None);
        super::aim("peak memory in MiB", figures.peak_mib(), None, Some(256.0));
    }
    let empty = make("empty.raw", 8 << 40, "true", &[])?;
    let text = format!("{unmoor} capture --force {} OUT", empty.display());
    let figures =
        measure::interleaved(&[Command::new("8 TiB", text, folder.join("eight.qcow2"))], 1, || Ok(()))?;
    for figures in &figures {
        super::line("capture of a sparse 8 TiB disk of zeros", figures, None);
        super::aim("peak memory in MiB", figures.peak_mib(), None, Some(256.0));
    }
    for (name, program, arguments) in [
        ("ext4 of 1 TiB", "mke2fs", &["-q", "-F", "-t", "ext4"][..]),
        ("XFS of 1 TiB", "mkfs.xfs", &["-q", "-f"][..]),
    ] {
        let disk = make("one.raw", 1 << 40, program, arguments)?;
        let text = format!("{unmoor} dev show extents {} > OUT", disk.display());
        let figures =
            measure::interleaved(&[Command::new(name, text, folder.join("extents"))], 3, || Ok(()))?;
        for figures in &figures {
            super::line(&format!("used extents of an {name}"), figures, None);
            super::aim("seconds", figures.seconds(), None, Some(2.0));
        }
    }
    Ok(())
}

fn run_quiet(program: &str, arguments: &[&str], path: &Path) -> Result {
    crate::run::run(
        std::process::Command::new(program).args(arguments).arg(path).stdout(std::process::Stdio::null()),
    )
}
