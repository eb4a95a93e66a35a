// SPDX-License-Identifier: Apache-2.0
//! The verb: disks to images.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use unmoor_images::adapt::Patched;
use unmoor_images::copy::{self, copy};
use unmoor_images::formats::raw::StreamSink;
use unmoor_images::formats::vmdk::VmdkSink;
use unmoor_images::formats::{self, CreateOptions, Format};
use unmoor_images::layout::DiskLayout;
use unmoor_images::manifest::{self, Consistency, DiskRecord, LiveRecord, Manifest, MapRecord};
use unmoor_images::monitor::{Event, Phase};
use unmoor_images::store::{Added, Receiver, WriterOptions};
use unmoor_images::{BlockSink, BlockSource, Error, ErrorKind, Monitor, Result, ResultExt, State};

use crate::disk::{Disk, Kind};
use crate::facts;
use crate::live::{self, Session};
use crate::partial::Partial;
use crate::request::{Outputs, Request, Target, usage};
use crate::survey::{self, InUse, Survey, disk_facts, machine_of, survey, written_at};

/// What a capture made.
#[derive(Debug)]
pub struct Report {
    /// One element a disk.
    pub disks: Vec<DiskReport>,
    /// Where the manifest is; none for a stream, or in a store.
    pub manifest: Option<PathBuf>,
    /// What a store has of it.
    pub stored: Option<Stored>,
    /// How disks in use were captured.
    pub live: Option<LiveRecord>,
    /// How many warnings there were.
    pub warnings: usize,
}

/// An image that was stored.
#[derive(Debug)]
pub struct Stored {
    /// STORE/NAME@TIME
    pub image: String,
    /// The image that was looked at first, if there was one.
    pub since: Option<String>,
    /// What was read, new, and stored.
    pub added: Added,
}

/// What became of one disk.
#[derive(Debug)]
pub struct DiskReport {
    /// The source.
    pub source: PathBuf,
    /// Its image; `-` for a stream.
    pub image: PathBuf,
    /// Disk size in bytes.
    pub size_bytes: u64,
    /// Bytes of data, as the extent map counts them.
    pub data_bytes: u64,
    /// Bytes that the image occupies.
    pub stored_bytes: u64,
    /// Root of the Merkle tree, hex.
    pub root: String,
}

/// Captures the disks that `request` names. Whatever happens, no source is written to, and what looks complete is.
pub fn capture(request: &Request, monitor: &dyn Monitor) -> Result<Report> {
    let monitor = &Recorder::new(monitor);
    if let Target::Files { path, .. } = &request.target {
        let outputs = Outputs::name(path, request.sources.len());
        outputs.check(&request.sources, request.force)?;
    }
    match &request.live {
        Some(options) => {
            let disks = live::open_disks(request, monitor)?;
            let session = Session::start(request, options, &disks, monitor)?;
            capture_from(request, &Origin::Live(&disks, &session), monitor)
        }
        None => {
            let options = survey::Options {
                open: request.open,
                layout: request.layout,
                in_use: if request.unsafe_live { InUse::Take } else { InUse::Refuse },
            };
            let survey = survey(&request.sources, &options, monitor)?;
            capture_from(request, &Origin::AtRest(&survey), monitor)
        }
    }
}

/// What is captured.
pub(crate) enum Origin<'o, 'a> {
    /// Disks that nobody writes to, or that are read as if nobody did.
    AtRest(&'o Survey<'a>),
    /// Disks in use.
    Live(&'o [Disk<'a>], &'o Session),
}

impl<'a> Origin<'_, 'a> {
    fn disks(&self) -> &[Disk<'a>] {
        match self {
            Self::AtRest(survey) => &survey.disks,
            Self::Live(disks, _) => disks,
        }
    }
}

/// All disks, read to their sinks.
struct Read<'o> {
    disks: Vec<(DiskReport, copy::Report)>,
    layouts: Cow<'o, [DiskLayout]>,
    consistency: Consistency,
    live: Option<LiveRecord>,
}

