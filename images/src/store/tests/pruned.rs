// SPDX-License-Identifier: Apache-2.0
//! Pruning: what goes, what stays, and whom it waits for.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use super::scene::*;
use crate::monitor::{Event, Silent};
use crate::store::leases::{Lease, LeaseState};
use crate::store::{CheckOptions, Mark, PruneOptions, PruneReport, Store, Writer};
use crate::{ErrorKind, LEAF, Monitor};

fn prune(store: &Store, monitor: &dyn Monitor) -> PruneReport {
    store.prune(&PruneOptions::default(), monitor).unwrap()
}

fn bytes_in(folder: &Path, of: &str) -> u64 {
    files(folder).iter().filter(|(name, _)| name.starts_with(of)).map(|(_, len)| len).sum()
}

/// Every chunk of every image is there and right, and nothing else is odd.
fn whole(store: &Store) {
    let options = CheckOptions { read_percent: 100, ..CheckOptions::default() };
    let report = store.check(&options, &Silent).unwrap();
    assert!(report.is_whole() && report.notes.is_empty(), "{report:?}");
}

#[test]
fn the_room_of_a_removed_image_comes_back_and_the_others_stay() {
    for secret in [None, Some(crate::store::Secret::KeyFile(zeroize::Zeroizing::new(noise(64, 1))))] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), secret);
        let (one, extents) = disk(1);
        let (two, _) = disk(2);
        capture(&store, "a", &one, &extents).unwrap();
        let only_a = bytes_in(folder.path(), "packs/");
        capture(&store, "b", &two, &extents).unwrap();
        // Nothing to do yet.
        assert_eq!(prune(&store, &Silent).removed_packs, 0);
        store.remove_images(&store.images_of("a").unwrap()).unwrap();
        let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
        let before = files(folder.path());
        let would = store.prune(&dry, &Silent).unwrap();
        assert_eq!(files(folder.path()), before);
        let did = prune(&store, &Silent);
        // The two share a chunk of text, which is copied; what a new pack's table takes is not known before.
        assert_eq!((would.unused_packs, would.repacked_packs), (did.unused_packs, did.repacked_packs));
        assert!(would.freed_bytes.abs_diff(did.freed_bytes) < 1000, "{would:?} {did:?}");
        assert!(did.removed_packs == 1 && did.freed_bytes.abs_diff(only_a) < 10_000, "{did:?} {only_a}");
        assert!(read_back(&store, "b").0 == shown(&two, &extents));
        whole(&store);
        assert!(
            files(folder.path())
                .iter()
                .all(|(name, _)| !name.starts_with("marks/") && !name.starts_with("leases/"))
        );
        assert_eq!(prune(&store, &Silent).removed_packs, 0);
        // What was removed is sent again.
        capture(&store, "c", &one, &extents).unwrap();
        assert!(read_back(&store, "c").0 == shown(&one, &extents));
    }
}

#[test]
fn a_pack_that_is_mostly_unused_is_written_anew_and_images_that_name_it_open_by_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    let two = mostly_other(&one);
    capture(&store, "b", &two, &extents).unwrap();
    store.remove_images(&store.images_of("a").unwrap()).unwrap();
    let report = prune(&store, &Silent);
    assert_eq!((report.repacked_packs, report.unused_packs, report.removed_packs), (1, 0, 1), "{report:?}");
    assert!(report.copied_bytes < report.repacked_bytes / 2 && report.freed_bytes > 0, "{report:?}");
    // No index object that the image names is there any more, and it opens without a warning.
    let image = store.images_of("b").unwrap().pop().unwrap();
    let record = store.record(&image).unwrap();
    let named: Vec<_> = record.pack_ids().unwrap().into_iter().flat_map(|(_, packs)| packs).collect();
    let gone: Vec<_> = named
        .iter()
        .filter(|pack| {
            store.backend().tail(&crate::store::pack::PackTable::object(pack), 1).unwrap().is_none()
        })
        .collect();
    assert_eq!(gone.len(), 1);
    let moved = crate::store::moved::Moved::load(&store).unwrap();
    assert_eq!(moved.find(gone[0]).len(), 1);
    assert!(read_back(&store, "b").0 == shown(&two, &extents));
    whole(&store);
    // The next capture finds everything; without the hint, too.
    let (_, again) = capture(&store, "b", &two, &extents).unwrap();
    assert_eq!(again.added.stored_bytes, 0);
    for (name, _) in files(folder.path()).iter().filter(|(name, _)| name.starts_with("moved/")) {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    assert!(read_back(&store, "b").0 == shown(&two, &extents));
    // Moved twice: still one step.
    let mut three = two.clone();
    three[1] ^= 1;
    capture(&store, "c", &three, &extents).unwrap();
    prune(&store, &Silent);
    assert!(read_back(&store, "b").0 == shown(&two, &extents));
}

