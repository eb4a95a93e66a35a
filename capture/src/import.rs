// SPDX-License-Identifier: Apache-2.0
//! Images of others, into a store.
//!
//! ```text
//!   disk images without a manifest --------------------------------> capture, as from disks
//!   images with their manifest: facts and maps are kept, hashes compared --+
//!   Clonezilla's directories, partclone's images: used blocks as saved ----+--> Writer, image
//! ```

use std::path::{Path, PathBuf};

use unmoor_images::clonezilla::{self, ClonezillaDisk};
use unmoor_images::copy::{self, copy};
use unmoor_images::formats::{Compression, Format};
use unmoor_images::layout::{self, DiskLayout};
use unmoor_images::manifest::{self, Consistency, DiskRecord, Manifest, MapRecord, hex};
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::store::{Location, Since, Store, Writer, WriterOptions};
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, Monitor, Result, ResultExt, State};

use crate::capture::{DiskReport, Recorder, Report, Stored, capture};
use crate::disk::{Disk, OpenOptions};
use crate::facts;
use crate::request::{Request, Target, usage};
use crate::survey::{self, InUse};

/// What to import.
#[derive(Clone)]
pub struct ImportRequest {
    /// Images of the disks of one machine, in order; a manifest, for all disks that it names; a directory of Clonezilla.
    pub sources: Vec<PathBuf>,
    /// The store, for people.
    pub location: Location,
    /// The machine's name in it.
    pub machine: String,
    /// The store.
    pub store: Store,
    /// What to look at first for what is there.
    pub since: Since,
    /// Of chunks.
    pub compression: Compression,
    /// How to take disks apart that nobody has taken apart.
    pub layout: layout::Options,
    /// How to open them.
    pub open: OpenOptions,
    /// Take images as if no manifest lay beside them.
    pub ignore_manifest: bool,
    /// Worker threads; 0 chooses.
    pub threads: usize,
    /// "unmoor 0.1.0", for the manifest.
    pub tool: String,
}

/// Threads over a stream: one of them unpacks, the others compress; more would be further apart than the stream remembers.
const STREAM_THREADS: usize = 8;

/// Imports what `request` names. No source is changed, and what looks complete is.
pub fn import(request: &ImportRequest, monitor: &dyn Monitor) -> Result<Report> {
    let monitor = &Recorder::new(monitor);
    let named = |path: &Path| path.to_string_lossy().ends_with(".unmoor.json");
    if let [path] = request.sources.as_slice() {
        if clonezilla::is_one(path) {
            return saved(request, &clonezilla::open(path)?, path, monitor);
        }
        if path.is_dir() {
            let because =
                "it is a directory, and not one of Clonezilla's (it has none of the files disk and parts)";
            return Err(Error::new(ErrorKind::Usage, "importing").path(path).because(because));
        }
        if named(path) {
            let manifest = Manifest::read(path)?;
            let all: Vec<usize> = (0..manifest.disks.len()).collect();
            return recorded(request, manifest, &all, path.parent().unwrap_or(Path::new("")), monitor);
        }
    }
    let partclone: Vec<bool> = request.sources.iter().map(|path| clonezilla::is_partition(path)).collect();
    if partclone.iter().any(|is| *is) {
        let ([path], [true]) = (request.sources.as_slice(), partclone.as_slice()) else {
            let because = "an image of partclone is one partition, and becomes an image of its own";
            return Err(usage("importing several images", because));
        };
        return saved(request, &[clonezilla::partition(path)?], path, monitor);
    }
    if request.ignore_manifest {
        return plain(request, monitor);
    }
    let mut found: Option<(Manifest, Vec<usize>)> = None;
    let mut without = 0;
    for path in &request.sources {
        let Some((manifest, index)) = Manifest::beside(path)? else {
            without += 1;
            continue;
        };
        match &mut found {
            None => found = Some((manifest, vec![index])),
            Some((first, indexes)) if first.created == manifest.created && !indexes.contains(&index) => {
                indexes.push(index);
            }
            Some(_) => {
                return Err(usage(
                    "importing several images",
                    "they are not of one capture: import each, or give --ignore-manifest",
                ));
            }
        }
    }
    match found {
        None => plain(request, monitor),
        Some(_) if without > 0 => Err(usage(
            "importing several images",
            "some have a manifest beside them and some have none: import each, or give --ignore-manifest",
        )),
        Some((manifest, mut indexes)) => {
            // The first disk's file stands for the machine.
            if indexes == [0] {
                indexes = (0..manifest.disks.len()).collect();
            }
            let folder = request.sources.first().and_then(|path| path.parent()).unwrap_or(Path::new(""));
            recorded(request, manifest, &indexes, folder, monitor)
        }
    }
}

