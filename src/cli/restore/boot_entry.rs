// SPDX-License-Identifier: Apache-2.0
//! The boot entry in the firmware of the machine whose disk is restored. Only this machine's firmware can be written to: it gets
//! one where this is the machine that was restored, in the rescue environment. Everywhere else the fallback path starts it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};
use unmoor_capture::facts::{Tree, describe_disk};
use unmoor_convert::firmware::nvram::{self, Entry, Place};
use unmoor_images::adapt::WithSectors;
use unmoor_images::{BlockSource, Monitor, Result};
use unmoor_initramfs::rescue;
use unmoor_restore::plan::{Plan, Target};

use crate::fit::Report;

/// `--boot-entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// In the rescue environment, for a disk of this machine's own
    Auto,
    /// For this machine, whatever system it runs now
    Always,
    /// Leave the firmware alone
    Never,
}

/// An entry that is to be made.
pub(super) struct Wanted {
    /// Which disk of the plan has the loader.
    disk: usize,
    vendor: Option<String>,
    entry: Entry,
    variables: PathBuf,
}

/// Where the firmware's variables are, by the name that efibootmgr has for it too.
fn variables() -> PathBuf {
    let told = std::env::var_os("EFIVARFS_PATH").filter(|path| !path.is_empty());
    told.map_or_else(|| PathBuf::from("/sys/firmware/efi/efivars"), PathBuf::from)
}

/// What entry the restore of `plan` makes, and a note for people where it makes none though the guest starts with UEFI.
pub(super) fn plan(when: When, plan: &Plan, report: &Report) -> Result<(Option<Wanted>, Option<String>)> {
    if !report.plan.capabilities.uefi {
        return Ok((None, None));
    }
    let vendor = report.inspection.as_ref().and_then(|inspection| inspection.system.id.clone());
    for (disk, restored) in plan.disks.iter().enumerate() {
        let Some(entry) = nvram::entry(&restored.image.source, vendor.as_deref())? else { continue };
        let variables = variables();
        let obstacle = match when {
            When::Never => Some("--boot-entry never is given".to_owned()),
            When::Auto => elsewhere(&restored.target),
            When::Always => None,
        };
        let unwritable = || {
            let because = || format!("there are none that can be written to at {}", variables.display());
            (!nvram::is_writable(&variables)).then(because)
        };
        return Ok(match obstacle.or_else(unwritable) {
            None => (Some(Wanted { disk, vendor, entry, variables }), None),
            Some(because) => (
                None,
                Some(format!(
                    "no boot entry is made in the firmware's variables ({because}): the machine starts by \\EFI\\BOOT\\BOOTX64.EFI"
                )),
            ),
        });
    }
    Ok((None, None))
}

/// Why the machine that runs this is not the one that will start from the target.
fn elsewhere(target: &Target) -> Option<String> {
    if !Path::new(rescue::FACTS).exists() {
        return Some("this is not the rescue environment on the restored machine".to_owned());
    }
    let Target::Device { path, .. } = target else { return Some("the target is a file".to_owned()) };
    let number = std::fs::metadata(path).map_or(0, |found| found.rdev());
    match describe_disk(&Tree::default(), number) {
        Some(facts) if facts.transport.as_deref() != Some("iscsi") => None,
        _ => Some(format!("{} is no disk of this machine's own", path.display())),
    }
}

impl Wanted {
    /// For people, before it is done.
    pub(super) fn line(&self) -> String {
        let Entry { description, path, partition, .. } = &self.entry;
        format!(
            "  adds the boot entry {description:?} to this machine's firmware, first in its order and the next that it starts: {path} on partition {partition}"
        )
    }

    /// For programs.
    pub(super) fn document(&self) -> Value {
        let Entry { description, path, partition, .. } = &self.entry;
        json!({ "disk": self.disk, "description": description, "loader": path, "partition": partition })
    }

    /// Makes it, for the partition as it is on the target now. The disk is restored whatever comes of it, and the fallback path
    /// starts it: a failure is a warning.
    pub(super) fn write(&self, plan: &Plan, monitor: &dyn Monitor) -> Option<u16> {
        let written = self.entry_on_target(plan).and_then(|entry| {
            let entry = entry.unwrap_or_else(|| self.entry.clone());
            let number = nvram::write(&self.variables, &entry, Place::First)?;
            nvram::start_next(&self.variables, number)?;
            Ok(number)
        });
        match written {
            Ok(number) => Some(number),
            Err(error) => {
                monitor.warn(format!("the disk is restored, but has no boot entry: {}", error.chain()));
                None
            }
        }
    }

    fn entry_on_target(&self, plan: &Plan) -> Result<Option<Entry>> {
        let Some(disk) = plan.disks.get(self.disk) else { return Ok(None) };
        let options = unmoor_images::formats::OpenOptions::default();
        let source: Box<dyn BlockSource> = match &disk.target {
            Target::Device { path, .. } => Box::new(unmoor_capture::disk::Device::open(path)?),
            Target::File { path, .. } => unmoor_images::formats::open(path, &options)?.source,
        };
        nvram::entry(&WithSectors::new(source, disk.sector_size), self.vendor.as_deref())
    }
}
