// SPDX-License-Identifier: Apache-2.0
//! An image of a store, as image files with their manifest: what a capture to files would have made.

use std::path::{Path, PathBuf};

use unmoor_images::adapt::WithSectors;
use unmoor_images::copy::{self, copy};
use unmoor_images::formats::raw::StreamSink;
use unmoor_images::formats::vmdk::VmdkSink;
use unmoor_images::formats::{self, Compression, CreateOptions, Format};
use unmoor_images::manifest::{self, DiskRecord, Manifest, hex};
use unmoor_images::monitor::Phase;
use unmoor_images::store::{StoredDisk, StoredImage};
use unmoor_images::{BlockSink, Error, ErrorKind, Monitor, Result, ResultExt, State};

use crate::capture::{DiskReport, Report, commit, file_name};
use crate::partial::Partial;
use crate::request::{Outputs, usage};

/// How to export.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The first disk's file, or `-` for a stream.
    pub path: PathBuf,
    /// Of all files.
    pub format: Format,
    /// This disk alone; all where absent.
    pub disk: Option<usize>,
    /// For formats that compress.
    pub compression: Compression,
    /// Cluster in bytes, for formats that have one; the format's usual one if absent.
    pub cluster_size: Option<u32>,
    /// Replace what is there.
    pub force: bool,
    /// Worker threads; 0 chooses.
    pub threads: usize,
}

/// Writes the disks of a stored image to files, and a manifest beside them. The bytes are those of the store: every leaf is
/// compared with its hash on the way.
pub fn export(image: StoredImage, request: &ExportRequest, monitor: &dyn Monitor) -> Result<Report> {
    let warned = image.warnings.len();
    image.warnings.iter().for_each(|warning| monitor.warn(warning.clone()));
    let mut manifest = image.record.manifest;
    let name = format!("{}@{}", image.record.summary.machine, image.image.time);
    let mut disks: Vec<(usize, StoredDisk)> = image.disks.into_iter().enumerate().collect();
    if let Some(wanted) = request.disk {
        let count = disks.len();
        disks.retain(|(index, _)| *index == wanted);
        if disks.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "choosing a disk")
                .because(format!("{name} has {count} disks, the first is 0")));
        }
        manifest.disks = manifest.disks.into_iter().nth(wanted).into_iter().collect();
    }
    let mut report = if request.path == Path::new("-") {
        to_stream(&name, &disks, &manifest, request, monitor)?
    } else {
        to_files(&name, &disks, manifest, request, monitor)?
    };
    report.warnings = warned;
    Ok(report)
}

fn to_files(
    name: &str,
    disks: &[(usize, StoredDisk)],
    mut manifest: Manifest,
    request: &ExportRequest,
    monitor: &dyn Monitor,
) -> Result<Report> {
    let outputs = Outputs::name(&request.path, disks.len());
    outputs.check(&[], request.force)?;
    let (mut reports, mut partials) = (Vec::new(), Vec::new());
    let files = outputs.images.iter().zip(&outputs.maps);
    for (((index, disk), record), (image, map)) in disks.iter().zip(&mut manifest.disks).zip(files) {
        let options = create_options(record, request);
        let (partial, sink) = Partial::create(image, |path| formats::create(path, request.format, &options))?;
        partials.push(partial);
        reports.push(copy_disk(name, (*index, disk), record, image, sink, request, monitor)?);
        let (partial, mut map_record) =
            Partial::create(map, |path| manifest::write_map(path, &disk.extents, &disk.leaves))?;
        partials.push(partial);
        map_record.file = file_name(map);
        record.image = file_name(image);
        record.image_format = request.format;
        record.map = map_record;
    }
    commit(&manifest, &outputs, partials, (&[], request.force))?;
    Ok(Report { disks: reports, manifest: Some(outputs.manifest), stored: None, live: None, warnings: 0 })
}

fn to_stream(
    name: &str,
    disks: &[(usize, StoredDisk)],
    manifest: &Manifest,
    request: &ExportRequest,
    monitor: &dyn Monitor,
) -> Result<Report> {
    let ([(index, disk)], [record]) = (disks, manifest.disks.as_slice()) else {
        return Err(usage(
            "writing to standard output",
            "only one disk fits a stream: choose it with --disk",
        ));
    };
    let stdout = std::io::stdout();
    let sink: Box<dyn BlockSink> = match request.format {
        Format::Vmdk => {
            let options = create_options(record, request);
            Box::new(VmdkSink::stream(Box::new(stdout), &format!("{name}.vmdk"), &options)?)
        }
        Format::Raw => Box::new(StreamSink::new(stdout, &disk.extents)),
        _ => return Err(usage("writing to standard output", "only raw and VMDK images can be streamed")),
    };
    let report = copy_disk(name, (*index, disk), record, Path::new("-"), sink, request, monitor)?;
    Ok(Report { disks: vec![report], manifest: None, stored: None, live: None, warnings: 0 })
}

fn create_options(record: &DiskRecord, request: &ExportRequest) -> CreateOptions {
    CreateOptions {
        size: record.size,
        sector_size: record.sector_size,
        compression: request.compression,
        cluster_size: request.cluster_size,
    }
}

fn copy_disk(
    name: &str,
    (index, disk): (usize, &StoredDisk),
    record: &DiskRecord,
    image: &Path,
    sink: Box<dyn BlockSink>,
    request: &ExportRequest,
    monitor: &dyn Monitor,
) -> Result<DiskReport> {
    let doing = || format!("exporting disk {index} of {name} to {}", image.display());
    let options =
        copy::Options { threads: request.threads, disk: index, phase: Phase::Export, name: name.to_owned() };
    let source = WithSectors::new(&disk.source, record.sector_size);
    let copied = copy(&source, &disk.extents, &*sink, &options, monitor).doing(doing)?;
    let root = hex(&copied.leaves.root());
    if root != record.root {
        let because = "what was read has other hashes than the image: run `unmoor verify`";
        return Err(Error::new(ErrorKind::Mismatch, doing()).because(because));
    }
    let stored_bytes = sink.finish().doing(doing)?.stored_bytes;
    Ok(DiskReport {
        source: PathBuf::from(format!("{name}.disk{index}")),
        image: image.to_owned(),
        size_bytes: record.size,
        data_bytes: disk.extents.bytes(State::Data),
        stored_bytes,
        root,
    })
}