/// Disk images of which nothing is known.
fn plain(request: &ImportRequest, monitor: &Recorder<'_>) -> Result<Report> {
    let request = Request {
        sources: request.sources.clone(),
        target: Target::Store { location: request.location.clone(), machine: request.machine.clone() },
        compression: request.compression,
        cluster_size: None,
        layout: request.layout,
        open: request.open,
        unsafe_live: false,
        live: None,
        force: false,
        threads: request.threads,
        tool: request.tool.clone(),
        store: Some(std::sync::Arc::new(request.store.clone())),
        since: request.since.clone(),
    };
    capture(&request, monitor)
}

/// One disk on its way.
struct Moved<'a> {
    /// For people.
    name: String,
    source: &'a dyn BlockSource,
    extents: ExtentMap,
    /// Its numbers of bytes and its root are filled in.
    record: DiskRecord,
    /// The root that it must have; then also `extents` are kept as they are.
    root: Option<String>,
}

/// Disks of a manifest: what it says is kept, and every leaf compared.
fn recorded(
    request: &ImportRequest,
    mut manifest: Manifest,
    indexes: &[usize],
    folder: &Path,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    let records: Vec<DiskRecord> =
        indexes.iter().filter_map(|index| manifest.disks.get(*index).cloned()).collect();
    let mut paths = Vec::new();
    for record in &records {
        let name = Path::new(&record.image);
        if name.file_name() != Some(name.as_os_str()) {
            return Err(Error::malformed("reading the manifest", format!("{name:?} is not a file name")));
        }
        paths.push(folder.join(name));
    }
    let (_claims, _) = survey::claim(&paths, InUse::Refuse, monitor)?;
    let (mut disks, mut maps) = (Vec::new(), Vec::new());
    for (path, record) in paths.iter().zip(&records) {
        let doing = || format!("importing {}", path.display());
        let open = OpenOptions { format: Some(record.image_format), ..request.open };
        let disk = Disk::open(path, &open, monitor)?;
        let (extents, _) = record.read_map(folder).doing(doing)?;
        manifest::check_holes(&disk, &extents).doing(doing)?;
        disks.push(disk);
        maps.push(extents);
    }
    manifest.disks.clear();
    let moved = disks.iter().zip(maps).zip(records).map(|((disk, extents), record)| Moved {
        name: disk.path().display().to_string(),
        source: disk,
        extents,
        root: Some(record.root.clone()),
        record,
    });
    store(request, manifest, moved.collect(), request.threads, monitor)
}

/// Disks that Clonezilla or partclone has saved.
fn saved(
    request: &ImportRequest,
    disks: &[ClonezillaDisk],
    path: &Path,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    for (index, disk) in disks.iter().enumerate() {
        disk.warnings.iter().for_each(|warning| monitor.warn(format!("{}: {warning}", disk.name)));
        let name = disk.name.clone();
        monitor.event(Event::Started { disk: index, phase: Phase::Analyze, total_bytes: 0, name });
    }
    let heads: Vec<_> = disks.iter().map(|disk| disk.source.heads()).collect();
    let sources: Vec<&dyn BlockSource> = heads.iter().map(|disk| disk as &dyn BlockSource).collect();
    let layouts = layout::analyze_saved(&sources, &request.layout, monitor)
        .doing(|| format!("analyzing {}", path.display()))?;
    let mut moved = Vec::new();
    for (index, (disk, layout)) in disks.iter().zip(layouts).enumerate() {
        monitor.event(Event::Finished { disk: index });
        for warning in layout.table.warnings.iter().chain(&layout.warnings) {
            monitor.warn(format!("{}: {warning}", disk.name));
        }
        disk.source.rewind();
        let name = format!("{} of {}", disk.name, path.display());
        let record = record_of(&name, disk, &layout);
        moved.push(Moved { name, source: &disk.source, extents: layout.extents, record, root: None });
    }
    let threads = match request.threads {
        0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2),
        threads => threads,
    };
    let head = Manifest {
        format: "unmoor-manifest".to_owned(),
        version: manifest::VERSION,
        created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        tool: request.tool.clone(),
        consistency: Consistency::Offline,
        live: None,
        machine: None,
        disks: Vec::new(),
        warnings: Vec::new(),
    };
    store(request, head, moved, threads.min(STREAM_THREADS), monitor)
}

