// SPDX-License-Identifier: Apache-2.0
//! A store that fails or lists late: pruning stopped at each of its writes, and listings that show what was an hour ago.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::scene::*;
use crate::monitor::Silent;
use crate::store::backend::{Backend, Directory, Listed};
use crate::store::{CheckOptions, Clock, PruneOptions, Store};
use crate::{Error, ErrorKind, LEAF, Result};

/// A directory that does `left` more writes and removals, and then none, as a process that was killed.
struct Dying {
    inner: Directory,
    left: Arc<AtomicU64>,
}

impl Dying {
    fn spend(&self) -> Result<()> {
        let spent = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(|_| ()).map_err(|_| Error::new(ErrorKind::Io, "writing").because("the process is dead"))
    }
}

impl Backend for Dying {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        self.inner.get(name, most)
    }
    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read(name, buf, offset)
    }
    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>> {
        self.inner.tail(name, most)
    }
    fn put(&self, name: &str, data: &[u8]) -> Result<()> {
        self.spend()?;
        self.inner.put(name, data)
    }
    fn create(&self, name: &str, data: &[u8]) -> Result<bool> {
        self.spend()?;
        self.inner.create(name, data)
    }
    fn barrier(&self) -> Result<()> {
        self.inner.barrier()
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.spend()?;
        self.inner.delete(name)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
}

/// A store in which a prune has all kinds of things to do.
fn scene_with_work(folder: &Path) -> Vec<(&'static str, Vec<u8>, crate::ExtentMap)> {
    let (store, _) = init(folder, None);
    let (one, extents) = disk(1);
    capture(&store, "a", &one, &extents).unwrap();
    let two = mostly_other(&one);
    capture(&store, "b", &two, &extents).unwrap();
    let (three, _) = disk(3);
    capture(&store, "c", &three, &extents).unwrap();
    let mut small = two.clone();
    for round in 0..18 {
        small[21 * LEAF as usize + round] ^= 1;
        capture(&store, "d", &small, &extents).unwrap();
    }
    for machine in ["a", "c"] {
        store.remove_images(&store.images_of(machine).unwrap()).unwrap();
    }
    let many = store.images_of("d").unwrap();
    store.remove_images(&many[..17]).unwrap();
    vec![("b", two, extents.clone()), ("d", small, extents)]
}

#[test]
fn a_prune_that_dies_at_any_write_loses_nothing_and_the_next_one_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let images = scene_with_work(folder.path());
    let clean = tempfile::tempdir().unwrap();
    copy_folder(folder.path(), clean.path());
    let (store, _) = again(clean.path(), None);
    let report = store.prune(&PruneOptions::default(), &Silent).unwrap();
    assert!(
        report.repacked_packs >= 1 && report.unused_packs >= 1 && report.indexes.0 > report.indexes.1,
        "{report:?}"
    );
    let images: Vec<_> = images.into_iter().map(|(name, bytes, map)| (name.to_owned(), bytes, map)).collect();
    let deaths = die_at_every_write(folder.path(), &images);
    assert!(deaths > 15, "{deaths}");
}

#[test]
fn small_packs_that_are_put_together_stay_whole_whenever_the_prune_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = init(folder.path(), None);
    let mut images = little_changes(&store, 18);
    // `check` reads all; the whole way back goes for some.
    let last = images.pop().unwrap();
    images.truncate(1);
    images.push(last);
    let deaths = die_at_every_write(folder.path(), &images);
    assert!(deaths > 15, "{deaths}");
}

