// SPDX-License-Identifier: Apache-2.0
//! What the kernel says in a page of its trace buffer, and where in an event its fields lie.
//!
//! Layouts are read from the running kernel's own files (`events/header_page`, `events/*/format`); the encoding of events in a
//! page is that of `include/linux/ring_buffer.h`, which trace-cmd and perf rely on.

use unmoor_images::{Error, Result};

/// As the kernel of this machine writes numbers: no other reads them.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_ne_bytes)
}

/// Where one field lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
}

impl Field {
    fn number(self, event: &[u8]) -> Option<u64> {
        match self.size {
            2 => Some(u64::from(u16::from_ne_bytes(array(event, self.offset)?))),
            4 => Some(u64::from(word(event, self.offset)?)),
            8 => Some(u64::from_ne_bytes(array(event, self.offset)?)),
            _ => None,
        }
    }
}

/// The lines `field:TYPE NAME; offset:N; size:N; signed:N;` of a format file.
fn field(format: &str, name: &str) -> Option<Field> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let declared = parts.next()?;
        // "char rwbs[10]", "dev_t dev"
        let word = declared.rsplit([' ', '*']).next()?.split('[').next()?;
        if word != name {
            return None;
        }
        let mut number = |key: &str| parts.next()?.strip_prefix(key)?.trim_start_matches(':').parse().ok();
        Some(Field { offset: number("offset")?, size: number("size")? })
    })
}

/// An event that tells of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestEvent {
    /// The number of this kind of event.
    pub(super) id: u16,
    dev: Field,
    sector: Field,
    nr_sector: Field,
    /// `block_rq_issue` alone has it.
    bytes: Option<Field>,
    rwbs: Field,
}

impl RequestEvent {
    /// From a tracepoint's format file.
    pub(super) fn parse(format: &str) -> Result<Self> {
        let missing = |name: &str| {
            Error::unsupported("reading a tracepoint's format", format!("it has no field {name}"))
        };
        let need = |name: &str| field(format, name).ok_or_else(|| missing(name));
        let id = format.lines().find_map(|line| line.strip_prefix("ID:")?.trim().parse().ok());
        Ok(Self {
            id: id.ok_or_else(|| missing("ID"))?,
            dev: need("dev")?,
            sector: need("sector")?,
            nr_sector: need("nr_sector")?,
            bytes: field(format, "bytes"),
            rwbs: need("rwbs")?,
        })
    }

    /// What it says; none if the event is too short for its own format.
    pub(super) fn read(&self, event: &[u8]) -> Option<Request> {
        let rwbs = event.get(self.rwbs.offset..self.rwbs.offset.checked_add(self.rwbs.size)?)?;
        let bytes = match self.bytes {
            Some(field) => field.number(event)?,
            None => 0,
        };
        let sectors = self.nr_sector.number(event)?;
        let sector = self.sector.number(event)?;
        let kind = kind(rwbs);
        let change = match kind {
            Kind::Read => Change::Nothing,
            // A cache flush. Of what carries no bytes nothing is known to write.
            _ if sectors == 0 && bytes == 0 => Change::Nothing,
            // A command that another program made has no place: writing at sector 5 and reading a serial number look alike.
            Kind::Other if sectors == 0 || sector == u64::MAX => Change::Unknown,
            Kind::Write | Kind::Other => {
                let len = sectors.saturating_mul(512).max(bytes);
                Change::At { offset: sector.saturating_mul(512), len }
            }
        };
        Some(Request { dev: self.dev.number(event)? as u32, change })
    }
}

/// What a request did to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It only read, or flushed.
    Nothing,
    /// In bytes.
    At { offset: u64, len: u64 },
    /// Perhaps, and anywhere.
    Unknown,
}

/// One request, issued or completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    /// The kernel's own encoding: major << 20 | minor.
    pub(super) dev: u32,
    pub(super) change: Change,
}

enum Kind {
    Read,
    Write,
    Other,
}

/// The letters of `blk_fill_rwbs` (`kernel/trace/blktrace.c`): `F` first for a flush before it, then the operation: `R`, `W`,
/// `D` discard, `F` flush, `N` anything else, which is write zeroes on older kernels.
fn kind(rwbs: &[u8]) -> Kind {
    let text = rwbs.split(|&byte| byte == 0).next().unwrap_or_default();
    let operation = match text {
        [b'F', operation, ..] if operation.is_ascii_uppercase() => *operation,
        [operation, ..] => *operation,
        [] => b'N',
    };
    match operation {
        b'R' => Kind::Read,
        b'N' => Kind::Other,
        // A flush has no sectors, and so writes nothing; where it has some it counts as a write.
        _ => Kind::Write,
    }
}

/// How pages begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageFormat {
    commit: Field,
    data: Field,
}

/// The events of a page, and whether some before it are missing.
#[derive(Debug, Default)]
pub(super) struct Page<'a> {
    pub(super) events: Vec<&'a [u8]>,
    pub(super) missed: bool,
}

/// In the page's length: events were lost before it (`RB_MISSED_EVENTS`).
const MISSED: u64 = 1 << 31;
const LENGTH: u64 = (1 << 20) - 1;