fn record_of(name: &str, disk: &ClonezillaDisk, layout: &DiskLayout) -> DiskRecord {
    DiskRecord {
        source: name.to_owned(),
        image: String::new(),
        image_format: Format::Raw,
        size: disk.source.size(),
        sector_size: disk.source.sector_size(),
        physical_sector_size: None,
        model: None,
        serial: None,
        wwn: None,
        table: layout.table.clone(),
        regions: layout.regions.clone(),
        data_bytes: 0,
        zero_bytes: 0,
        hole_bytes: 0,
        root: String::new(),
        map: MapRecord { file: String::new(), bytes: 0, blake3: String::new() },
        unreadable: Vec::new(),
        conversions: Vec::new(),
    }
}

/// Copies the disks and makes the image.
fn store(
    request: &ImportRequest,
    mut manifest: Manifest,
    disks: Vec<Moved<'_>>,
    threads: usize,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    let options = WriterOptions {
        compression: request.compression,
        since: request.since.clone(),
        holder: facts::holder(),
    };
    let (location, machine) = (&request.location, &request.machine);
    let writer = Writer::begin(&request.store, machine, &options, monitor)?;
    let since = writer.parent().map(|image| image.time.clone());
    let (mut reports, mut maps, mut read_bytes) = (Vec::new(), Vec::new(), 0);
    for (index, moved) in disks.into_iter().enumerate() {
        let doing = || format!("importing {} to {location}/{machine}", moved.name);
        let name = moved.name.clone();
        let run = copy::Options { threads, disk: index, phase: Phase::Import, name };
        let sink = Box::new(writer.sink(moved.extents.size()));
        let copied = copy(moved.source, &moved.extents, &*sink, &run, monitor).doing(doing)?;
        let root = hex(&copied.leaves.root());
        if moved.root.as_ref().is_some_and(|known| *known != root) {
            let because = "its content is not what its manifest says: `unmoor verify` names the damage, and \
                           --ignore-manifest takes it as it is";
            return Err(Error::new(ErrorKind::Mismatch, doing()).because(because));
        }
        let extents = if moved.root.is_some() { moved.extents } else { copied.extents };
        let mut record = moved.record;
        record.image = format!("disk{index}");
        record.image_format = Format::Raw;
        record.map = MapRecord { file: String::new(), bytes: 0, blake3: String::new() };
        record.data_bytes = extents.bytes(State::Data);
        record.zero_bytes = extents.bytes(State::Zero);
        record.hole_bytes = extents.bytes(State::Hole);
        record.root.clone_from(&root);
        reports.push(DiskReport {
            source: PathBuf::from(&record.source),
            image: PathBuf::from(format!("{location}/{machine}")),
            size_bytes: record.size,
            data_bytes: record.data_bytes,
            stored_bytes: writer.stored_bytes(),
            root,
        });
        read_bytes += copied.read_bytes;
        manifest.disks.push(record);
        maps.push((extents, copied.leaves));
    }
    let warnings = monitor.warnings();
    manifest.warnings.extend(warnings.iter().cloned());
    let maps: Vec<_> = maps.iter().map(|(extents, leaves)| (extents, leaves)).collect();
    let (image, summary) = writer
        .commit(manifest, &maps, read_bytes)
        .doing(|| format!("completing the image of {machine} in {location}"))?;
    let image = format!("{location}/{machine}@{}", image.time);
    let stored = Stored { image, since, added: summary.added };
    Ok(Report { disks: reports, manifest: None, stored: Some(stored), live: None, warnings: warnings.len() })
}
