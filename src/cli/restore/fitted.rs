// SPDX-License-Identifier: Apache-2.0
//! `restore --profile`: the guest is fitted in a layer over the image, and what is restored is the disk as the layer shows it.
//!
//! So a guest that cannot be fitted is refused before the target is touched, the image stays as it is, and tables that the
//! fitting changed are moved and grown as any other's.

use unmoor_images::overlay::{self, Overlays, Target as Below};
use unmoor_images::{Error, ErrorKind, Result, ResultExt};
use unmoor_restore::image::Image;
use unmoor_restore::plan::Target;

use super::Arguments;
use crate::fit::{Action, Fitter, Where};
use crate::output::Terminal;
use crate::output::table::plain_line;

/// The layers, with the folder that they lie in.
pub(super) struct Fitted {
    _overlays: Overlays,
    _folder: tempfile::TempDir,
}

/// Fits the images' guest, if that is asked for.
pub(super) fn fit(
    arguments: &Arguments,
    pairs: &mut [(Image, Target)],
    terminal: &Terminal,
) -> Result<Option<Fitted>> {
    let Some(profile) = &arguments.fit.profile else { return Ok(None) };
    if pairs.iter().any(|(image, _)| image.stream.is_some()) {
        return Err(Error::new(ErrorKind::Usage, "fitting the guest")
            .because("a stream cannot be looked into before it is written: capture to a file first"));
    }
    let below = pairs.iter().map(|(image, _)| Below { image: image.path.clone(), format: image.format });
    let below: Vec<Below> = below.collect();
    let manifest = arguments.machine(&below)?;
    let place = if arguments.direct { Where::Direct } else { Where::Appliance(arguments.rescue.clone()) };
    let fitter = Fitter::new(below.clone(), manifest.as_ref(), arguments.fit.keys()?, place);
    let request = arguments.fit.request(fitter.payload()?)?;
    let report = fitter.plan(&request, terminal)?;
    if !terminal.json() {
        report.text.lines().try_for_each(|line| terminal.print(&plain_line(line)))?;
    }
    report.refuse_if_hopeless(terminal, arguments.dry_run)?;
    if arguments.dry_run {
        return Ok(None);
    }
    let folder =
        tempfile::Builder::new().prefix("unmoor-").tempdir().doing(|| "making a temporary folder")?;
    let overlays = overlay::create_apart(&below, folder.path())?;
    fitter.change_in(&overlays, &Action::Apply(Box::new(report.plan)), terminal)?;
    let changed = overlay::changes(&overlays, terminal)?;
    for ((image, _), disk) in pairs.iter_mut().zip(changed) {
        image.fit(disk, &format!("fitted to {profile}"), terminal)?;
    }
    Ok(Some(Fitted { _overlays: overlays, _folder: folder }))
}

impl Arguments {
    /// The manifest that says what the machine is.
    fn machine(&self, images: &[Below]) -> Result<Option<unmoor_images::manifest::Manifest>> {
        let first = images.first().map(|first| unmoor_images::manifest::Manifest::beside(&first.image));
        Ok(first.transpose()?.flatten().map(|(manifest, _)| manifest))
    }
}
