// SPDX-License-Identifier: Apache-2.0
//! Real filesystems of this machine's kernel, on loop devices, written to while they are captured.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use unmoor_images::formats::{self, Compression, Format};
use unmoor_images::manifest::{self, Consistency, Manifest, MapRecord};
use unmoor_images::monitor::{Event, Silent};
use unmoor_images::store::{CheckOptions, ImageName, InitOptions, Location, PruneOptions, Since, Store};
use unmoor_images::{BlockSource, ErrorKind, Monitor, State, layout};

use super::*;
use crate::capture;
use crate::disk::OpenOptions as OpenOptionsOf;
use crate::request::{Request, Target};

fn run(program: &str, arguments: &[&str]) -> std::result::Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{program} {arguments:?}: {} {}", text(&output.stdout), text(&output.stderr))),
    }
}

/// A filesystem on a loop device, mounted.
struct Mounted {
    device: String,
    file: PathBuf,
    at: PathBuf,
    kind: &'static str,
}

impl Mounted {
    fn new(folder: &Path, kind: &'static str, megabytes: u64) -> std::result::Result<Self, String> {
        let file = folder.join(format!("{kind}.disk"));
        File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        let path = file.to_str().unwrap();
        match kind {
            "ext4" => run("mkfs.ext4", &["-q", "-F", path])?,
            _ => run(&format!("mkfs.{kind}"), &["-q", path])?,
        };
        let device = run("losetup", &["--find", "--show", path])?;
        let at = folder.join(format!("{kind}.at"));
        fs::create_dir(&at).unwrap();
        let mounted = Self { device, file, at, kind };
        run("mount", &[&mounted.device, mounted.at.to_str().unwrap()])?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.at.to_str().unwrap()]);
        let _ = run("losetup", &["-d", &self.device]);
    }
}

/// Writes to filesystems until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<std::thread::JoinHandle<()>>,
    /// Numbers that are on the disk for sure, one a filesystem.
    acknowledged: Vec<Arc<AtomicU64>>,
}

