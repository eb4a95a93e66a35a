// SPDX-License-Identifier: Apache-2.0
//! The job `wipe`: all of a disk is discarded where it can, made zeros in any case, and read back.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;
use unmoor_capture::facts::{self, Tree};
use unmoor_capture::in_use;
use unmoor_images::formats::AlignedBuffer;
use unmoor_images::merkle::is_zero;
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::{BlockSource, Error, ErrorKind, Monitor, Result, ResultExt};
use unmoor_pxe_boot::api::DiskRule;
use unmoor_pxe_boot::client::rules;
use unmoor_restore::target::{DiskFile, is_read_only};

use crate::output::Terminal;

/// Bytes that are wiped between two looks at whether to go on.
const STEP: u64 = 256 << 20;
/// Bytes that are read back at a time.
const READ: usize = 4 << 20;

/// Wipes the disks that `disks` mean. All are looked at before the first is touched.
pub(super) fn run(disks: &[DiskRule], terminal: &Terminal) -> Result<()> {
    if disks.is_empty() {
        return Err(Error::refused("wiping", "no disk is named, and none is chosen by itself"));
    }
    let facts = facts::read(&Tree::default());
    let chosen = rules::choose(disks, &facts.disks, true)?;
    let mut opened = Vec::new();
    for disk in &chosen {
        let path = Path::new("/dev").join(&disk.name);
        let claim = in_use::claim(&path)?;
        if !claim.users.is_empty() || !claim.is_exclusive() {
            let users: Vec<String> = claim.users.iter().map(in_use::User::explain).collect();
            return Err(Error::refused("wiping", format!("it is in use: {}", users.join("; "))).path(&path));
        }
        drop(claim);
        let number =
            std::fs::metadata(&path).map_err(|error| Error::io("opening", error).path(&path))?.rdev();
        if is_read_only(number) {
            return Err(Error::refused("wiping", "it is read-only").path(&path));
        }
        opened.push((disk.name.clone(), DiskFile::open_device(&path)?));
    }
    let mut documents = Vec::new();
    for (number, (name, disk)) in opened.iter().enumerate() {
        wipe(disk, (number, name), terminal).doing(|| format!("wiping {name}"))?;
        documents.push(json!({ "disk": name, "size_bytes": disk.size(), "verified": true }));
    }
    terminal.print_result(&json!({ "disks": documents, "warnings": terminal.warnings() }))
}

fn wipe(disk: &DiskFile, (number, name): (usize, &str), monitor: &dyn Monitor) -> Result<()> {
    let size = disk.size();
    let begin = |phase| {
        monitor.event(Event::Started { disk: number, phase, total_bytes: size, name: name.to_owned() });
    };
    let pass = |each: &mut dyn FnMut(u64, u64) -> Result<()>, step: u64| -> Result<()> {
        let mut at = 0;
        while at < size {
            if monitor.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "going on").because("stopped on request"));
            }
            let len = step.min(size - at);
            each(at, len)?;
            at += len;
            monitor.event(Event::Advanced { disk: number, done_bytes: at, written_bytes: at });
        }
        monitor.event(Event::Finished { disk: number });
        Ok(())
    };
    begin(Phase::Wipe);
    pass(&mut |at, len| disk.wipe(at, len), STEP)?;
    disk.flush()?;
    begin(Phase::Verify);
    let mut buffer = AlignedBuffer::new(READ);
    pass(
        &mut |at, len| {
            let part = buffer.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            disk.read_at(part, at)?;
            if is_zero(part) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Mismatch, "reading back")
                .at(at)
                .because("there is still something on it"))
        },
        READ as u64,
    )?;
    disk.reread();
    Ok(())
}