pub(crate) fn capture_from(
    request: &Request,
    origin: &Origin<'_, '_>,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    match (&request.target, origin) {
        (Target::Stream(format), Origin::AtRest(survey)) => {
            capture_to_stream(request, *format, survey, monitor)
        }
        // Refused when the session began.
        (Target::Stream(_), Origin::Live(..)) => {
            Err(usage("capturing live", "what was streamed cannot be corrected"))
        }
        (Target::Files { path, format }, _) => {
            if let Origin::AtRest(survey) = origin {
                warn_if_short_of_room(path, survey, monitor);
            }
            let outputs = Outputs::name(path, request.sources.len());
            capture_to_files(request, *format, &outputs, origin, monitor)
        }
        (Target::Store { machine, .. } | Target::Server { machine, .. }, _) => {
            let store =
                request.store.as_ref().ok_or_else(|| usage("storing an image", "its store is not open"))?;
            capture_to_store(request, (&**store, machine), origin, monitor)
        }
    }
}

fn capture_to_files(
    request: &Request,
    format: Format,
    outputs: &Outputs,
    origin: &Origin<'_, '_>,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    let created = now();
    let machine = machine_of(origin.disks());
    let (mut partials, mut sinks) = (Vec::new(), Vec::new());
    for (disk, image) in origin.disks().iter().zip(&outputs.images) {
        let options = create_options(request, disk);
        let (partial, sink) = Partial::create(image, |path| formats::create(path, format, &options))?;
        partials.push(partial);
        sinks.push(sink);
    }
    let read = read_all(request, origin, sinks, &outputs.images, monitor)?;
    let (mut disks, mut records) = (Vec::new(), Vec::new());
    let sources = origin.disks().iter().zip(read.layouts.iter());
    let names = outputs.images.iter().zip(&outputs.maps);
    for (((disk, layout), (image, map)), (report, copied)) in sources.zip(names).zip(read.disks) {
        let (partial, mut map_record) =
            Partial::create(map, |path| manifest::write_map(path, &copied.extents, &copied.leaves))?;
        partials.push(partial);
        map_record.file = file_name(map);
        records.push(record(disk, layout, (image, format), &copied, map_record));
        disks.push(report);
    }
    let manifest = Manifest {
        format: "unmoor-manifest".to_owned(),
        version: manifest::VERSION,
        created,
        tool: request.tool.clone(),
        consistency: read.consistency,
        live: read.live,
        machine,
        disks: records,
        warnings: monitor.warnings(),
    };
    commit(&manifest, outputs, partials, (&request.sources, request.force))?;
    let warnings = monitor.warnings().len();
    Ok(Report {
        disks,
        manifest: Some(outputs.manifest.clone()),
        stored: None,
        live: manifest.live,
        warnings,
    })
}

fn capture_to_store(
    request: &Request,
    (store, machine): (&dyn Receiver, &str),
    origin: &Origin<'_, '_>,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    let created = now();
    let facts = machine_of(origin.disks());
    let options = WriterOptions {
        compression: request.compression,
        since: request.since.clone(),
        holder: facts::holder(),
    };
    let writer = store.begin(machine, &options, monitor)?;
    let since = writer.since();
    if let Origin::Live(_, session) = origin {
        session.check_known(&|hash| writer.rely(hash), monitor);
    }
    let name = PathBuf::from(request.target.to_string());
    let sinks = origin.disks().iter().map(|disk| writer.sink(disk.size())).collect();
    let names = vec![name; origin.disks().len()];
    let read = read_all(request, origin, sinks, &names, monitor)?;
    let (mut disks, mut records, mut reports) = (Vec::new(), Vec::new(), Vec::new());
    for (index, ((disk, layout), (report, copied))) in
        origin.disks().iter().zip(read.layouts.iter()).zip(read.disks).enumerate()
    {
        let nowhere = MapRecord { file: String::new(), bytes: 0, blake3: String::new() };
        let image = PathBuf::from(format!("disk{index}"));
        records.push(record(disk, layout, (&image, Format::Raw), &copied, nowhere));
        disks.push(report);
        reports.push(copied);
    }
    let live = read.live.clone();
    let manifest = Manifest {
        format: "unmoor-manifest".to_owned(),
        version: manifest::VERSION,
        created,
        tool: request.tool.clone(),
        consistency: read.consistency,
        live: read.live,
        machine: facts,
        disks: records,
        warnings: monitor.warnings(),
    };
    let maps: Vec<_> = reports.iter().map(|report| (&report.extents, &report.leaves)).collect();
    let read_bytes = reports.iter().map(|report| report.read_bytes).sum();
    let committed = writer
        .commit(manifest, &maps, read_bytes)
        .doing(|| format!("completing the image {}", request.target));
    if let Origin::Live(_, session) = origin {
        session.keep(reports);
    }
    let (time, summary) = committed?;
    let image = format!("{}@{time}", request.target);
    let stored = Stored { image, since, added: summary.added };
    Ok(Report { disks, manifest: None, stored: Some(stored), live, warnings: monitor.warnings().len() })
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads every disk to its sink, and finishes those.
fn read_all<'o>(
    request: &Request,
    origin: &Origin<'o, '_>,
    sinks: Vec<Box<dyn BlockSink + '_>>,
    images: &[PathBuf],
    monitor: &Recorder<'_>,
) -> Result<Read<'o>> {
    match origin {
        Origin::AtRest(survey) => {
            let mut disks = Vec::new();
            let sources = survey.disks.iter().zip(&survey.layouts);
            for (index, ((source, sink), image)) in sources.zip(sinks).zip(images).enumerate() {
                disks.push(copy_disk(request, index, source, image, sink, monitor)?);
            }
            let consistency = survey.consistency;
            Ok(Read { disks, layouts: Cow::Borrowed(&survey.layouts), consistency, live: None })
        }
        Origin::Live(sources, session) => {
            let taken = session.take(request, sources, &sinks, monitor)?;
            for warning in
                taken.layouts.iter().flat_map(|layout| layout.table.warnings.iter().chain(&layout.warnings))
            {
                monitor.warn(warning.clone());
            }
            let mut disks = Vec::new();
            for (((disk, sink), image), copied) in sources.iter().zip(sinks).zip(images).zip(taken.copies) {
                let stored_bytes = sink
                    .finish()
                    .doing(|| format!("capturing {} to {}", disk.path().display(), image.display()))?
                    .stored_bytes;
                warn_of_unreadable(disk, monitor);
                disks.push((disk_report(disk, image, stored_bytes, &copied), copied));
            }
            let consistency =
                if taken.record.hooks.is_empty() { Consistency::Frozen } else { Consistency::Application };
            Ok(Read { disks, layouts: Cow::Owned(taken.layouts), consistency, live: Some(taken.record) })
        }
    }
}