#[test]
fn many_small_packs_are_put_together_and_every_image_is_as_before() {
    for secret in [None, Some(crate::store::Secret::KeyFile(zeroize::Zeroizing::new(noise(64, 1))))] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), secret);
        let images = little_changes(&store, 20);
        let packs = || files(folder.path()).iter().filter(|(name, _)| name.starts_with("packs/")).count();
        let before = packs();
        // The first is not small.
        assert_eq!(before, 20);
        let all = PruneOptions { max_unused_percent: 100, ..PruneOptions::default() };
        assert_eq!(store.prune(&all, &Silent).unwrap().merged_packs, 0);
        let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
        let would = store.prune(&dry, &Silent).unwrap();
        let did = prune(&store, &Silent);
        assert_eq!((would.merged_packs, would.merged_bytes), (19, did.merged_bytes), "{would:?}");
        assert_eq!(
            (did.merged_packs, did.repacked_packs, did.removed_packs, packs()),
            (19, 0, 19, 2),
            "{did:?}"
        );
        for (name, bytes, extents) in &images {
            let (back, map) = read_back(&store, name);
            assert!(
                back == shown(bytes, extents)
                    && map.bytes(crate::State::Data) == extents.bytes(crate::State::Data)
            );
        }
        whole(&store);
        // Once is enough, and the next capture finds everything.
        assert_eq!(prune(&store, &Silent).removed_packs, 0);
        let (_, bytes, extents) = images.last().unwrap();
        let (_, again) = capture(&store, "d", bytes, extents).unwrap();
        assert_eq!(again.added.stored_bytes, 0);
    }
}

#[test]
fn a_reader_that_opened_an_image_before_goes_on_behind_a_prune() {
    use crate::BlockSource;
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    let two = mostly_other(&one);
    capture(&store, "b", &two, &extents).unwrap();
    let open = store.open_image(&crate::store::ImageName::parse("b").unwrap()).unwrap();
    store.remove_images(&store.images_of("a").unwrap()).unwrap();
    assert_eq!(prune(&store, &Silent).repacked_packs, 1);
    let mut back = vec![0; two.len()];
    open.disks[0].source.read_at(&mut back, 0).unwrap();
    assert!(back == shown(&two, &extents));
}

#[test]
fn a_capture_that_runs_is_waited_for_and_what_it_used_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    // A machine of its own, whose clocks stand still or are anywhere.
    let (other, clock) = again(folder.path(), None);
    clock.jump(7);
    let writer = Writer::begin(&other, "b", &options(), &Silent).unwrap();
    let copied = send(&writer, &one, &extents).unwrap();
    store.remove_images(&store.images().unwrap()).unwrap();
    let meanwhile = Meanwhile::new(move || {
        // It looked at the marks for the last time before prune wrote its own: as if it stood right before its image.
        let maps = [(&copied.report.extents, &copied.report.leaves)];
        clock.jump(1 << 40);
        writer.commit(copied.manifest.clone(), &maps, 0).unwrap();
    });
    let report = prune(&store, &meanwhile);
    assert!(meanwhile.happened());
    assert!(meanwhile.notes.lock().unwrap().iter().any(|note| note.contains("a test")));
    assert!(report.waiting_for.is_empty());
    assert!(read_back(&store, "b").0 == shown(&one, &extents));
    whole(&store);
}