impl Load {
    /// On each: a file in which places are overwritten at random, files that come and go, and a log of numbers, each synced.
    fn start(disks: &[Mounted]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut writers, mut acknowledged) = (Vec::new(), Vec::new());
        for disk in disks {
            let counter = Arc::new(AtomicU64::new(0));
            acknowledged.push(Arc::clone(&counter));
            let (at, stopped) = (disk.at.clone(), Arc::clone(&stop));
            writers.push(std::thread::spawn(move || {
                let mut log = File::create(at.join("log")).unwrap();
                for number in 1u64.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    log.write_all(&number.to_le_bytes()).unwrap();
                    log.sync_data().unwrap();
                    counter.store(number, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }));
            let (at, stopped) = (disk.at.clone(), Arc::clone(&stop));
            writers.push(std::thread::spawn(move || {
                let big = File::create(at.join("big")).unwrap();
                let mut seed = 42u64;
                while !stopped.load(Ordering::Relaxed) {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let place = (seed >> 33) % 8192 * 4096;
                    big.write_all_at(&seed.to_le_bytes().repeat(512), place).unwrap();
                    if seed.is_multiple_of(5) {
                        let name = at.join(format!("file{}", seed % 200));
                        fs::write(&name, vec![seed as u8; (seed >> 20) as usize % 300_000]).unwrap();
                        let _ = fs::remove_file(at.join(format!("file{}", seed / 7 % 200)));
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
            }));
        }
        Self { stop, writers, acknowledged }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.drain(..).for_each(|writer| writer.join().unwrap());
    }
}

#[derive(Default)]
struct Said(Mutex<Vec<String>>);

impl Monitor for Said {
    fn event(&self, event: Event) {
        if let Event::Note(text) | Event::Warning(text) = event {
            println!("{text}");
            self.0.lock().unwrap().push(text);
        }
    }
}

fn request(disks: &[Mounted], target: &Path, live: Options) -> Request {
    Request {
        sources: disks.iter().map(|disk| disk.device.clone().into()).collect(),
        target: Target::Files { path: target.to_owned(), format: Format::Raw },
        compression: Compression::None,
        cluster_size: None,
        layout: unmoor_images::layout::Options::default(),
        open: OpenOptionsOf::default(),
        unsafe_live: false,
        live: Some(live),
        force: false,
        threads: 0,
        tool: "test".into(),
        store: None,
        since: Since::Latest,
    }
}

fn mounted(folder: &Path, kinds: &[&'static str]) -> Option<Vec<Mounted>> {
    let made: std::result::Result<Vec<_>, _> =
        kinds.iter().map(|kind| Mounted::new(folder, kind, 512)).collect();
    made.map_err(|because| println!("skipped: {because}")).ok()
}

fn without_hooks() -> Options {
    // The machine that tests run on may be slow; what is bounded here is correctness, not time.
    let (max_freeze, max_freeze_hard) = (Duration::from_secs(2), Duration::from_secs(60));
    Options { hooks: None, max_freeze, max_freeze_hard, ..Options::default() }
}

/// Byte by byte against the disk as it was while frozen, and by the filesystem's own checker after one mount of a copy.
fn check_image(disk: &Mounted, (image, map): (&Path, &MapRecord), frozen: &Path, acknowledged: u64) {
    let source = formats::open(frozen, &formats::OpenOptions::default()).unwrap().source;
    let options = layout::Options::default();
    let layouts = layout::analyze_mounted(&[&source], &options, layout::Moment::Frozen, &Silent).unwrap();
    let used = &layouts[0].extents;
    assert!(used.bytes(State::Hole) > 0, "{}: its map was not read", disk.kind);
    let (extents, _) = manifest::read_map(&image.with_file_name(&map.file), map).unwrap();
    let (truth, got) = (File::open(frozen).unwrap(), File::open(image).unwrap());
    // What passes have left behind must not show: holes are holes in the image too.
    let mut buffer = vec![0; 1 << 20];
    for extent in extents.iter().filter(|extent| extent.state != State::Data) {
        let mut at = extent.offset;
        while at < extent.end() {
            let len = (extent.end() - at).min(1 << 20) as usize;
            got.read_exact_at(&mut buffer[..len], at).unwrap();
            assert!(buffer[..len].iter().all(|byte| *byte == 0), "{}: content at {at:#x}", disk.kind);
            at += len as u64;
        }
    }
    for extent in used.iter().filter(|extent| extent.state == State::Data) {
        assert!(extents.within(extent.offset..extent.end()).all(|extent| extent.state != State::Hole));
        let mut at = extent.offset;
        while at < extent.end() {
            let len = (extent.end() - at).min(1 << 20) as usize;
            let (mut a, mut b) = (vec![0; len], vec![0; len]);
            truth.read_exact_at(&mut a, at).unwrap();
            got.read_exact_at(&mut b, at).unwrap();
            if a != b {
                let first = a.iter().zip(&b).position(|(a, b)| a != b).unwrap();
                panic!("{}: differs from the frozen disk at {:#x}", disk.kind, at + first as u64);
            }
            at += len as u64;
        }
    }
    check_files(disk.kind, image, acknowledged);
}

/// One mount and unmount of a copy; then its checker finds nothing, and what was acknowledged is there.
fn check_files(kind: &str, image: &Path, acknowledged: u64) {
    let at = image.with_extension("at");
    fs::create_dir(&at).unwrap();
    let path = image.to_str().unwrap();
    let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
    // Two btrfs of one UUID cannot be mounted at a time.
    if kind != "btrfs" {
        run("mount", &["-o", options, path, at.to_str().unwrap()]).unwrap();
        let log = fs::read(at.join("log")).unwrap();
        let numbers: Vec<u64> =
            log.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
        run("umount", &[at.to_str().unwrap()]).unwrap();
        assert!(numbers.len() as u64 >= acknowledged, "{}: {} of {acknowledged}", kind, numbers.len());
        assert!(numbers.iter().zip(1..).all(|(have, want)| *have == want), "{}", kind);
    }
    match kind {
        "ext4" => run("e2fsck", &["-f", "-n", path]),
        "xfs" => run("xfs_repair", &["-n", path]),
        _ => run("btrfs", &["check", "--force", path]),
    }
    .unwrap();
}

#[test]
fn three_disks_under_load_are_captured_as_they_were_at_one_instant() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4", "xfs", "btrfs"]) else { return };
    let load = Load::start(&disks);
    std::thread::sleep(Duration::from_secs(2));
    let at_freeze: Arc<Mutex<Vec<u64>>> = Arc::default();
    let look = {
        let files: Vec<PathBuf> = disks.iter().map(|disk| disk.file.clone()).collect();
        let (counters, at_freeze) = (load.acknowledged.clone(), Arc::clone(&at_freeze));
        Look(Arc::new(move || {
            *at_freeze.lock().unwrap() =
                counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
            for file in &files {
                fs::copy(file, file.with_extension("frozen")).unwrap();
            }
        }))
    };
    let target = folder.path().join("image.raw");
    let options = Options { method: Method::Track, while_frozen: Some(look), ..without_hooks() };
    let said = Said::default();
    let report = match capture(&request(&disks, &target, options), &said) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            println!("skipped: {}", error.chain());
            return;
        }
        result => result.unwrap(),
    };
    drop(load);
    let live = report.live.unwrap();
    assert!(live.passes >= 2 && live.method == "track" && live.filesystems.len() == 3, "{live:?}");
    assert_eq!(live.written_while_frozen_bytes, 0);
    let read = Manifest::read(&report.manifest.unwrap()).unwrap();
    assert_eq!(read.consistency, Consistency::Frozen);
    let acknowledged = at_freeze.lock().unwrap().clone();
    for (((disk, of), record), acknowledged) in
        disks.iter().zip(&report.disks).zip(&read.disks).zip(acknowledged)
    {
        assert!(acknowledged > 0);
        check_image(disk, (&of.image, &record.map), &disk.file.with_extension("frozen"), acknowledged);
    }
}