/// Prunes copies of a store, each dying one write later than the one before, until one ends. Answers how many died.
fn die_at_every_write(folder: &Path, images: &[(String, Vec<u8>, crate::ExtentMap)]) -> u64 {
    let mut deaths = 0;
    for left in 0.. {
        let work = tempfile::tempdir().unwrap();
        copy_folder(folder, work.path());
        let backend = Dying { inner: Directory::open(work.path()), left: Arc::new(AtomicU64::new(left)) };
        let clock = Arc::new(TestClock::default());
        let dying = Store::open_on(Box::new(backend), None, clock).unwrap();
        let ended = dying.prune(&PruneOptions::default(), &Silent).is_ok();
        deaths += u64::from(!ended);
        // As it is now: everything is there, and a capture finds its way.
        let (store, clock) = again(work.path(), None);
        for (name, bytes, extents) in images {
            assert!(read_back(&store, name).0 == shown(bytes, extents), "{name} after {left} writes");
        }
        let options = CheckOptions { read_percent: 100, ..CheckOptions::default() };
        let report = store.check(&options, &Silent).unwrap();
        assert!(report.is_whole(), "after {left} writes: {report:?}");
        let (_, bytes, extents) = images.last().unwrap();
        let (again, _) = capture(&store, "d", bytes, extents).unwrap();
        let again = format!("d@{}", again.time);
        assert!(read_back(&store, &again).0 == shown(bytes, extents), "a capture after {left} writes");
        // The same process lives on, so that its lease has to be watched: an hour.
        store.prune(&PruneOptions::default(), &Silent).unwrap();
        assert!(clock.elapsed() < Duration::from_secs(3 * 3600));
        for (name, bytes, extents) in images {
            assert!(read_back(&store, name).0 == shown(bytes, extents), "{name} after {left} writes");
        }
        let report = store.check(&options, &Silent).unwrap();
        assert!(report.is_whole() && report.notes.is_empty(), "after {left} writes: {report:?}");
        if ended {
            break;
        }
    }
    deaths
}

/// Objects by name, as a store lists them that shows a put or a removal only `lag` later.
struct Late {
    inner: Directory,
    clock: Arc<TestClock>,
    lag: Duration,
    /// When objects came and went, shared by all who have the store open.
    history: History,
}

/// Name, to when it was put and removed last, and its length.
type History = Arc<Mutex<BTreeMap<String, (Option<Duration>, Option<Duration>, u64)>>>;

impl Late {
    fn put_now(&self, name: &str, bytes: usize) {
        let mut history = self.history.lock().unwrap();
        let now = self.clock.elapsed();
        let entry = history.entry(name.to_owned()).or_insert((None, None, 0));
        // A put over an object that is listed does not hide it.
        if entry.0.is_none() || entry.1.is_some() {
            *entry = (Some(now), None, 0);
        }
        entry.2 = bytes as u64;
    }
}

impl Backend for Late {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        self.inner.get(name, most)
    }
    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read(name, buf, offset)
    }
    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>> {
        self.inner.tail(name, most)
    }
    fn put(&self, name: &str, data: &[u8]) -> Result<()> {
        self.inner.put(name, data)?;
        self.put_now(name, data.len());
        Ok(())
    }
    fn create(&self, name: &str, data: &[u8]) -> Result<bool> {
        let made = self.inner.create(name, data)?;
        if made {
            self.put_now(name, data.len());
        }
        Ok(made)
    }
    fn barrier(&self) -> Result<()> {
        self.inner.barrier()
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)?;
        if let Some(entry) = self.history.lock().unwrap().get_mut(name) {
            entry.1 = Some(self.clock.elapsed());
        }
        Ok(())
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let seen = self.clock.elapsed();
        let late = |time: Duration| seen < time + self.lag;
        let mut shown: Vec<Listed> = Vec::new();
        for (name, (put, removed, bytes)) in self.history.lock().unwrap().iter() {
            let came = put.is_some_and(|time| !late(time));
            let went = removed.is_some_and(|time| !late(time));
            if name.starts_with(prefix) && came && !went {
                shown.push(Listed { name: name.clone(), bytes: *bytes });
            }
        }
        shown.into_iter().try_for_each(each)
    }
    fn listing_lag(&self) -> Duration {
        self.lag
    }
}

