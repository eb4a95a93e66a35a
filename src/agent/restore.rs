// SPDX-License-Identifier: Apache-2.0
//! The job `restore`: the image comes through the server; all else is `unmoor restore`.

use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use unmoor_capture::facts::{self, Tree};
use unmoor_images::manifest::{Firmware, MachineFacts};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};
use unmoor_pxe_boot::api::{Assignment, DiskRule, Task};
use unmoor_pxe_boot::client::store::RemoteImage;
use unmoor_pxe_boot::client::{Job, rules};
use unmoor_restore::image::Image;

use super::{in_rescue, job};
use crate::cli::restore::{Arguments, run_opened};
use crate::output::Terminal;

/// The command's own arguments.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// Restores as the assignment says.
pub(super) fn run(assignment: &Assignment, requests: &Job, terminal: &Terminal) -> Result<()> {
    let Task::Restore { image, profile, firmware, disks, removable, then } = &assignment.task else {
        return Err(Error::new(ErrorKind::Usage, "restoring").because("the job is another"));
    };
    job::check_then(then)?;
    let facts = facts::read(&Tree::default());
    let remote = RemoteImage::open(requests, assignment.rate_limit)?;
    let manifest = remote.record().manifest.clone();
    let only = [DiskRule("only".to_owned())];
    let wanted: &[DiskRule] = match (disks.as_slice(), manifest.disks.len()) {
        ([], 1) => &only,
        (rules, count) if rules.len() == count => rules,
        (rules, count) => {
            let because = format!(
                "the image has {count} disks, and {} rules say where they go: give one for each, in its order",
                rules.len()
            );
            return Err(Error::refused("choosing targets", because));
        }
    };
    let chosen = rules::choose(wanted, &facts.disks, *removable)?;
    let folder =
        tempfile::Builder::new().prefix("unmoor-agent-").tempdir().doing(|| "making a temporary folder")?;
    let mut words: Vec<String> = ["restore", "--yes"].map(str::to_owned).to_vec();
    words.extend(profile_words(profile, firmware, &facts, folder.path())?);
    if *removable {
        words.push("--removable".to_owned());
    }
    if assignment.attempt > 0 {
        words.push("--resume".to_owned());
    }
    words.push(image.clone());
    let targets = chosen.iter().map(|disk| format!("/dev/{}", disk.name));
    let pairs = targets.clone().enumerate().map(|(number, target)| format!("{number}={target}"));
    pairs.for_each(|pair| words.extend(["--disk".to_owned(), pair]));
    let line = Line::try_parse_from(words)
        .map_err(|error| Error::new(ErrorKind::Usage, "reading the job").source(error))?;
    let mut opened = Vec::new();
    for (number, (record, target)) in manifest.disks.iter().zip(targets).enumerate() {
        let target = line.arguments.find_target(Path::new(&target), terminal)?;
        let (disk, extents, leaves) = remote.disk(number)?;
        // What a restore leaves beside its image goes with this folder.
        let name = folder.path().join(image.replace('/', "_")).with_added_extension(&record.image);
        opened.push((Image::stored(&name, record, Arc::new(disk), (extents, leaves)), target));
    }
    run_opened(&line.arguments, opened, Some(&manifest), terminal).map(drop)
}

/// The options for the hardware that the guest is fitted to.
fn profile_words(profile: &str, firmware: &str, facts: &MachineFacts, folder: &Path) -> Result<Vec<String>> {
    let firmware = match (firmware, facts.firmware) {
        ("auto", Firmware::Uefi) => "uefi",
        ("auto", Firmware::Bios) => "bios",
        (named @ ("keep" | "bios" | "uefi"), _) => named,
        (other, _) => {
            return Err(Error::new(ErrorKind::Usage, "choosing the firmware")
                .because(format!("{other:.40?} is none of auto, keep, bios and uefi")));
        }
    };
    let profile = match profile {
        "keep" => return Ok(Vec::new()),
        "auto" => {
            let path = folder.join("machine.json");
            let text = json!({ "machine": facts }).to_string();
            std::fs::write(&path, text).map_err(|error| Error::io("writing", error).path(&path))?;
            path.display().to_string()
        }
        // A path would be a file of the server's choosing on this machine.
        name if name.contains(['/', '.']) => {
            return Err(Error::refused(
                "choosing the profile",
                format!("{name:.80?} is a file, not a profile's name"),
            ));
        }
        name => name.to_owned(),
    };
    let mut words = vec!["--profile".to_owned(), profile, "--firmware".to_owned(), firmware.to_owned()];
    // In the rescue environment its own kernel mounts the guest; elsewhere the appliance does.
    if in_rescue() {
        words.push("--direct".to_owned());
    }
    Ok(words)
}
