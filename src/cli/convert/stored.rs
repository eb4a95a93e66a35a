// SPDX-License-Identifier: Apache-2.0
//! An image of a store: it never changes, so that the fitted guest becomes another image of the machine, which shares with the
//! first all that is the same.

use std::sync::Arc;

use serde_json::{Value, json};
use unmoor_images::manifest::Manifest;
use unmoor_images::merkle::Leaves;
use unmoor_images::overlay::{self, About, Target};
use unmoor_images::store::{ImageName, ImageRef, Location, Since, Store, Summary, Writer, WriterOptions};
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, Monitor, Result, ResultExt, formats};

use super::Arguments;
use crate::fit::{Action, Done, Fitter, Served};
use crate::output::Terminal;
use crate::output::size::show_size;

/// An image that is open, its disks served to the appliance.
pub(super) struct Stored {
    location: Location,
    store: Store,
    image: ImageRef,
    machine: String,
    pub(super) manifest: Manifest,
    maps: Vec<(ExtentMap, Leaves)>,
    served: Served,
}

/// The image that a change has made.
pub(super) struct Made {
    name: String,
    summary: Summary,
}

impl Made {
    pub(super) fn line(&self) -> String {
        format!("{}: complete; {} stored", self.name, show_size(self.summary.added.stored_bytes))
    }

    pub(super) fn document(&self) -> Value {
        json!({ "image": self.name, "added": self.summary.added })
    }
}

impl Stored {
    /// Opens what the arguments name, if that lies in a store.
    pub(super) fn open(arguments: &Arguments, terminal: &Terminal) -> Result<Option<Self>> {
        if !arguments.images.iter().any(|image| Location::is_path(image)) {
            return Ok(None);
        }
        let [path] = arguments.images.as_slice() else {
            return Err(Error::new(ErrorKind::Usage, "choosing images")
                .because("an image of a store has all disks of its machine: name it alone"));
        };
        let (location, name) = Location::parse_image(&path.to_string_lossy())?;
        let store = arguments.store.open_for(&location, &name.machine)?;
        let opened = store.open_image(&name)?;
        for warning in &opened.warnings {
            terminal.warn(format!("{location}: {warning}"));
        }
        let mut disks: Vec<Arc<dyn BlockSource>> = Vec::new();
        let mut maps = Vec::new();
        for disk in opened.disks {
            if !disk.extents.size().is_multiple_of(512) {
                return Err(Error::unsupported("opening the image", "a disk ends within a sector").path(path));
            }
            disks.push(Arc::new(disk.source));
            maps.push((disk.extents, disk.leaves));
        }
        Ok(Some(Self {
            location,
            store,
            image: opened.image,
            machine: opened.record.summary.machine,
            manifest: opened.record.manifest,
            maps,
            served: Served::start(disks)?,
        }))
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        self.served.targets().to_vec()
    }

    /// Does `action` in layers over the disks, and stores the disks as the layers show them.
    pub(super) fn change(
        &self,
        fitter: &Fitter,
        action: &Action,
        about: &About,
        terminal: &Terminal,
    ) -> Result<(Done, Made)> {
        let options = WriterOptions {
            compression: formats::Compression::Auto,
            since: Since::Image(ImageName {
                machine: self.machine.clone(),
                time: Some(self.image.time.clone()),
            }),
            holder: unmoor_capture::facts::holder(),
        };
        let folder =
            tempfile::Builder::new().prefix("unmoor-").tempdir().doing(|| "making a temporary folder")?;
        let overlays = overlay::create_apart(&self.targets(), &fitter.disk_sizes()?, folder.path())?;
        let applied = fitter.change_in(&overlays, action, terminal);
        self.served.report(terminal);
        let applied = applied?;
        let mut changed = overlay::changes(&overlays, terminal)?;
        let mut manifest = self.manifest.clone();
        let mut maps = Vec::new();
        for ((disk, record), (extents, leaves)) in changed.iter_mut().zip(&mut manifest.disks).zip(&self.maps)
        {
            maps.push(disk.record(record, (extents, leaves), about, terminal)?);
        }
        // From here on what the image needs is held by a lease.
        let writer = Writer::begin(&self.store, &self.machine, &options, terminal)?;
        let mut read_bytes = 0;
        for (disk, (_, leaves)) in changed.iter().zip(&maps) {
            read_bytes += writer.derive(leaves, &disk.source, terminal)?;
        }
        let disks: Vec<(&ExtentMap, &Leaves)> =
            maps.iter().map(|(extents, leaves)| (extents, leaves)).collect();
        let (image, summary) = writer.commit(manifest, &disks, read_bytes)?;
        let changed_bytes = changed.iter_mut().map(|disk| disk.changed.bytes()).collect();
        let name = format!("{}/{}@{}", self.location, self.machine, image.time);
        Ok((Done { changed_bytes, applied }, Made { name, summary }))
    }
}