/// Everything that a capture may do in the time that a prune sleeps, at each of its sleeps.
#[test]
fn listings_that_show_everything_late_lose_nothing() {
    const LAG: Duration = Duration::from_secs(40);
    let (one, extents) = disk(1);
    let mut waits = 0;
    for at in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let history = History::default();
        let clock = Arc::new(TestClock::default());
        let open = |clock: Arc<dyn Clock>, time: &Arc<TestClock>| {
            let inner = Directory::open(folder.path());
            let backend = Late { inner, clock: time.clone(), lag: LAG, history: history.clone() };
            Store::open_on(Box::new(backend), None, clock).unwrap()
        };
        init(folder.path(), None);
        let store = open(clock.clone(), &clock);
        let (image, _) = capture(&store, "a", &one, &extents).unwrap();
        clock.advance(LAG * 2);
        store.remove_images(&[image]).unwrap();
        clock.advance(LAG * 2);
        // The same time for both; a capture begins in one of prune's sleeps, and ends in the next but one.
        let other = open(clock.clone(), &clock);
        let script =
            Scripted { clock: clock.clone(), step: AtomicU64::new(0), at, state: Mutex::new(State::Before) };
        let script = Arc::new(script);
        *script.state.lock().unwrap() = State::Ready(other.clone(), one.clone(), extents.clone());
        let pruning = open(script.clone(), &clock);
        pruning.prune(&PruneOptions::default(), &Silent).unwrap();
        let came = script.finish();
        clock.advance(LAG * 2);
        waits = waits.max(script.step.load(Ordering::SeqCst));
        if came {
            assert!(read_back(&other, "b").0 == shown(&one, &extents), "a capture in sleep {at}");
        }
        let report =
            other.check(&CheckOptions { read_percent: 100, ..CheckOptions::default() }, &Silent).unwrap();
        assert!(report.hurt.is_empty(), "a capture in sleep {at}: {report:?}");
    }
    assert!(waits > 6, "{waits}");
}

/// A clock in whose sleeps somebody else works.
struct Scripted {
    clock: Arc<TestClock>,
    step: AtomicU64,
    at: u64,
    state: Mutex<State>,
}

enum State {
    Before,
    Ready(Store, Vec<u8>, crate::ExtentMap),
    Running(Box<(crate::store::Writer, Copied)>),
    Done,
}

impl Scripted {
    fn turn(&self, step: u64) {
        let mut state = self.state.lock().unwrap();
        *state = match std::mem::replace(&mut *state, State::Done) {
            State::Ready(store, bytes, extents) if step == self.at => {
                let writer = crate::store::Writer::begin(&store, "b", &options(), &Silent).unwrap();
                let copied = send(&writer, &bytes, &extents).unwrap();
                State::Running(Box::new((writer, copied)))
            }
            State::Running(running) if step == self.at + 2 => {
                let (writer, copied) = *running;
                let maps = [(&copied.report.extents, &copied.report.leaves)];
                writer.commit(copied.manifest.clone(), &maps, 0).unwrap();
                State::Done
            }
            other => other,
        };
    }

    /// Ends a capture that still runs; true if there was one.
    fn finish(&self) -> bool {
        let state = std::mem::replace(&mut *self.state.lock().unwrap(), State::Done);
        match state {
            State::Running(running) => {
                let (writer, copied) = *running;
                let maps = [(&copied.report.extents, &copied.report.leaves)];
                writer.commit(copied.manifest.clone(), &maps, 0).unwrap();
                true
            }
            State::Done => true,
            State::Ready(..) | State::Before => false,
        }
    }
}

impl Clock for Scripted {
    fn unix_seconds(&self) -> u64 {
        self.clock.unix_seconds()
    }
    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
    fn sleep(&self, time: Duration) {
        // In the middle of it: half of what was written before is not listed yet.
        self.clock.advance(time / 2);
        self.turn(self.step.fetch_add(1, Ordering::SeqCst));
        self.clock.advance(time - time / 2);
    }
}
