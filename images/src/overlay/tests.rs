// SPDX-License-Identifier: Apache-2.0
//! Overlays that QEMU writes to, and commits that are killed at every step.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::formats::{Compression, CreateOptions};
use crate::manifest::{Consistency, DiskRecord, Manifest, hex, write_map};
use crate::merkle::Leaves;
use crate::monitor::{Event, Monitor, Phase, Silent};
use crate::{ExtentMap, RangeSet, State, copy, layout};

const SIZE: u64 = 8 << 20;

/// Runs a tool of QEMU's.
fn qemu(tool: &str, args: &[&str]) {
    let output = Command::new(tool).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; install the package qemu-utils"));
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes of a disk, of which the second quarter is in no use.
fn content(seed: u8) -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    for (index, byte) in disk.iter_mut().enumerate() {
        let hole = (SIZE as usize / 4..SIZE as usize / 2).contains(&index);
        *byte = if hole { 0 } else { seed.wrapping_add((index / 700) as u8).wrapping_mul(31) };
    }
    disk
}

/// An image as a capture makes it, with map and manifest.
fn images(folder: &Path, formats: &[Format]) -> Vec<Target> {
    let mut disks = Vec::new();
    let mut targets = Vec::new();
    for (index, &format) in formats.iter().enumerate() {
        let extension = if format == Format::Raw { "raw" } else { "qcow2" };
        let image = folder.join(format!("m.disk{index}.{extension}"));
        let options = CreateOptions {
            size: SIZE,
            sector_size: 512,
            compression: Compression::Zstd(1),
            cluster_size: None,
        };
        let sink = formats::create(&image, format, &options).unwrap();
        let mut used = RangeSet::of(0..SIZE / 4);
        used.insert(SIZE / 2..SIZE);
        let extents = ExtentMap::from_data(SIZE, &mut used, State::Hole);
        let run = copy::Options { threads: 1, disk: 0, phase: Phase::Capture, name: String::new() };
        let source = crate::adapt::Memory::new(content(index as u8));
        let report = copy::copy(&source, &extents, &*sink, &run, &Silent).unwrap();
        sink.finish().unwrap();
        let map_file = folder.join(format!("m.disk{index}.map"));
        let map = write_map(&map_file, &report.extents, &report.leaves).unwrap();
        let layout = layout::analyze(&[&source], &Default::default(), &Silent).unwrap().remove(0);
        disks.push(DiskRecord {
            source: format!("/dev/sd{index}"),
            image: image.file_name().unwrap().to_string_lossy().into_owned(),
            image_format: format,
            size: SIZE,
            sector_size: 512,
            physical_sector_size: None,
            model: None,
            serial: None,
            wwn: None,
            table: layout.table,
            regions: layout.regions,
            data_bytes: 0,
            zero_bytes: 0,
            hole_bytes: 0,
            root: hex(&report.leaves.root()),
            map,
            unreadable: Vec::new(),
            conversions: Vec::new(),
        });
        targets.push(Target::file(image, format, 512));
    }
    let manifest = Manifest {
        format: "unmoor-manifest".into(),
        version: 1,
        created: "2026-01-01T00:00:00Z".into(),
        tool: "test".into(),
        consistency: Consistency::Offline,
        live: None,
        machine: None,
        disks,
        warnings: Vec::new(),
    };
    manifest.write(&folder.join("m.unmoor.json")).unwrap();
    targets
}

fn about() -> About {
    About { time: "2026-01-02T00:00:00Z".into(), tool: "test".into(), what: "fitted to kvm".into() }
}

/// What QEMU writes: (pattern byte, first byte, length).
const WRITES: [(u8, u64, u64); 5] = [
    (0x11, 3000, 5000),
    (0x22, SIZE / 4 + 8192, 4096),
    (0x00, SIZE / 4 + 600_000, 8192),
    (0x33, SIZE / 2 - 100, 200_000),
    (0x00, SIZE - 65536, 65536),
];

fn write_by_qemu(overlay: &Path) {
    let mut commands = vec!["-f".to_owned(), "qcow2".to_owned()];
    for (byte, start, len) in WRITES {
        commands.extend(["-c".to_owned(), format!("write -P {byte} {start} {len}")]);
    }
    commands.push(text(overlay).to_owned());
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    qemu("qemu-io", &commands);
}

fn model(seed: u8) -> Vec<u8> {
    let mut disk = content(seed);
    for (byte, start, len) in WRITES {
        disk[start as usize..(start + len) as usize].fill(byte);
    }
    disk
}