#[test]
fn without_tracking_all_is_read_once_more_under_the_freeze() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4"]) else { return };
    let load = Load::start(&disks);
    std::thread::sleep(Duration::from_secs(1));
    let file = disks[0].file.clone();
    let look = Look(Arc::new(move || {
        fs::copy(&file, file.with_extension("frozen")).unwrap();
    }));
    let target = folder.path().join("image.raw");
    let options = Options { method: Method::Converge, while_frozen: Some(look), ..without_hooks() };
    let report = capture(&request(&disks, &target, options), &Said::default()).unwrap();
    drop(load);
    assert_eq!(report.live.unwrap().method, "converge");
    let read = Manifest::read(&report.manifest.unwrap()).unwrap();
    check_image(&disks[0], (&target, &read.disks[0].map), &disks[0].file.with_extension("frozen"), 1);
}

#[test]
fn a_target_that_would_be_frozen_and_a_stream_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4"]) else { return };
    let inside = disks[0].at.join("image.raw");
    let error = capture(&request(&disks, &inside, without_hooks()), &Said::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.chain().contains("another disk"), "{}", error.chain());
    let mut stream = request(&disks, &inside, without_hooks());
    stream.target = Target::Stream(Format::Raw);
    assert_eq!(capture(&stream, &Said::default()).unwrap_err().kind(), ErrorKind::Usage);
    let mut order = request(&disks, &folder.path().join("a.vmdk"), without_hooks());
    order.target = Target::Files { path: folder.path().join("a.vmdk"), format: Format::Vmdk };
    let error = capture(&order, &Said::default()).unwrap_err();
    assert!(error.chain().contains("front to back"), "{}", error.chain());
    assert!(!folder.path().join("a.vmdk").exists() && !inside.exists());
}

#[test]
fn the_watchdog_thaws_after_its_limit_and_the_capture_then_fails() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4"]) else { return };
    let at = disks[0].at.clone();
    let look = Look(Arc::new(move || {
        let began = std::time::Instant::now();
        // Waits for the thaw, which only the watchdog can bring: we are what holds it up.
        fs::write(at.join("after"), "thawed").unwrap();
        assert!(began.elapsed() > Duration::from_millis(500));
    }));
    let target = folder.path().join("image.raw");
    let options =
        Options { max_freeze_hard: Duration::from_secs(2), while_frozen: Some(look), ..without_hooks() };
    let error = capture(&request(&disks, &target, options), &Said::default()).unwrap_err();
    assert!(error.chain().contains("max-freeze-hard"), "{}", error.chain());
    assert!(!target.exists(), "nothing half-done looks done");
    fs::write(disks[0].at.join("more"), "goes on").unwrap();
}