#[test]
fn an_image_that_came_with_a_marked_pack_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    let (image, _) = capture(&store, "a", &one, &extents).unwrap();
    let object = std::fs::read(folder.path().join(image.object())).unwrap();
    store.remove_images(std::slice::from_ref(&image)).unwrap();
    let lease = Lease::take(&store, "somebody").unwrap();
    let path = folder.path().join(image.object());
    // The worst that a capture may do: an image of nothing but marked packs, right before its lease ends.
    let meanwhile = Meanwhile::new(move || {
        std::fs::write(&path, &object).unwrap();
        lease.release().unwrap();
    });
    let report = prune(&store, &meanwhile);
    assert_eq!((report.unused_packs, report.rescued_packs, report.removed_packs), (1, 1, 0), "{report:?}");
    assert!(read_back(&store, "a").0 == shown(&one, &extents));
    whole(&store);
}

#[test]
fn a_dead_capture_is_waited_for_an_hour_whatever_the_time_of_day() {
    for jumps in [[0, 0, 0], [1 << 40, 5, 1 << 33], [3, 2, 1]] {
        let folder = tempfile::tempdir().unwrap();
        let (store, clock) = init(folder.path(), None);
        let (one, extents) = disk(1);
        capture(&store, "a", &one, &extents).unwrap();
        store.remove_images(&store.images().unwrap()).unwrap();
        let (other, _) = again(folder.path(), None);
        let writer = Writer::begin(&other, "b", &options(), &Silent).unwrap();
        send(&writer, &one, &extents).unwrap();
        drop(writer);
        let began = crate::store::Clock::elapsed(&*clock);
        let mut jumps = jumps.into_iter().cycle();
        let at = clock.clone();
        let meanwhile = Meanwhile::new(move || at.jump(jumps.next().unwrap()));
        let report = prune(&store, &meanwhile);
        let waited = crate::store::Clock::elapsed(&*clock) - began;
        assert!(waited >= Duration::from_secs(3600) && waited < Duration::from_secs(3700), "{waited:?}");
        assert_eq!(report.removed_packs, 1);
        assert!(LeaseState::list(&store).unwrap().is_empty());
        whole(&store);
    }
}

#[test]
fn a_capture_may_take_days_while_prune_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    store.remove_images(&store.images().unwrap()).unwrap();
    let (other, other_clock) = again(folder.path(), None);
    let writer = Writer::begin(&other, "b", &options(), &Silent).unwrap();
    let copied = send(&writer, &one, &extents).unwrap();
    let maps = [(&copied.report.extents, &copied.report.leaves)];
    let (mut rounds, mut writer) = (0, Some(writer));
    let often = Often(Mutex::new(|| {
        rounds += 1;
        // Its clock runs at little more than half the speed of prune's, and it renews late.
        other_clock.advance(Duration::from_secs(1000));
        clock.advance(Duration::from_secs(1700));
        if rounds < 200 {
            writer.as_ref().unwrap().lease().renew().unwrap();
        } else if let Some(writer) = writer.take() {
            writer.commit(copied.manifest.clone(), &maps, 0).unwrap();
        }
    }));
    prune(&store, &often);
    assert!(rounds >= 200 && writer.is_none());
    assert!(read_back(&store, "b").0 == shown(&one, &extents));
    whole(&store);
}

/// Runs something whenever prune says that it waits.
struct Often<F>(Mutex<F>);

impl<F: FnMut() + Send> Monitor for Often<F> {
    fn event(&self, event: Event) {
        if matches!(&event, Event::Note(text) if text.contains("waiting for")) {
            (self.0.lock().unwrap())();
        }
    }
}

#[test]
fn a_prune_that_does_not_wait_leaves_its_mark_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    store.remove_images(&store.images().unwrap()).unwrap();
    let hasty = PruneOptions { wait: false, ..PruneOptions::default() };
    let first = Lease::take(&store, "the first").unwrap();
    let report = store.prune(&hasty, &Silent).unwrap();
    assert_eq!((report.removed_packs, report.waiting_for.len()), (0, 1));
    assert_eq!(Mark::list(&store).unwrap().len(), 1);
    let second = Lease::take(&store, "the second").unwrap();
    first.release().unwrap();
    // Who came behind the mark does not rely on the packs: nobody is waited for.
    let report = store.prune(&hasty, &Silent).unwrap();
    assert_eq!((report.removed_packs, report.waiting_for.len()), (1, 1));
    second.release().unwrap();
    prune(&store, &Silent);
    assert!(Mark::list(&store).unwrap().is_empty());
    whole(&store);
}

