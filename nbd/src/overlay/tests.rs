// SPDX-License-Identifier: Apache-2.0
//! Overlays on files, and on disks whose power is cut.

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use unmoor_images::adapt::Memory;
use unmoor_images::monitor::Silent;

use super::*;
use crate::overlay::bitmap::GRANULE;

const SECTOR: usize = 512;

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.below(255) as u8 + 1).collect()
}

/// An image that knows of its zeros.
struct Sparse(Memory);

impl BlockSource for Sparse {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        // Not along granules: an extent may end anywhere.
        let sector = |offset: u64| {
            let mut bytes = [0; SECTOR];
            let end = self.size().min((offset / 512 + 1) * 512);
            let room = &mut bytes[..(end - offset) as usize];
            self.0.read_at(room, offset).unwrap();
            (end, room.iter().all(|byte| *byte == 0))
        };
        let (mut end, zero) = sector(offset);
        while end < offset + len && sector(end).1 == zero {
            end = sector(end).0;
        }
        let state = if zero { State::Zero } else { State::Data };
        Ok(Extent { offset, len: end.min(offset + len) - offset, state })
    }
}

fn sparse(image: &[u8]) -> Box<dyn BlockSource> {
    Box::new(Sparse(Memory::new(image.to_vec())))
}

fn below(image: &[u8], identity: u8) -> Option<Below<'static>> {
    let source = sparse(image);
    Some(Below { source, bulk: None, identity: [identity; 32], name: "image".into() })
}

fn content(overlay: &Overlay<'_>) -> Vec<u8> {
    let mut content = vec![0; overlay.size() as usize];
    overlay.read_at(&mut content, 0).unwrap();
    content
}

fn hydrate(overlay: &Overlay<'_>) -> Hydrated {
    overlay.hydrate(0, "test", &[3 << 20, 1 << 40], &|| false, &Silent).unwrap()
}

#[test]
fn an_overlay_reads_as_a_plain_copy_that_took_the_same_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlay.raw");
    // Neither a whole granule nor a whole region.
    let size = (5 << 20) + 1234;
    let mut image = noise(size, 1);
    image[1 << 20..2 << 20].fill(0);
    image[(4 << 20) + 5..(4 << 20) + 700_000].fill(0);
    let mut model = image.clone();
    let mut random = Random(2);
    for round in 0..40 {
        let overlay = Overlay::open(&path, below(&image, 7)).unwrap();
        assert_eq!(overlay.was_empty(), round == 0);
        assert!(content(&overlay) == model, "what was flushed is there again");
        for _ in 0..20 {
            let most = if random.below(10) == 0 { 3 << 20 } else { 9000 };
            let offset = random.below(size as u64);
            let len = random.below(most).min(size as u64 - offset);
            let range = offset as usize..(offset + len) as usize;
            match random.below(4) {
                0 => {
                    let how = Zeroes { allocated: random.below(2) == 0, fast: false };
                    overlay.write_zeroes(offset, len, how).unwrap();
                    model[range].fill(0);
                }
                1 if len > 0 => {
                    overlay.trim(offset, len).unwrap();
                    overlay.read_at(&mut model[range], offset).unwrap();
                }
                _ => {
                    let data = noise(len as usize, random.below(1 << 30));
                    overlay.write_at(&data, offset).unwrap();
                    model[range].copy_from_slice(&data);
                }
            }
        }
        overlay.flush().unwrap();
        let mut at = 0;
        while at < size as u64 {
            let extent = overlay.extent_at(at, size as u64 - at).unwrap();
            assert!(extent.offset == at && extent.len > 0 && extent.end() <= size as u64);
            let zero = model[at as usize..extent.end() as usize].iter().all(|byte| *byte == 0);
            assert!(extent.state != State::Zero || zero, "zeros at {at:#x}");
            at = extent.end();
        }
    }
    let overlay = Overlay::open(&path, below(&image, 7)).unwrap();
    assert_eq!(hydrate(&overlay), Hydrated::Complete);
    drop(overlay);
    assert!(std::fs::read(&path).unwrap() == model, "a complete overlay is the raw disk");
    let alone = Overlay::open(&path, None).unwrap();
    assert!(content(&alone) == model && alone.is_complete());
    alone.write_at(b"still a disk", 77).unwrap();
    assert_eq!(hydrate(&alone), Hydrated::Complete);
}