/// Each image in the store is whole, and shows its own instant; only what was written is read for it.
#[test]
fn following_reads_what_was_written_and_every_image_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4", "xfs"]) else { return };
    const STILL: u64 = 120 << 20;
    // So much of each is at rest, and must not be read again.
    for disk in &disks {
        let still: Vec<u8> =
            (0..STILL as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(disk.at.join("still"), still).unwrap();
    }
    let location = Location::Directory(folder.path().join("store"));
    let store = Store::init(&location, &InitOptions::default()).unwrap();
    let load = Load::start(&disks);
    let instants: Arc<Mutex<Vec<Vec<u64>>>> = Arc::default();
    let look = {
        let (counters, instants) = (load.acknowledged.clone(), Arc::clone(&instants));
        Look(Arc::new(move || {
            let now = counters.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
            instants.lock().unwrap().push(now);
        }))
    };
    let options = Options { method: Method::Track, while_frozen: Some(look), ..without_hooks() };
    let mut request = request(&disks, Path::new("unused"), options.clone());
    request.target = Target::Store { location, machine: "web".into() };
    request.store = Some(Arc::new(store.clone()));
    let said = Said::default();
    let mut follower = match Follower::start(request, &options, &said) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            println!("skipped: {}", error.chain());
            return;
        }
        follower => follower.unwrap(),
    };
    let mut read = Vec::new();
    for round in 0..5 {
        if round == 3 {
            // What is not in the store any more is read again, and no image relies on it.
            store.remove_images(&store.images().unwrap()).unwrap();
            let options = PruneOptions { wait: false, ..PruneOptions::default() };
            store.prune(&options, &said).unwrap();
        }
        let report = follower.capture(&said).unwrap();
        read.push(report.stored.unwrap().added.read_bytes);
        // Images are named by the second.
        std::thread::sleep(Duration::from_millis(1100));
    }
    drop(load);
    for (round, bytes) in read.iter().enumerate() {
        assert_eq!(*bytes > 2 * STILL, round == 0 || round == 3, "{read:?}");
    }
    let checked = store.check(&CheckOptions::default(), &said).unwrap();
    assert!(checked.hurt.is_empty() && checked.damaged.is_empty(), "{checked:?}");
    let images = store.images_of("web").unwrap();
    assert_eq!(images.len(), 2);
    let instants = instants.lock().unwrap().clone();
    for (image, instant) in images.iter().zip(&instants[instants.len() - 2..]) {
        let opened =
            store.open_image(&ImageName { machine: "web".into(), time: Some(image.time.clone()) }).unwrap();
        for ((disk, stored), acknowledged) in disks.iter().zip(&opened.disks).zip(instant) {
            let back = folder.path().join(format!("{}-{}.raw", image.time, disk.kind));
            let file = File::create(&back).unwrap();
            file.set_len(stored.source.size()).unwrap();
            let mut buffer = vec![0; 1 << 20];
            for at in (0..stored.source.size()).step_by(1 << 20) {
                stored.source.read_at(&mut buffer, at).unwrap();
                if buffer.iter().any(|byte| *byte != 0) {
                    file.write_all_at(&buffer, at).unwrap();
                }
            }
            check_files(disk.kind, &back, *acknowledged);
        }
    }
}

#[test]
fn who_writes_without_a_filesystem_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disks) = mounted(folder.path(), &["ext4"]) else { return };
    let raw = folder.path().join("raw.disk");
    File::create(&raw).unwrap().set_len(64 << 20).unwrap();
    let device = run("losetup", &["--find", "--show", raw.to_str().unwrap()]).unwrap();
    let raw = Mounted { device: device.clone(), file: raw, at: folder.path().join("nowhere"), kind: "raw" };
    // As a database that has a volume for itself.
    let held = fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device).unwrap();
    let both = [disks.into_iter().next().unwrap(), raw];
    let target = folder.path().join("image.raw");
    let report = capture(&request(&both, &target, without_hooks()), &Said::default()).unwrap();
    drop(held);
    assert_eq!(report.live.unwrap().raw_users, [device]);
}
