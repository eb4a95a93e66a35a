// SPDX-License-Identifier: Apache-2.0
//! Images of a store and the targets that they go to.

use std::path::PathBuf;
use std::sync::Arc;

use unmoor_images::manifest::Manifest;
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_restore::image::Image;
use unmoor_restore::plan::Target;

use super::{Arguments, target};
use crate::output::Terminal;
use crate::records;

/// Opens the image that the arguments name, and finds its disks' targets; with its manifest.
pub(super) fn open(arguments: &Arguments, terminal: &Terminal) -> Result<(Vec<(Image, Target)>, Manifest)> {
    let usage = |because: String| Error::new(ErrorKind::Usage, "choosing targets").because(because);
    if arguments.ignore_manifest {
        return Err(usage("an image of a store is its manifest: there is none to ignore".to_owned()));
    }
    let image = arguments.store.open_image(&arguments.image, terminal)?;
    let manifest = image.record.manifest;
    let name = format!("{}@{}", image.record.summary.machine, image.image.time);
    let wanted: Vec<(usize, &PathBuf)> = match (&arguments.target, manifest.disks.as_slice()) {
        (Some(target), [_]) => vec![(0, target)],
        (Some(_), disks) => {
            return Err(usage(format!("the machine has {} disks: use --disk", disks.len())));
        }
        (None, disks) => {
            let place = |image: &str| disks.iter().position(|disk| disk.image == image).unwrap_or(0);
            let chosen = arguments.chosen(&manifest, terminal)?.into_iter();
            chosen.map(|(disk, target)| (place(&disk.image), target)).collect()
        }
    };
    let mut pairs = Vec::new();
    for (index, (disk, record)) in image.disks.into_iter().zip(&manifest.disks).enumerate() {
        let Some((_, path)) = wanted.iter().find(|(wanted, _)| *wanted == index) else { continue };
        let target = target::find(path, arguments, terminal)?;
        arguments.check_device(&target, false)?;
        let several = manifest.disks.len() > 1;
        let name = records::stored_name(&name, several.then_some(&record.image));
        let map = (disk.extents, disk.leaves);
        pairs.push((Image::stored(&name, record, Arc::new(disk.source), map), target));
    }
    Ok((pairs, manifest))
}