#[test]
fn what_is_not_this_images_overlay_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path, below| {
        let error = Overlay::open(path, below).err().unwrap();
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused, "{}", error.chain());
        error.chain()
    };
    let precious = folder.path().join("precious.raw");
    std::fs::write(&precious, b"precious").unwrap();
    assert!(refused(&precious, below(&[1; 9000], 1)).contains("not an overlay"));
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");

    let path = folder.path().join("overlay.raw");
    assert!(refused(&path, None).contains("not there"));
    let overlay = Overlay::open(&path, below(&[1; 9000], 1)).unwrap();
    assert!(refused(&path, below(&[1; 9000], 1)).contains("another unmoor"));
    overlay.write_at(b"x", 5000).unwrap();
    overlay.flush().unwrap();
    drop(overlay);
    assert!(refused(&path, below(&[1; 9000], 2)).contains("remove this one"));
    assert!(refused(&path, below(&[1; 9001], 1)).contains("size"));
    assert!(refused(&path, None).contains("needs the image"));
    std::fs::remove_file(&path).unwrap();
    assert!(Overlay::open(&path, below(&[1; 9000], 1)).is_err(), "a bitmap without its file");
    std::fs::write(&path, [0; 8999]).unwrap();
    assert!(refused(&path, below(&[1; 9000], 1)).contains("changed by something else"));
}

#[test]
fn clients_that_write_while_it_hydrates_lose_nothing() {
    let size = 12 << 20;
    let image = noise(size, 3);
    let folder = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(&folder.path().join("overlay.raw"), below(&image, 1)).unwrap();
    let writers = 4;
    let models: Vec<Vec<(usize, Vec<u8>)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let overlay = &overlay;
                scope.spawn(move || {
                    let mut random = Random(100 + writer as u64);
                    let mut written = Vec::new();
                    for _ in 0..300 {
                        // Every writer has sectors of its own, in granules that it shares with the others.
                        let sector =
                            random.below((size / SECTOR / writers) as u64) as usize * writers + writer;
                        let data = noise(SECTOR, random.below(1 << 30));
                        overlay.write_at(&data, (sector * SECTOR) as u64).unwrap();
                        written.push((sector * SECTOR, data));
                    }
                    written
                })
            })
            .collect();
        let overlay = &overlay;
        scope.spawn(move || hydrate(overlay));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut model = image;
    models.into_iter().flatten().for_each(|(at, data)| model[at..at + SECTOR].copy_from_slice(&data));
    assert!(content(&overlay) == model);
    assert!(overlay.is_complete());
}

/// The supply of both files' disk: it fails after a number of calls.
#[derive(Default)]
struct Power {
    left: AtomicUsize,
}

impl Power {
    fn take(&self) -> io::Result<()> {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.map(drop).map_err(|_| io::Error::from_raw_os_error(libc::EIO))
    }
}

/// A file on a disk with a volatile cache: what was not flushed may be lost in a cut, by sectors.
#[derive(Clone)]
struct Volatile {
    power: Arc<Power>,
    state: Arc<Mutex<Sectors>>,
}

struct Sectors {
    stable: Vec<u8>,
    cached: Vec<u8>,
    /// Sectors that differ from what is stable, with every content that was on its way there.
    pending: Vec<(usize, [u8; SECTOR])>,
}

impl Volatile {
    fn new(power: &Arc<Power>, content: Vec<u8>) -> Self {
        let state = Sectors { stable: content.clone(), cached: content, pending: Vec::new() };
        Self { power: Arc::clone(power), state: Arc::new(Mutex::new(state)) }
    }

    fn change(&self, offset: u64, len: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state.lock().unwrap();
        change(&mut state.cached[offset as usize..offset as usize + len]);
        for sector in offset as usize / SECTOR..(offset as usize + len).div_ceil(SECTOR) {
            let content = state.cached[sector * SECTOR..(sector + 1) * SECTOR].try_into().unwrap();
            state.pending.push((sector, content));
        }
    }

    /// What is there after the cut.
    fn survives(&self, random: &mut Random) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let mut content = state.stable.clone();
        for (sector, bytes) in &state.pending {
            if random.below(2) == 0 {
                content[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(bytes);
            }
        }
        content
    }
}

impl Storage for Volatile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        buf.copy_from_slice(&state.cached[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        // A cut may come in the middle of it: the write is on its way all the same.
        let powered = self.power.take();
        self.change(offset, data.len(), |room| room.copy_from_slice(data));
        powered
    }

    fn zero(&self, offset: u64, len: u64, _allocated: bool) -> io::Result<()> {
        let powered = self.power.take();
        self.change(offset, len as usize, |room| room.fill(0));
        powered
    }

    fn sync(&self) -> io::Result<()> {
        self.power.take()?;
        let mut state = self.state.lock().unwrap();
        state.stable = state.cached.clone();
        state.pending.clear();
        Ok(())
    }

    fn run_at(&self, _offset: u64, end: u64) -> (bool, u64) {
        (true, end)
    }
}