impl PageFormat {
    /// From `events/header_page`.
    pub(super) fn parse(format: &str) -> Result<Self> {
        let need = |name: &str| {
            field(format, name).ok_or_else(|| {
                Error::unsupported("reading the format of trace pages", format!("it has no field {name}"))
            })
        };
        Ok(Self { commit: need("commit")?, data: need("data")? })
    }

    /// Bytes of a page.
    pub(super) fn bytes(&self) -> usize {
        self.data.offset.saturating_add(self.data.size).clamp(4096, 1 << 20)
    }

    /// Takes a page apart. None if it contradicts itself.
    pub(super) fn read<'a>(&self, page: &'a [u8]) -> Option<Page<'a>> {
        let commit = self.commit.number(page)?;
        let end = self.data.offset.checked_add((commit & LENGTH) as usize)?;
        let mut rest = page.get(self.data.offset..end)?;
        let mut found = Page { missed: commit & MISSED != 0, ..Page::default() };
        while !rest.is_empty() {
            let header = word(rest, 0)?;
            let (kind, delta) = (header & 31, header >> 5);
            let (skip, len) = match kind {
                // The length stands in the first word, which it counts.
                0 => (8, (word(rest, 4)? as usize).checked_sub(4)?),
                1..=28 => (4, kind as usize * 4),
                // Padding: to the page's end, or a discarded event of a stated length.
                29 if delta == 0 => break,
                29 => {
                    rest = rest.get(4usize.checked_add(word(rest, 4)? as usize)?..)?;
                    continue;
                }
                // Time, in two words.
                _ => {
                    rest = rest.get(8..)?;
                    continue;
                }
            };
            let end = len.checked_add(skip)?;
            found.events.push(rest.get(skip..end)?);
            rest = rest.get(end..)?;
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUE: &str = "name: block_rq_issue\nID: 2104\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:unsigned int nr_sector;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:unsigned int bytes;\toffset:28;\tsize:4;\tsigned:0;\n\
        \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n";
    const PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";

    fn event(sector: u64, sectors: u32, bytes: u32, rwbs: &[u8]) -> Vec<u8> {
        let mut event = vec![0; 44];
        event[8..12].copy_from_slice(&(7u32 << 20).to_ne_bytes());
        event[16..24].copy_from_slice(&sector.to_ne_bytes());
        event[24..28].copy_from_slice(&sectors.to_ne_bytes());
        event[28..32].copy_from_slice(&bytes.to_ne_bytes());
        event[34..34 + rwbs.len()].copy_from_slice(rwbs);
        event
    }

    #[test]
    fn requests_are_told_apart_and_doubt_is_a_change() {
        let format = RequestEvent::parse(ISSUE).unwrap();
        assert_eq!(format.id, 2104);
        let at = |offset, len| Change::At { offset, len };
        for (sector, sectors, bytes, rwbs, want) in [
            (8, 16, 8192, &b"WS"[..], at(4096, 8192)),
            (8, 16, 8192, b"FWFSM", at(4096, 8192)),
            (8, 16, 8192, b"RA", Change::Nothing),
            (8, 16, 8192, b"FR", Change::Nothing),
            (0, 0, 0, b"FF", Change::Nothing),
            (0, 0, 0, b"F", Change::Nothing),
            (0, 1 << 24, 0, b"D", at(0, 512 << 24)),
            (8, 8, 4096, b"DE", at(4096, 4096)),
            (8, 8, 4096, b"N", at(4096, 4096)),
            (0, 0, 512, b"N", Change::Unknown),
            (u64::MAX, 1, 512, b"N", Change::Unknown),
            (0, 0, 0, b"N", Change::Nothing),
            (8, 8, 4096, b"ZAS", at(4096, 4096)),
            (8, 8, 4096, b"", at(4096, 4096)),
            (8, 8, 4096, b"F", at(4096, 4096)),
        ] {
            let request = format.read(&event(sector, sectors, bytes, rwbs)).unwrap();
            assert_eq!(request, Request { dev: 7 << 20, change: want }, "{rwbs:?}");
        }
        assert_eq!(format.read(&[0; 43]), None);
        assert!(RequestEvent::parse("ID: 3\n").is_err());
    }

    #[test]
    fn pages_are_taken_apart_whatever_stands_between_the_events() {
        let format = PageFormat::parse(PAGE).unwrap();
        assert_eq!(format.bytes(), 4096);
        let mut data = Vec::new();
        let word = |data: &mut Vec<u8>, word: u32| data.extend_from_slice(&word.to_ne_bytes());
        word(&mut data, 30 | 5 << 5); // time
        word(&mut data, 0);
        word(&mut data, 2); // an event of 8 bytes
        data.extend_from_slice(b"abcdefgh");
        word(&mut data, 29 | 1 << 5); // a discarded event of 8 bytes, and its length
        word(&mut data, 8);
        word(&mut data, 77);
        word(&mut data, 0); // a long event
        word(&mut data, 4 + 120);
        data.extend_from_slice(&[7; 120]);
        let mut page = vec![0; 16];
        page[8..16].copy_from_slice(&(data.len() as u64 | MISSED).to_ne_bytes());
        page.extend_from_slice(&data);
        let found = format.read(&page).unwrap();
        assert!(found.missed);
        assert_eq!(found.events, [&b"abcdefgh"[..], &[7; 120]]);
        // Cut anywhere, it is an error and no panic.
        for len in 0..page.len() {
            assert!(format.read(&page[..len]).is_none());
        }
    }
}
