// SPDX-License-Identifier: Apache-2.0
//! Disks, captures and what came back.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::adapt::Memory;
use crate::copy::{self, copy};
use crate::formats::{Compression, Format};
use crate::manifest::{Consistency, DiskRecord, Manifest, MapRecord, hex};
use crate::monitor::{Event, Monitor, Phase, Silent};
use crate::partition;
use crate::store::backend::Directory;
use crate::store::{
    Clock, ImageName, ImageRef, InitOptions, Secret, Since, Store, Summary, Writer, WriterOptions,
};
use crate::{BlockSource, ExtentMap, LEAF, RangeSet, Result, State};

/// A clock that goes where the test says.
#[derive(Default)]
pub(super) struct TestClock(Mutex<(u64, Duration)>);

impl TestClock {
    pub(super) fn advance(&self, time: Duration) {
        self.0.lock().unwrap().1 += time;
    }
    pub(super) fn jump(&self, unix_seconds: u64) {
        self.0.lock().unwrap().0 = unix_seconds;
    }
}

impl Clock for TestClock {
    fn unix_seconds(&self) -> u64 {
        self.0.lock().unwrap().0
    }
    fn elapsed(&self) -> Duration {
        self.0.lock().unwrap().1
    }
    fn sleep(&self, time: Duration) {
        self.advance(time);
    }
}

pub(super) fn init(folder: &Path, secret: Option<Secret>) -> (Store, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    clock.jump(1_795_557_000);
    let backend = Box::new(Directory::open(folder));
    (Store::init_on(backend, &InitOptions { secret }, clock.clone()).unwrap(), clock)
}

pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk with data, zeros within data, and holes.
pub(super) fn disk(seed: u64) -> (Vec<u8>, ExtentMap) {
    let size = 90 * LEAF as usize + 4096;
    let mut bytes = vec![0; size];
    for (index, range) in
        [(0, 0..5 * LEAF as usize + 100), (1, 20 * LEAF as usize..60 * LEAF as usize), (2, size - 5000..size)]
    {
        let content = noise(range.len(), seed * 10 + index);
        bytes[range].copy_from_slice(&content);
    }
    // Text, which shrinks, and zeros in the midst of data.
    let text: Vec<u8> =
        b"some text of which there is much. ".iter().copied().cycle().take(10 * LEAF as usize).collect();
    bytes[30 * LEAF as usize..40 * LEAF as usize].copy_from_slice(&text);
    bytes[45 * LEAF as usize..47 * LEAF as usize + 7].fill(0);
    let mut data = RangeSet::of(0..6 * LEAF);
    data.insert(20 * LEAF..60 * LEAF);
    data.insert(size as u64 - 5000..size as u64);
    let extents = ExtentMap::from_data(size as u64, &mut data, State::Hole)
        .zero_holes(&mut RangeSet::of(10 * LEAF..12 * LEAF));
    (bytes, extents)
}

/// The disk as an image shows it: holes read as zeros.
pub(super) fn shown(bytes: &[u8], extents: &ExtentMap) -> Vec<u8> {
    let mut shown = vec![0; bytes.len()];
    for extent in extents.iter().filter(|extent| extent.state == State::Data) {
        let range = extent.offset as usize..extent.end() as usize;
        shown[range.clone()].copy_from_slice(&bytes[range]);
    }
    shown
}

pub(super) fn options() -> WriterOptions {
    WriterOptions { compression: Compression::Zstd(1), since: Since::Latest, holder: "a test".into() }
}

pub(super) struct Copied {
    pub(super) report: copy::Report,
    pub(super) manifest: Manifest,
}

/// Sends a disk; the caller commits.
pub(super) fn send(writer: &Writer, bytes: &[u8], extents: &ExtentMap) -> Result<Copied> {
    let source = Memory::new(bytes.to_vec());
    let run = copy::Options { threads: 3, disk: 0, phase: Phase::Capture, name: "test".into() };
    let sink = writer.sink(bytes.len() as u64);
    let report = copy(&source, extents, &sink, &run, &Silent)?;
    let manifest = Manifest {
        format: "unmoor-manifest".into(),
        version: 1,
        created: "2026-11-24T21:50:00Z".into(),
        tool: "test".into(),
        consistency: Consistency::Offline,
        live: None,
        machine: None,
        disks: vec![DiskRecord {
            source: "test".into(),
            image: "disk0".into(),
            image_format: Format::Raw,
            size: bytes.len() as u64,
            sector_size: 512,
            physical_sector_size: None,
            model: None,
            serial: None,
            wwn: None,
            table: partition::read(&source).unwrap(),
            regions: Vec::new(),
            data_bytes: extents.bytes(State::Data),
            zero_bytes: extents.bytes(State::Zero),
            hole_bytes: extents.bytes(State::Hole),
            root: hex(&report.leaves.root()),
            map: MapRecord { file: String::new(), bytes: 0, blake3: String::new() },
            unreadable: Vec::new(),
            conversions: Vec::new(),
        }],
        warnings: Vec::new(),
    };
    Ok(Copied { report, manifest })
}