#[test]
fn after_a_power_cut_at_any_call_what_was_flushed_is_there() {
    let size = 40 * GRANULE as usize;
    let mut image = noise(size, 9);
    image[8 * GRANULE as usize..20 * GRANULE as usize + SECTOR].fill(0);
    let image = image;
    let (mut cuts, mut kept) = (0, 0);
    for seed in 0..600 {
        let mut random = Random(seed);
        let power = Arc::new(Power::default());
        power.left.store(5 + random.below(150) as usize, Ordering::SeqCst);
        let data = Volatile::new(&power, vec![0; size]);
        let side = Volatile::new(&power, vec![0; 8192]);
        let open = |data: &Volatile, side: &Volatile| {
            let bitmap = side_file::read_bitmap(side, 8192, size as u64).unwrap();
            let mut overlay =
                Overlay::assemble(size as u64, Box::new(data.clone()), Box::new(side.clone()), bitmap);
            overlay.image = Some(sparse(&image));
            overlay
        };
        let overlay = open(&data, &side);
        // Every content that each sector may have: as it was when last flushed, and what was written since.
        let mut allowed: Vec<Vec<Vec<u8>>> =
            image.chunks(SECTOR).map(|sector| vec![sector.to_vec()]).collect();
        let mut flushed = 0;
        loop {
            let sector = random.below((size / SECTOR) as u64) as usize;
            let count = (1 + random.below(20) as usize).min(size / SECTOR - sector);
            let offset = (sector * SECTOR) as u64;
            let done = match random.below(8) {
                0 | 1 => {
                    let done = overlay.flush();
                    if done.is_ok() {
                        flushed += 1;
                        allowed.iter_mut().for_each(|contents| {
                            contents.drain(..contents.len() - 1);
                        });
                    }
                    done
                }
                2 => {
                    (sector..sector + count).for_each(|sector| allowed[sector].push(vec![0; SECTOR]));
                    overlay.write_zeroes(offset, (count * SECTOR) as u64, Zeroes::default())
                }
                3 => overlay.hydrate(0, "test", &[], &|| true, &Silent).map(drop),
                _ => {
                    let bytes = noise(count * SECTOR, random.below(1 << 30));
                    bytes
                        .chunks(SECTOR)
                        .enumerate()
                        .for_each(|(n, part)| allowed[sector + n].push(part.to_vec()));
                    overlay.write_at(&bytes, offset)
                }
            };
            if done.is_err() {
                break;
            }
        }
        cuts += 1;
        kept += usize::from(flushed > 0);
        assert!(overlay.flush().is_err() || power.left.load(Ordering::SeqCst) == 0);
        let power = Arc::new(Power { left: AtomicUsize::new(usize::MAX) });
        let data = Volatile::new(&power, data.survives(&mut random));
        let side = Volatile::new(&power, side.survives(&mut random));
        let mut found = content(&open(&data, &side));
        for (sector, contents) in allowed.iter().enumerate() {
            let is = &found[sector * SECTOR..(sector + 1) * SECTOR];
            assert!(contents.iter().any(|content| content == is), "seed {seed}, sector {sector}");
        }
        // What a lost write left in the file must not show when the rest is copied.
        let again = open(&data, &side);
        assert_eq!(again.hydrate(0, "test", &[], &|| false, &Silent).unwrap(), Hydrated::Complete);
        let copied = content(&again);
        assert!(copied == found, "seed {seed}: hydration changes nothing");
        found.clear();
    }
    assert!(cuts == 600 && kept > 300, "{kept} runs had flushed something");
}

#[test]
fn after_a_flush_that_failed_nothing_is_promised_any_more() {
    let power = Arc::new(Power { left: AtomicUsize::new(1) });
    let (data, side) = (Volatile::new(&power, vec![0; 8192]), Volatile::new(&power, vec![0; 8192]));
    let mut overlay = Overlay::assemble(8192, Box::new(data), Box::new(side), Bitmap::new(8192));
    overlay.image = Some(Box::new(Memory::new(vec![1; 8192])));
    overlay.write_at(&[2; 4096], 0).unwrap();
    overlay.flush().unwrap_err();
    // The disk works again, and the kernel would report success for pages that it has dropped.
    power.left.store(1000, Ordering::SeqCst);
    overlay.flush().unwrap_err();
    overlay.write_at(&[3; 4096], 4096).unwrap_err();
    overlay.write_zeroes(0, 4096, Zeroes::default()).unwrap_err();
}