fn create_options(request: &Request, disk: &Disk<'_>) -> CreateOptions {
    CreateOptions {
        size: disk.size(),
        sector_size: disk.sector_size(),
        compression: request.compression,
        cluster_size: request.cluster_size,
    }
}

/// Names everything, the manifest last: until it is there, nothing is complete, and a failure removes what was named.
pub(crate) fn commit(
    manifest: &Manifest,
    outputs: &Outputs,
    mut partials: Vec<Partial>,
    (sources, force): (&[PathBuf], bool),
) -> Result<()> {
    // Somebody may have made a file of that name meanwhile.
    outputs.check(sources, force)?;
    match std::fs::remove_file(&outputs.manifest) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("removing the old manifest", error).path(&outputs.manifest));
        }
        _ => manifest::sync_folder(&outputs.manifest)?,
    }
    for partial in &mut partials {
        partial.rename()?;
    }
    manifest::sync_folder(&outputs.manifest)?;
    manifest.write(&outputs.manifest)?;
    partials.into_iter().for_each(Partial::keep);
    Ok(())
}

fn capture_to_stream(
    request: &Request,
    format: Format,
    survey: &Survey<'_>,
    monitor: &Recorder<'_>,
) -> Result<Report> {
    let ([disk], [layout]) = (survey.disks.as_slice(), survey.layouts.as_slice()) else {
        return Err(usage("writing to standard output", "only one disk fits a stream"));
    };
    monitor.note("a stream has no manifest: its content cannot be verified later".to_owned());
    let stdout = std::io::stdout();
    let sink: Box<dyn BlockSink> = match format {
        Format::Vmdk => {
            let name = disk.path().file_name().unwrap_or_default().to_string_lossy();
            let options = create_options(request, disk);
            Box::new(VmdkSink::stream(Box::new(stdout), &format!("{name}.vmdk"), &options)?)
        }
        _ => Box::new(StreamSink::new(stdout, &layout.extents)),
    };
    let (report, _) = copy_disk(request, 0, (disk, layout), Path::new("-"), sink, monitor)?;
    Ok(Report {
        disks: vec![report],
        manifest: None,
        stored: None,
        live: None,
        warnings: monitor.warnings().len(),
    })
}