fn read_all(target: &Target) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    base(target).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The image, its map and its manifest say the same, and it is `want`.
fn assert_true(targets: &[Target], changed: bool) {
    for (index, target) in targets.iter().enumerate() {
        let want = if changed { model(index as u8) } else { content(index as u8) };
        assert!(read_all(target) == want, "disk {index}");
        if target.format == Format::Qcow2 {
            qemu("qemu-img", &["check", "-q", text(&target.image)]);
        }
        let (manifest, at) = Manifest::beside(&target.image).unwrap().unwrap();
        let record = &manifest.disks[at];
        let (extents, leaves) = record.read_map(target.image.parent().unwrap()).unwrap();
        let source = base(target).unwrap();
        crate::manifest::check_holes(&*source, &extents).unwrap();
        let run = copy::Options { threads: 1, disk: 0, phase: Phase::Verify, name: String::new() };
        assert!(copy::verify(&*source, &extents, &leaves, &run, &Silent).unwrap().is_exact());
        assert_eq!(record.conversions.len(), usize::from(changed));
        let flat = Leaves::from_pairs(
            SIZE,
            want.chunks(crate::LEAF as usize)
                .enumerate()
                .map(|(index, data)| (index as u64, crate::merkle::leaf(data)))
                .collect(),
        );
        assert_eq!(leaves, flat.unwrap(), "every leaf is that of the disk");
        if changed {
            // What was unused and is written now, even with zeros, must be written by a restore.
            for (_, start, len) in WRITES {
                let mut inside = extents.within(start..start + len);
                assert!(inside.all(|extent| extent.state != State::Hole), "{start:#x}");
            }
            for (start, end) in &record.conversions[0].changed {
                assert!(start % crate::LEAF == 0 && end > start);
            }
        }
        let left = |name: PathBuf| assert!(!name.exists(), "{} is left", name.display());
        left(path_for(&target.image));
        left(record::path_for(&target.image));
    }
}

#[test]
fn what_qemu_writes_to_overlays_is_committed_with_map_and_manifest() {
    for formats in [&[Format::Qcow2][..], &[Format::Raw], &[Format::Qcow2, Format::Raw]] {
        let folder = tempfile::tempdir().unwrap();
        let targets = images(folder.path(), formats);
        assert_true(&targets, false);
        let overlays = create(&targets).unwrap();
        assert!(create(&targets).err().unwrap().chain().contains("another unmoor"));
        for (index, path) in overlays.paths().iter().enumerate() {
            qemu("qemu-img", &["check", "-q", text(path)]);
            write_by_qemu(path);
            let mut seen = vec![0; SIZE as usize];
            overlays.sources().unwrap()[index].read_at(&mut seen, 0).unwrap();
            assert!(seen == model(index as u8));
            assert!(read_all(&targets[index]) == content(index as u8), "the image is as it was");
        }
        let done = commit(overlays, &about(), &Silent).unwrap();
        assert!(done.changed_bytes.iter().all(|bytes| (200_000..500_000).contains(bytes)));
        assert_true(&targets, true);
        assert!(!finish_interrupted(&targets[0].image, &Silent).unwrap());
    }
}

#[test]
fn overlays_that_are_dropped_or_left_by_a_killed_run_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let targets = images(folder.path(), &[Format::Qcow2]);
    let overlays = create(&targets).unwrap();
    write_by_qemu(&path_for(&targets[0].image));
    drop(overlays);
    assert_true(&targets, false);
    std::fs::write(path_for(&targets[0].image), "left by a killed run").unwrap();
    assert!(!finish_interrupted(&targets[0].image, &Silent).unwrap());
    let overlays = create(&targets).unwrap();
    let done = commit(overlays, &about(), &Silent).unwrap();
    assert_eq!(done.changed_bytes, [0]);
    assert_true(&targets, false);
}

#[test]
fn an_overlay_may_show_a_longer_or_shorter_disk() {
    let folder = tempfile::tempdir().unwrap();
    let targets = images(folder.path(), &[Format::Qcow2]);
    let (manifest, _) = Manifest::beside(&targets[0].image).unwrap().unwrap();
    let (extents, leaves) = manifest.disks[0].read_map(folder.path()).unwrap();
    for size in [SIZE + 700 * 512, SIZE - 3 * 512] {
        let apart = tempfile::tempdir().unwrap();
        let overlays = create_apart(&targets, &[size], apart.path()).unwrap();
        let at = size - 1024;
        qemu("qemu-io", &["-f", "qcow2", "-c", &format!("write -P 9 {at} 1024"), text(&overlays.paths()[0])]);
        let mut changed = changes(&overlays, &Silent).unwrap().remove(0);
        changed.mark_end(SIZE);
        assert_eq!(changed.source.size(), size);
        let mut want = content(0);
        want.resize(size as usize, 0);
        want[at as usize..].fill(9);
        let mut seen = vec![0; size as usize];
        changed.source.read_at(&mut seen, 0).unwrap();
        assert!(seen == want);
        let new = changed.leaves(&leaves, &Silent).unwrap();
        let pairs = want.chunks(crate::LEAF as usize).enumerate();
        let pairs = pairs.map(|(index, data)| (index as u64, crate::merkle::leaf(data))).collect();
        assert_eq!(new, Leaves::from_pairs(size, pairs).unwrap());
        let new = changed.extents(&extents);
        assert_eq!(new.size(), size);
        assert!(new.within(at..size).all(|extent| extent.state == State::Data));
    }
    assert_true(&targets, false);
}

