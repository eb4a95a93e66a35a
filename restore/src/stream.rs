// SPDX-License-Identifier: Apache-2.0
//! A raw disk that comes through a pipe: what its first MiB tells, and the rest as it comes.
//!
//! ```text
//!   pipe --> head (1 MiB, kept): table, size --> plan
//!     \--> head again, then the rest, in order --> copy --> end of the stream must be the end of the disk
//! ```
//!
//! Nothing can be read twice, so nothing that lies further up can be planned with: partitions keep their places, no
//! filesystem grows, and which bytes are unused is not known. That the stream is whole is known by its length alone.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use unmoor_images::formats::Format;
use unmoor_images::partition::{self, TableKind};
use unmoor_images::source::check_range;
use unmoor_images::{BlockSource, Error, ErrorKind, ExtentMap, Result, ResultExt, State};

use crate::image::Image;

/// Bytes that are looked at before the copy: both usual places of a GPT's header and its entries.
const HEAD: usize = 1 << 20;

/// Formats and compressions that people pipe by mistake; a raw disk begins with boot code or zeros.
const NOT_RAW: &[(&[u8], &str)] = &[
    (b"QFI\xfb", "a qcow2 image"),
    (b"KDMV", "a VMDK image"),
    (b"vhdxfile", "a VHDX image"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\xfd7zXZ\0", "compressed by xz"),
];

/// The pipe behind an [`Image`]. Clones share it.
#[derive(Clone)]
pub struct Stream(Arc<Mutex<Pipe>>);

struct Pipe {
    reader: Box<dyn Read + Send>,
    head: Vec<u8>,
    /// Bytes handed out so far, of the head and then of the rest.
    given: u64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream at {}", self.lock().given)
    }
}

/// Looks at the head of a stream that is a raw disk of `size` bytes, or of the size that its GPT states.
///
/// # Errors
///
/// `Usage` where nothing tells the size; `Unsupported` for what is plainly no raw disk.
pub fn open(mut reader: Box<dyn Read + Send>, size: Option<u64>) -> Result<Image> {
    let mut head = Vec::new();
    (&mut reader).take(HEAD as u64).read_to_end(&mut head).doing(|| "reading the head of the stream")?;
    let doing = "looking at the stream";
    if head.is_empty() {
        return Err(Error::malformed(doing, "it is empty"));
    }
    if let Some((_, what)) = NOT_RAW.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(Error::unsupported(doing, format!("it is {what}; a stream must be a raw disk")));
    }
    let head = Head { bytes: head, size: 0 };
    let Some(size) = size.or_else(|| head.size_by_gpt()) else {
        let because = "nothing in its first MiB tells how large the disk is (only a GPT does): give --size";
        return Err(Error::new(ErrorKind::Usage, doing).because(because));
    };
    if size == 0 || size >= 1 << 62 || !size.is_multiple_of(512) {
        return Err(Error::new(ErrorKind::Usage, doing).because(format!("{size} bytes are no disk")));
    }
    let head = Head { size, ..head };
    let mut table = partition::read(&head)?;
    // They speak of what lies further up the stream.
    table.warnings.clear();
    let pipe = Pipe { reader, head: head.bytes.clone(), given: 0 };
    Ok(Image {
        path: PathBuf::from("-"),
        format: Format::Raw,
        source: Box::new(head),
        extents: ExtentMap::uniform(size, State::Data),
        leaves: None,
        record: None,
        table,
        regions: Vec::new(),
        warnings: vec![
            "a stream has no manifest: all its bytes are written, and none has a recorded hash".into(),
        ],
        stream: Some(Stream(Arc::new(Mutex::new(pipe)))),
        fitted: None,
        shared: None,
    })
}

impl Stream {
    fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is left, which must end where a disk of `size` bytes ends.
    ///
    /// # Errors
    ///
    /// `Mismatch` if the stream was cut, or is longer than its disk: then the size was wrong.
    pub(crate) fn finish(&self, size: u64) -> Result<()> {
        let mut scratch = vec![0; 1 << 16];
        let mut pipe = self.lock();
        loop {
            match pipe.next(&mut scratch) {
                Ok(0) => break,
                Ok(_) if pipe.given > size => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading the raw stream", error).at(pipe.given)),
            }
        }
        let because = match pipe.given.cmp(&size) {
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Less => format!("it ended {} bytes before the disk did", size - pipe.given),
            std::cmp::Ordering::Greater => {
                format!("it goes on behind the {size} bytes that the disk should have: give its --size")
            }
        };
        Err(Error::new(ErrorKind::Mismatch, "reading the raw stream").because(because))
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock().next(buf)
    }
}

impl Pipe {
    fn next(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let known = usize::try_from(self.given).ok().and_then(|given| self.head.get(given..));
        let count = match known {
            Some(mut rest) if !rest.is_empty() => rest.read(buf)?,
            _ => self.reader.read(buf)?,
        };
        self.given += count as u64;
        Ok(count)
    }
}

/// The first bytes of a disk of `size` bytes; what lies further up cannot be read yet.
struct Head {
    bytes: Vec<u8>,
    size: u64,
}

impl Head {
    /// The size of the disk for which the primary GPT was made: its backup is in the last sector.
    fn size_by_gpt(&self) -> Option<u64> {
        [512u32, 4096].into_iter().find_map(|sector| {
            // UEFI 2.10, table 5.5: AlternateLBA at 32 of the header, which is in sector 1.
            let at = sector as usize;
            let header = self.bytes.get(at..at + 40)?;
            let alternate = u64::from_le_bytes(*header.get(32..40)?.first_chunk()?);
            let size = alternate.checked_add(1)?.checked_mul(u64::from(sector))?;
            if !header.starts_with(b"EFI PART") || size >= 1 << 62 {
                return None;
            }
            let table = partition::read(&Head { bytes: self.bytes.clone(), size }).ok()?;
            (table.kind == TableKind::Gpt && table.sector_size == sector).then_some(size)
        })
    }
}

impl BlockSource for Head {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let part = usize::try_from(offset).ok().and_then(|at| self.bytes.get(at..at.checked_add(buf.len())?));
        let part = part.ok_or_else(|| {
            Error::unsupported("looking at the stream", "it has not come that far").at(offset)
        })?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(bytes: Vec<u8>) -> Box<dyn Read + Send> {
        Box::new(io::Cursor::new(bytes))
    }

    #[test]
    fn a_stream_must_be_as_long_as_its_disk() {
        for (len, words) in
            [(3 << 20, None), (2 << 20, Some("before the disk did")), (4 << 20, Some("--size"))]
        {
            let image = open(boxed(vec![7; len]), Some(3 << 20)).unwrap();
            let outcome = image.stream.unwrap().finish(3 << 20);
            match (outcome, words) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.chain().contains(words), "{}", error.chain()),
                (outcome, _) => panic!("{len} bytes: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_raw_disk_or_tells_no_size_is_refused() {
        assert_eq!(
            open(boxed(b"QFI\xfb\0\0\0\x03".to_vec()), None).err().unwrap().kind(),
            ErrorKind::Unsupported
        );
        assert_eq!(open(boxed(vec![0; 4096]), None).err().unwrap().kind(), ErrorKind::Usage);
        assert_eq!(open(boxed(Vec::new()), Some(512)).err().unwrap().kind(), ErrorKind::Malformed);
        // A header that is no header, and one whose end would overflow.
        let mut bytes = vec![0; 8192];
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[544..552].fill(0xff);
        assert_eq!(open(boxed(bytes), None).err().unwrap().kind(), ErrorKind::Usage);
    }
}