/// Copies one disk and finishes its sink.
fn copy_disk(
    request: &Request,
    index: usize,
    (disk, layout): (&Disk<'_>, &DiskLayout),
    image: &Path,
    sink: Box<dyn BlockSink + '_>,
    monitor: &dyn Monitor,
) -> Result<(DiskReport, copy::Report)> {
    let doing = || format!("capturing {} to {}", disk.path().display(), image.display());
    let before = written_at(disk.path());
    let options = copy::Options {
        threads: request.threads,
        disk: index,
        phase: Phase::Capture,
        name: disk.path().display().to_string(),
    };
    let source = Patched::new(disk, &layout.patches);
    let copied = copy(&source, &layout.extents, &*sink, &options, monitor).doing(doing)?;
    let stored_bytes = sink.finish().doing(doing)?.stored_bytes;
    if before != written_at(disk.path()) {
        let because = "somebody wrote to the source meanwhile";
        if !request.unsafe_live {
            return Err(Error::new(ErrorKind::Mismatch, doing()).because(because));
        }
        monitor.warn(format!("{}: {because}", disk.path().display()));
    }
    warn_of_unreadable(disk, monitor);
    Ok((disk_report(disk, image, stored_bytes, &copied), copied))
}

fn warn_of_unreadable(disk: &Disk<'_>, monitor: &dyn Monitor) {
    let mut unreadable = disk.unreadable();
    if !unreadable.ranges().is_empty() {
        monitor.warn(format!(
            "{}: {} bytes in {} places could not be read and are zeros in the image, the first at {:#x}",
            disk.path().display(),
            unreadable.bytes(),
            unreadable.ranges().len(),
            unreadable.ranges().first().map_or(0, |range| range.start),
        ));
    }
}

fn disk_report(disk: &Disk<'_>, image: &Path, stored_bytes: u64, copied: &copy::Report) -> DiskReport {
    DiskReport {
        source: disk.path().to_owned(),
        image: image.to_owned(),
        size_bytes: disk.size(),
        data_bytes: copied.extents.bytes(State::Data),
        stored_bytes,
        root: manifest::hex(&copied.leaves.root()),
    }
}

fn record(
    disk: &Disk<'_>,
    layout: &DiskLayout,
    (image, image_format): (&Path, Format),
    copied: &copy::Report,
    map: MapRecord,
) -> DiskRecord {
    let facts = disk_facts(disk).unwrap_or_default();
    let physical_sector_size = match disk.kind() {
        Kind::Device { physical_sector_size, .. } => Some(*physical_sector_size),
        Kind::Image(_) => None,
    };
    let bytes = |state| copied.extents.bytes(state);
    DiskRecord {
        source: disk.path().display().to_string(),
        image: file_name(image),
        image_format,
        size: disk.size(),
        sector_size: disk.sector_size(),
        physical_sector_size,
        model: facts.model,
        serial: facts.serial,
        wwn: facts.wwn,
        table: layout.table.clone(),
        regions: layout.regions.clone(),
        data_bytes: bytes(State::Data),
        zero_bytes: bytes(State::Zero),
        hole_bytes: bytes(State::Hole),
        root: manifest::hex(&copied.leaves.root()),
        map,
        unreadable: disk.unreadable().ranges().iter().map(|range| (range.start, range.end)).collect(),
        conversions: Vec::new(),
    }
}

pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Compression may make it fit, so this is no refusal.
fn warn_if_short_of_room(target: &Path, survey: &Survey<'_>, monitor: &dyn Monitor) {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Ok(room) = nix::sys::statvfs::statvfs(folder) else { return };
    let free = room.blocks_available().saturating_mul(room.fragment_size());
    let need: u64 = (0..survey.disks.len()).map(|index| survey.data_bytes(index)).sum();
    if free < need {
        monitor.note(format!(
            "{} has {} MiB free, and up to {} MiB will be written: it may not suffice",
            folder.display(),
            free >> 20,
            need >> 20
        ));
    }
}

/// Passes everything on, and keeps the warnings for the manifest.
pub(crate) struct Recorder<'a> {
    inner: &'a dyn Monitor,
    warnings: Mutex<Vec<String>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(inner: &'a dyn Monitor) -> Self {
        Self { inner, warnings: Mutex::default() }
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Monitor for Recorder<'_> {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = &event {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            // A library that reports and returns the same warning says it once.
            if warnings.iter().any(|known| known == text || known.ends_with(&format!(": {text}"))) {
                return;
            }
            warnings.push(text.clone());
        }
        self.inner.event(event);
    }

    fn cancelled(&self) -> bool {
        self.inner.cancelled()
    }
}
