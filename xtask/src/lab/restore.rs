// SPDX-License-Identifier: Apache-2.0
//! Cells that restore: a guest is captured, verified, restored onto a used disk, compared file by file, and booted.

use crate::lab::guest::Built;
use crate::lab::listing::{check_checkers, compare, file_count, list, signatures};
use crate::lab::loop_device::LoopDevice;
use crate::lab::qemu::Writes;
use crate::lab::{Scratch, boot, guests, old_content};
use crate::run::{Failure, Result, While, as_root, output};
use std::path::Path;
use std::process::Command;

/// One cell.
#[derive(Clone, Copy)]
pub(crate) struct Restore {
    /// Its guest's name.
    pub(crate) guest: &'static str,
    /// How many bytes the target is bigger than the source.
    pub(crate) bigger: u64,
    /// The image's file name, which says its format.
    pub(crate) image: &'static str,
}

impl Restore {
    /// A line for a person.
    pub(crate) fn title(&self) -> String {
        let target = if self.bigger == 0 { "an equal" } else { "a bigger" };
        format!("{}: {} to {target} used disk", self.guest, self.image)
    }

    /// Runs the cell.
    pub(crate) fn run(&self, guest: &Built, unmoor: &Path) -> Result {
        let row = guests::guest(self.guest)?;
        let scratch = Scratch::new(self.guest)?;
        let image = scratch.path().join(self.image);
        let restored = scratch.path().join("restored.raw");
        let command = |arguments: &[&str], paths: &[&Path]| {
            // As root, for the loop device.
            output(as_root("env").arg(unmoor).args(arguments).args(paths)).map(drop)
        };
        command(&["capture"], &[&guest.disk, &image])?;
        if self.image.ends_with("qcow2") {
            output(Command::new("qemu-img").args(["check", "-q"]).arg(&image))?;
        }
        command(&["verify"], &[&image])?;
        old_content::fill(&restored, row.size + self.bigger)?;
        // A block device keeps what is not written; a file might be replaced as a whole.
        let device = LoopDevice::attach(&restored)?;
        command(&["restore", "--yes"], &[&image, device.path()])?;
        command(&["verify"], &[&image, device.path()])?;
        drop(device);

        let before = guest.listing()?;
        let after = list(&restored)?;
        // A bigger disk has its backup GPT elsewhere, and its last volumes have grown.
        let but: &[&str] =
            if self.bigger == 0 { &[] } else { &["table", "signatures", "checker", "volumes"] };
        compare(&before, &after, but).while_doing("comparing the restored disk with the source")?;
        check_checkers(&after)?;
        if signatures(&before) != signatures(&after) {
            let (before, after) = (signatures(&before), signatures(&after));
            return Err(Failure::new(format!("probing found {before:?} before and {after:?} after")));
        }
        if file_count(&before) < 10_000 {
            return Err(Failure::new("the listing of the source has too few files to prove anything"));
        }
        boot::boot(&row.machine(&restored, Writes::Dropped))?.check(row)
    }
}