/// Wants to stop from its `left`th question on.
struct Stopping {
    left: AtomicUsize,
}

impl Monitor for Stopping {
    fn event(&self, _: Event) {}

    fn cancelled(&self) -> bool {
        let before =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1)));
        before == Ok(0)
    }
}

#[test]
fn a_commit_that_is_stopped_before_it_is_decided_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let targets = images(folder.path(), &[Format::Qcow2, Format::Raw]);
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for questions in 0.. {
        let overlays = create(&targets).unwrap();
        overlays.paths().iter().for_each(|path| write_by_qemu(path));
        let monitor = Stopping { left: AtomicUsize::new(questions) };
        match commit(overlays, &about(), &monitor) {
            Ok(_) => {
                assert!(questions > 10, "{questions}");
                break;
            }
            Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Cancelled),
        }
        assert_eq!(names(), before, "stopped at question {questions}");
        assert_true(&targets, false);
    }
    assert_true(&targets, true);
    // What a run that was killed left there goes with the next one.
    std::fs::write(folder.path().join("m.disk1.map.next"), "left").unwrap();
    drop(create(&targets).unwrap());
    assert_eq!(names(), before);
}

#[test]
fn an_overlay_names_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let targets = images(folder.path(), &[Format::Qcow2]);
    let overlays = create(&targets).unwrap();
    let path = path_for(&targets[0].image);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|window| window == b"./m.").unwrap();
    let mut other = bytes.clone();
    other[at + 2] = b'n';
    std::fs::write(&path, other).unwrap();
    let error = overlays.sources().err().unwrap();
    assert!(error.chain().contains("not an overlay of that image"), "{}", error.chain());
}

/// Kills its own process at the event with this number.
struct Killing {
    left: AtomicUsize,
}

impl Monitor for Killing {
    fn event(&self, event: Event) {
        if matches!(event, Event::Warning(_) | Event::Note(_)) {
            return;
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
}

const CHILD: &str = "UNMOOR_TEST_KILLED_AT";

/// Runs as a child of the test below, which names folder and step.
#[test]
fn a_commit_that_a_parent_test_has_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (step, folder) = told.split_once(' ').unwrap();
    let (_, formats) = (folder, [Format::Qcow2, Format::Raw]);
    let folder = Path::new(folder);
    let targets: Vec<Target> = formats
        .iter()
        .enumerate()
        .map(|(index, &format)| {
            let extension = if format == Format::Raw { "raw" } else { "qcow2" };
            Target::file(folder.join(format!("m.disk{index}.{extension}")), format, 512)
        })
        .collect();
    let overlays = create(&targets).unwrap();
    overlays.paths().iter().for_each(|path| write_by_qemu(path));
    let monitor = Killing { left: AtomicUsize::new(step.parse().unwrap()) };
    commit(overlays, &about(), &monitor).unwrap();
}

#[test]
fn a_commit_killed_at_any_step_is_carried_on_by_the_next_command() {
    let whole = tempfile::tempdir().unwrap();
    images(whole.path(), &[Format::Qcow2, Format::Raw]);
    let mut killed = 0;
    let mut carried_on = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(whole.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "overlay::tests::a_commit_that_a_parent_test_has_killed"])
            .env(CHILD, format!("{killed} {}", text(folder.path())))
            .output()
            .unwrap();
        let targets: Vec<Target> = ["qcow2", "raw"]
            .iter()
            .zip([Format::Qcow2, Format::Raw])
            .enumerate()
            .map(|(index, (extension, format))| {
                Target::file(folder.path().join(format!("m.disk{index}.{extension}")), format, 512)
            })
            .collect();
        let complete = status.status.success();
        // Every other time it is the second disk that is opened next.
        let next = &targets[killed % 2].image;
        let decided = record::path_for(&targets[0].image).exists();
        let found = finish_interrupted(next, &Silent).unwrap();
        carried_on += usize::from(found);
        assert!(found || !decided || killed % 2 == 1, "step {killed}");
        if decided && !found {
            // Its pointer was gone already: the first disk's record is there still.
            finish_interrupted(&targets[0].image, &Silent).unwrap();
        }
        let changed = read_all(&targets[0]) == model(0);
        assert_eq!(changed, decided || complete || read_all(&targets[1]) == model(1), "step {killed}");
        for target in &targets {
            let _ = std::fs::remove_file(path_for(&target.image));
        }
        assert_true(&targets, changed);
        if complete {
            break;
        }
        killed += 1;
    }
    assert!(carried_on > 8, "{carried_on} of {killed}");
}