pub(super) fn capture(
    store: &Store,
    machine: &str,
    bytes: &[u8],
    extents: &ExtentMap,
) -> Result<(ImageRef, Summary)> {
    let writer = Writer::begin(store, machine, &options(), &Silent)?;
    let copied = send(&writer, bytes, extents)?;
    let maps = [(&copied.report.extents, &copied.report.leaves)];
    writer.commit(copied.manifest, &maps, copied.report.read_bytes)
}

/// A store that others write as well, as another machine with another clock has it.
pub(super) fn again(folder: &Path, secret: Option<&Secret>) -> (Store, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    (Store::open_on(Box::new(Directory::open(folder)), secret, clock.clone()).unwrap(), clock)
}

/// A capture whose machine says that it is that time.
pub(super) fn capture_at(
    store: &Store,
    machine: &str,
    bytes: &[u8],
    extents: &ExtentMap,
    created: &str,
) -> ImageRef {
    let writer = Writer::begin(store, machine, &options(), &Silent).unwrap();
    let mut copied = send(&writer, bytes, extents).unwrap();
    copied.manifest.created = created.to_owned();
    let maps = [(&copied.report.extents, &copied.report.leaves)];
    writer.commit(copied.manifest, &maps, copied.report.read_bytes).unwrap().0
}

/// Captures of a machine that changes little: each but the first leaves a small pack. Answers the images by name, oldest first.
pub(super) fn little_changes(store: &Store, count: usize) -> Vec<(String, Vec<u8>, ExtentMap)> {
    let (mut bytes, extents) = disk(4);
    (0..count)
        .map(|round| {
            bytes[(20 + round) * LEAF as usize + 5] ^= 1;
            let (image, _) = capture(store, "d", &bytes, &extents).unwrap();
            (format!("d@{}", image.time), bytes.clone(), extents.clone())
        })
        .collect()
}

/// Runs something once, when prune says that it waits.
pub(super) struct Meanwhile<'a> {
    once: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
    pub(super) notes: Mutex<Vec<String>>,
}

impl<'a> Meanwhile<'a> {
    pub(super) fn new(once: impl FnOnce() + Send + 'a) -> Self {
        Self { once: Mutex::new(Some(Box::new(once))), notes: Mutex::default() }
    }
    pub(super) fn happened(&self) -> bool {
        self.once.lock().unwrap().is_none()
    }
}

impl Monitor for Meanwhile<'_> {
    fn event(&self, event: Event) {
        if let Event::Note(text) = event {
            let waits = text.contains("waiting for");
            self.notes.lock().unwrap().push(text);
            let once = if waits { self.once.lock().unwrap().take() } else { None };
            if let Some(once) = once {
                once();
            }
        }
    }
}

/// The whole disk of an image, read in odd pieces and in one, and its map.
pub(super) fn read_back(store: &Store, name: &str) -> (Vec<u8>, ExtentMap) {
    let image = store.open_image(&ImageName::parse(name).unwrap()).unwrap();
    assert_eq!(image.warnings, Vec::<String>::new());
    let disk = &image.disks[0];
    let mut whole = vec![0xEE; disk.source.size() as usize];
    disk.source.read_at(&mut whole, 0).unwrap();
    let mut pieces = vec![0xEE; whole.len()];
    let mut at = 0;
    for step in [1, 511, 4096, 300_000, 77, 1 << 20].into_iter().cycle() {
        let end = (at + step).min(pieces.len());
        disk.source.read_at(&mut pieces[at..end], at as u64).unwrap();
        at = end;
        if at == pieces.len() {
            break;
        }
    }
    assert!(whole == pieces);
    (whole, disk.extents.clone())
}

/// A disk that shares little with `one`: most of its leaves that do not shrink are others.
pub(super) fn mostly_other(one: &[u8]) -> Vec<u8> {
    let mut two = one.to_vec();
    two[20 * LEAF as usize..28 * LEAF as usize].copy_from_slice(&noise(8 * LEAF as usize, 5));
    two[40 * LEAF as usize..57 * LEAF as usize].copy_from_slice(&noise(17 * LEAF as usize, 6));
    two
}

/// A store as it is, elsewhere.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    for (name, _) in files(from) {
        let path = to.join(&name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(from.join(&name), path).unwrap();
    }
}

/// All files of a store with their lengths, but for leases.
pub(super) fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder_now) = waiting.pop() {
        for entry in std::fs::read_dir(&folder_now).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push((name, path.metadata().unwrap().len()));
            }
        }
    }
    found.sort();
    found
}
