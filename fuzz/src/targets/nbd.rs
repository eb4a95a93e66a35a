// SPDX-License-Identifier: Apache-2.0
//! What NBD clients send, and the files beside overlays.

use std::io;
use std::sync::{Mutex, PoisonError};

use unmoor_images::monitor::Silent;
use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, ErrorKind, Extent, Result, State};
use unmoor_nbd::disk::{Disk, Zeroes};
use unmoor_nbd::order::Order;
use unmoor_nbd::overlay::{self, Below, Overlay, side_file};
use unmoor_nbd::server::{Channel, Export, converse};

use super::{Answer, check_error, file_of, folder};
use crate::disk::Machine;

/// Bytes of the served disk; the file's last granule is cut short.
const SIZE: usize = 70_001;
/// Bytes that a client receives before it is gone.
const RECEIVED_MOST: usize = 4 << 20;

/// A client whose every byte is known before the server's first.
struct Client<'a> {
    says: Mutex<&'a [u8]>,
    hears: Mutex<Vec<u8>>,
}

impl Channel for Client<'_> {
    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        let mut says = self.says.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, later) = says.split_at_checked(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(now);
        *says = later;
        Ok(())
    }

    fn write_message(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut hears = self.hears.lock().unwrap_or_else(PoisonError::into_inner);
        hears.extend(parts.iter().flat_map(|part| part.iter()));
        if hears.len() > RECEIVED_MOST { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// A disk in memory that refuses what the server must never ask of it.
struct Plain(Mutex<Vec<u8>>);

impl Plain {
    fn change(&self, offset: u64, len: u64, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let range = offset as usize..(offset + len) as usize;
        change(bytes.get_mut(range).expect("the server checks ranges"));
        Ok(())
    }
}

impl Disk for Plain {
    fn size(&self) -> u64 {
        SIZE as u64
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.change(offset, buf.len() as u64, |bytes| buf.copy_from_slice(bytes))
    }
    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        assert!(len > 0 && offset + len <= SIZE as u64);
        let block = offset / 4096;
        let state = if block % 3 == 2 { State::Zero } else { State::Data };
        Ok(Extent { offset, len: len.min((block + 1) * 4096 - offset), state })
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.change(offset, data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }
    fn write_zeroes(&self, offset: u64, len: u64, how: Zeroes) -> Result<()> {
        if how.fast && how.allocated {
            return Err(Error::unsupported("zeroing", "not fast"));
        }
        self.change(offset, len, |bytes| bytes.fill(0))
    }
    fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.change(offset, len, |_| {})
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn will_need(&self, offset: u64, len: u64) -> Result<()> {
        self.change(offset, len, |_| {})
    }
}

/// All that a client says, from its flags to its last request.
pub(crate) fn session(machine: &Machine) -> Answer {
    let disk = machine.first();
    let says = disk.peek(0, disk.size().min(1 << 20) as usize);
    let client = Client { says: Mutex::new(&says), hears: Mutex::default() };
    let bytes = (0..SIZE).map(|at| if at / 4096 % 3 == 2 { 0 } else { at as u8 }).collect();
    let export = |name: &str, bytes: Vec<u8>| Export {
        name: name.to_owned(),
        description: "a disk".to_owned(),
        disk: Box::new(Plain(Mutex::new(bytes))),
    };
    let ended = converse(&client, &[export("0", bytes), export("1", vec![7; SIZE])], &Silent);
    let left = client.says.into_inner().unwrap_or_else(PoisonError::into_inner).len();
    let heard = client.hears.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"));
    // A reply is at most one disk and a few bytes, and there is one for at least 16 bytes of the client's.
    assert!(heard.len() <= RECEIVED_MOST + 2 * SIZE + (64 << 10), "{} bytes", heard.len());
    match ended {
        Ok(()) => Answer::new("session", (left, heard)),
        Err(error) => {
            check_error(&error, &[ErrorKind::Io, ErrorKind::Refused]);
            Answer { summary: "error".into(), details: format!("{} {left} {heard:?}", error.chain()) }
        }
    }
}

/// An image of any size that is all the same byte.
struct Same(u64);

impl BlockSource for Same {
    fn size(&self) -> u64 {
        self.0
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.0, offset, buf.len())?;
        buf.fill(0x55);
        Ok(())
    }
}

/// The file beside an overlay.
pub(crate) fn overlay(machine: &Machine) -> Answer {
    let folder = folder();
    let path = folder.path().join("overlay.raw");
    file_of(machine.first(), &side_file::path_for(&path));
    let failed = |error: &Error| {
        check_error(error, &[ErrorKind::Refused, ErrorKind::Io]);
        // The folder's name, another each time, may stand in it.
        Answer { summary: "error".into(), details: format!("{:?}", error.kind()) }
    };
    let header = match overlay::examine(&path) {
        Ok(header) => header.expect("it is there"),
        Err(error) => return failed(&error),
    };
    // The file of a small disk only: its length is what counts.
    if header.size > 1 << 30 {
        return Answer::new("large", header);
    }
    std::fs::File::create(&path).unwrap().set_len(header.size).unwrap();
    let below = (!header.complete).then(|| Below {
        source: Box::new(Same(header.size)),
        bulk: None,
        identity: header.identity,
        name: String::new(),
    });
    let overlay = match Overlay::open(&path, below) {
        Ok(overlay) => overlay,
        Err(error) => return failed(&error),
    };
    let (mut at, mut extents) = (0, Vec::new());
    while at < header.size && extents.len() < 5000 {
        let extent = overlay.extent_at(at, header.size - at).unwrap();
        assert!(extent.offset == at && extent.len > 0 && extent.end() <= header.size);
        let mut bytes = vec![0; extent.len.min(5000) as usize];
        overlay.read_at(&mut bytes, at).unwrap();
        // What the overlay holds are the zeros of an empty file.
        assert_eq!(bytes.iter().all(|byte| *byte == 0), extent.state == State::Zero, "{extent:?}");
        at = extent.end();
        extents.push(extent);
    }
    overlay.write_at(b"x", header.size - 1).unwrap();
    overlay.flush().unwrap();
    Answer::new("overlay", (header, overlay.present_bytes(), extents))
}

/// The order of a boot.
pub(crate) fn order(machine: &Machine) -> Answer {
    let disk = machine.first();
    let raw = disk.peek(0, disk.size().min(1 << 17) as usize);
    match Order::decode(&raw, &[5; 32]) {
        Ok(order) => {
            assert_eq!(Order::decode(&order.encode(&[5; 32]), &[5; 32]).unwrap(), order);
            Answer::new("order", order)
        }
        Err(error) => Answer::error(&error),
    }
}