#[test]
fn there_is_one_prune_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = init(folder.path(), None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    store.remove_images(&store.images().unwrap()).unwrap();
    let other = Lease::take_for(&store, "another prune", true).unwrap();
    let hasty = PruneOptions { wait: false, ..PruneOptions::default() };
    let error = store.prune(&hasty, &Silent).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Refused && error.chain().contains("another prune"),
        "{}",
        error.chain()
    );
    // It is not a capture's: captures do not look for its packs, and begin.
    assert!(LeaseState::list(&store).unwrap()[0].prune);
    let began = crate::store::Clock::elapsed(&*clock);
    let meanwhile = Meanwhile::new(move || other.release().unwrap());
    assert_eq!(prune(&store, &meanwhile).removed_packs, 1);
    assert!(meanwhile.happened() && crate::store::Clock::elapsed(&*clock) - began < Duration::from_secs(120));
}

#[test]
fn many_prunes_and_captures_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (base, extents) = disk(1);
    let path = folder.path();
    std::thread::scope(|scope| {
        for machine in ["a", "b", "c"] {
            let (base, extents) = (&base, &extents);
            scope.spawn(move || {
                let location = crate::store::Location::Directory(path.to_owned());
                let store = Store::open(&location, None).unwrap();
                for round in 0..4u64 {
                    let mut bytes = base.clone();
                    let at = (20 + 3 * round as usize) * LEAF as usize;
                    bytes[at..at + 2 * LEAF as usize].copy_from_slice(&noise(2 * LEAF as usize, round));
                    capture(&store, machine, &bytes, extents).unwrap();
                    assert!(read_back(&store, machine).0.len() == bytes.len());
                    let images = store.images_of(machine).unwrap();
                    if images.len() > 2 {
                        store.remove_images(&images[..1]).unwrap();
                    }
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(move || {
                let location = crate::store::Location::Directory(path.to_owned());
                let store = Store::open(&location, None).unwrap();
                // By the real clock, which would wait for captures: what is ripe goes.
                let hasty = PruneOptions { wait: false, max_unused_percent: 10, ..PruneOptions::default() };
                for _ in 0..12 {
                    match store.prune(&hasty, &Silent) {
                        Ok(_) => {}
                        Err(error) => assert!(error.kind() == ErrorKind::Refused, "{}", error.chain()),
                    }
                }
            });
        }
    });
    prune(&store, &Silent);
    assert_eq!(store.images().unwrap().len(), 6);
    whole(&store);
}

#[test]
fn many_small_indexes_are_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (mut bytes, extents) = disk(1);
    for round in 0..20 {
        bytes[21 * LEAF as usize + round] ^= 1;
        capture(&store, "a", &bytes, &extents).unwrap();
    }
    // The packs are small as well; they stay.
    let options = PruneOptions { max_unused_percent: 100, ..PruneOptions::default() };
    let report = store.prune(&options, &Silent).unwrap();
    assert_eq!(report.indexes, (20, 1));
    assert_eq!(report.removed_packs, 0);
    assert!(read_back(&store, "a").0 == shown(&bytes, &extents));
    let (_, again) = capture(&store, "a", &bytes, &extents).unwrap();
    assert_eq!(again.added.stored_bytes, 0);
    whole(&store);
}

#[test]
fn two_packs_of_the_same_chunks_never_have_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let (one, extents) = disk(1);
    let mut two = one.clone();
    two[3] ^= 1;
    capture(&store, "a", &one, &extents).unwrap();
    let (image, _) = capture(&store, "a", &two, &extents).unwrap();
    let before = files(folder.path());
    store.remove_images(&[image]).unwrap();
    // A prune has decided, and waits; the same change is captured anew. Its pack has one chunk, made by one thread.
    let lease = Lease::take(&store, "somebody").unwrap();
    let other = store.clone();
    let (again, map) = (two.clone(), extents.clone());
    let meanwhile = Meanwhile::new(move || {
        let (_, summary) = capture(&other, "a", &again, &map).unwrap();
        assert_eq!(summary.added.packs, 1);
        lease.release().unwrap();
    });
    let report = prune(&store, &meanwhile);
    assert_eq!(report.removed_packs, 1);
    assert!(before.len() > 4 && read_back(&store, "a").0 == shown(&two, &extents));
    whole(&store);
}
