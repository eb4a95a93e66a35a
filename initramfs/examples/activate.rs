// SPDX-License-Identifier: Apache-2.0
//! Activates disks, mounts every filesystem on them one after the other, prints what is in it, and takes all down again.
//!
//! ```text
//! activate [--write] [--key-file FILE]... DISK...
//! ```
//!
//! With `--write` each filesystem gets a file `written` that says where it is. The tests run this in a kernel of their own.
#![allow(clippy::print_stdout, reason = "it is a program")]

use std::path::{Path, PathBuf};

use unmoor_images::layout::Place;
use unmoor_images::{Error, Result, ResultExt};
use unmoor_initramfs::activate::{self, Activated, Key, Options};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            println!("error {:?}: {}", error.kind(), error.chain());
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut options = Options { read_only: true, ..Options::default() };
    let mut disks: Vec<PathBuf> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => options.read_only = false,
            "--key-file" => {
                let path = arguments.next().unwrap_or_default();
                let secret = std::fs::read(&path).doing(|| format!("reading {path}"))?.into();
                options.keys.push(Key { uuid: None, secret });
            }
            _ => disks.push(argument.into()),
        }
    }
    let activated = activate::activate(&disks, &options)?;
    let shown = show(&activated, options.read_only);
    activated.finish()?;
    shown?;
    println!("finished");
    Ok(())
}

fn name(place: &Place) -> String {
    match place {
        Place::Disk { partition: Some(number), .. } => format!("partition {number}"),
        Place::Disk { .. } => "disk".into(),
        Place::LogicalVolume { vg, lv, .. } => format!("{vg}/{lv}"),
        Place::Md { uuid, .. } => format!("md {uuid}"),
    }
}

fn show(activated: &Activated, read_only: bool) -> Result<()> {
    for warning in &activated.warnings {
        println!("warning {warning}");
    }
    for opened in &activated.opened {
        println!("opened {} in disk {}: {:?}", opened.disk, opened.inside.0, opened.inner);
    }
    let at = std::env::temp_dir().join(format!("activate-{}", std::process::id()));
    std::fs::create_dir_all(&at).map_err(|error| Error::io("making", error).path(&at))?;
    for node in &activated.nodes {
        let Ok(filesystem) = activated.filesystem(node.disk, &node.place, "") else { continue };
        let kind = filesystem.kind.name();
        if kind == "swap" {
            continue;
        }
        let place = name(&node.place);
        let mounted = activate::mount_guest(&filesystem, &[], &at, read_only)?;
        let content = list(&at, &place, read_only);
        mounted.unmount()?;
        println!("filesystem {kind} in {place}: {}", content?);
    }
    std::fs::remove_dir(&at).map_err(|error| Error::io("removing", error).path(&at))
}

fn list(at: &Path, place: &str, read_only: bool) -> Result<String> {
    if !read_only {
        std::fs::write(at.join("written"), place).doing(|| "writing a file")?;
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(at).doing(|| "listing it")? {
        let entry = entry.doing(|| "listing it")?;
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        names.push(format!("{}={}", entry.file_name().to_string_lossy(), text.trim()));
    }
    names.sort();
    Ok(names.join(" "))
}
