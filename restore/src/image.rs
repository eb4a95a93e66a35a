// SPDX-License-Identifier: Apache-2.0
//! An image to restore: its disk, and what its manifest or our own reading says of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unmoor_images::adapt::WithSectors;
use unmoor_images::formats::{self, Format};
use unmoor_images::layout::{self, Hibernated, Region};
use unmoor_images::manifest::{self, DiskRecord, Manifest, hex};
use unmoor_images::merkle::Leaves;
use unmoor_images::overlay::Changed;
use unmoor_images::partition::PartitionTable;
use unmoor_images::{BlockSource, ErrorKind, ExtentMap, Monitor, Result, ResultExt, State, copy, overlay};

use crate::record::Change;
use crate::stream::Stream;

/// One disk of an image.
pub struct Image {
    /// Where it is, or "-".
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its disk.
    pub source: Box<dyn BlockSource>,
    /// The same for whoever has to serve it, where the image lies in a store and not in a file.
    pub shared: Option<Arc<dyn BlockSource>>,
    /// Which bytes must be written. Without a manifest that matches, all: nobody knows what is unused.
    pub extents: ExtentMap,
    /// The recorded hashes, with a manifest.
    pub leaves: Option<Leaves>,
    /// The manifest's record.
    pub record: Option<DiskRecord>,
    /// The table as found in the image.
    pub table: PartitionTable,
    /// What is where.
    pub regions: Vec<Region>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
    /// The pipe that it comes through, if so. Until it is planned, `source` is its first MiB.
    pub stream: Option<Stream>,
    /// How the disk differs from the image, where the guest is fitted to other hardware on its way.
    pub fitted: Option<Fitted>,
}

/// A change between image and disk.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// Root of the image's own Merkle tree, where it has a manifest.
    pub image_root: Option<String>,
    /// Ranges that differ.
    pub changes: Vec<Change>,
}

/// How to open an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Follow backing and data files.
    pub allow_backing: bool,
    /// Take it as this format.
    pub format: Option<Format>,
    /// Act as if there were no manifest.
    pub ignore_manifest: bool,
}

impl Image {
    /// Opens the image at `path`, with its manifest if one lies beside it.
    ///
    /// A manifest that does not match is an error, not a silent fallback: somebody wrote to the image.
    pub fn open(path: &Path, options: &OpenOptions, monitor: &dyn Monitor) -> Result<Self> {
        overlay::finish_interrupted(path, monitor)?;
        let beside = if options.ignore_manifest { None } else { Manifest::beside(path)? };
        let record = beside.and_then(|(manifest, index)| manifest.disks.into_iter().nth(index));
        // A disk's own bytes may look like another format's.
        let format = options.format.or(record.as_ref().map(|record| record.image_format));
        let opened =
            formats::open(path, &formats::OpenOptions { allow_backing: options.allow_backing, format })?;
        let Some(record) = record else {
            return Self::without_manifest(path, opened.format, opened.source, opened.warnings, monitor);
        };
        let (extents, leaves) = record.read_map(path.parent().unwrap_or(Path::new("")))?;
        manifest::check_holes(&*opened.source, &extents).map_err(|error| match error.kind() {
            ErrorKind::Mismatch => unmoor_images::Error::new(
                ErrorKind::Mismatch,
                "using the manifest (--ignore-manifest restores the image as it is now)",
            )
            .source(error),
            _ => error,
        })?;
        // The image knows no sector size; the record does.
        let source: Box<dyn BlockSource> = Box::new(WithSectors::new(opened.source, record.sector_size));
        Ok(Self {
            path: path.to_owned(),
            format: opened.format,
            source,
            extents,
            leaves: Some(leaves),
            table: record.table.clone(),
            regions: record.regions.clone(),
            record: Some(record),
            warnings: opened.warnings,
            stream: None,
            fitted: None,
            shared: None,
        })
    }

    /// A disk of a stored image, from a store or a server before one. `name` is for people, and for the record's file: "web01@20261124T215000Z".
    pub fn stored(
        name: &Path,
        record: &DiskRecord,
        source: Arc<dyn BlockSource>,
        (extents, leaves): (ExtentMap, Leaves),
    ) -> Self {
        Self {
            path: name.to_owned(),
            format: Format::Raw,
            source: Box::new(source.clone()),
            shared: Some(source),
            extents,
            leaves: Some(leaves),
            table: record.table.clone(),
            regions: record.regions.clone(),
            record: Some(record.clone()),
            warnings: Vec::new(),
            stream: None,
            fitted: None,
        }
    }

    /// What is restored is the disk as `disk` shows it, which may be longer or shorter. `what` is for people: "fitted to kvm".
    pub fn fit(&mut self, mut disk: Changed, what: &str, monitor: &dyn Monitor) -> Result<()> {
        self.extents = disk.extents(&self.extents);
        disk.mark_end(self.leaves.as_ref().map_or(0, Leaves::size));
        let image_root = self.leaves.as_ref().map(|leaves| hex(&leaves.root()));
        self.leaves = self.leaves.as_ref().map(|leaves| disk.leaves(leaves, monitor)).transpose()?;
        let change =
            |range: &Range<u64>| Change { start: range.start, end: range.end, what: what.to_owned() };
        let changes = disk.changed.ranges().iter().map(change).collect();
        self.fitted = Some(Fitted { image_root, changes });
        self.table = disk.layout.table;
        self.regions = disk.layout.regions;
        let sector_size = self.source.sector_size();
        self.source = Box::new(WithSectors::new(disk.source, sector_size));
        Ok(())
    }

    /// Takes any disk as an image: everything is data, and unallocated ranges are zeros.
    pub fn without_manifest(
        path: &Path,
        format: Format,
        source: Box<dyn BlockSource>,
        mut warnings: Vec<String>,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        // A table says in which sectors it counts; the readers find it and warn.
        let options = layout::Options { all: false, hibernated: Hibernated::Keep };
        let mut layouts = layout::analyze(&[&*source], &options, monitor).doing(|| "looking at the image")?;
        let Some(layout) = layouts.pop() else {
            return Err(unmoor_images::Error::malformed("looking at the image", "there is no disk in it"));
        };
        let extents = copy::refine(&*source, &ExtentMap::uniform(source.size(), State::Data))?;
        warnings.push(
            "there is no manifest beside the image: all its bytes are written, and none has a recorded hash"
                .into(),
        );
        let sector_size = layout.table.sector_size;
        Ok(Self {
            path: path.to_owned(),
            format,
            source: Box::new(WithSectors::new(source, sector_size)),
            extents,
            leaves: None,
            record: None,
            table: layout.table,
            regions: layout.regions,
            warnings,
            stream: None,
            fitted: None,
            shared: None,
        })
    }
}
