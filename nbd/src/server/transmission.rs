// SPDX-License-Identifier: Apache-2.0
//! The transmission phase: requests, answered out of order by several threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt, State};

use super::Export;
use super::channel::Channel;
use super::handshake::Negotiated;
use super::queue::Queue;
use crate::disk::{Disk, Zeroes};
use crate::protocol::{
    BASE_ALLOCATION_ID, Command, Errno, MAX_PAYLOAD, Request, chunk, chunk_header, command_flag, descriptors,
    error_chunk, offset_data, offset_hole, simple, state,
};

/// A structured read longer than this is answered in windows of this size, and leaves out windows of zeros.
const WINDOW: u32 = 1 << 20;
/// Most extents of one BLOCK_STATUS reply.
const EXTENTS_MOST: usize = 4096;
/// Most questions to the disk for one BLOCK_STATUS request.
const STEPS_MOST: usize = 32 << 10;
/// Errors of a connection that are reported; a failing disk would fill a log.
const REPORTED_MOST: u64 = 20;

/// Bytes that went to and came from clients.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
}

/// A client in the transmission phase.
pub(super) struct Session<'a> {
    pub(super) channel: &'a dyn Channel,
    pub(super) export: &'a Export<'a>,
    pub(super) negotiated: Negotiated,
    pub(super) counters: &'a Counters,
    pub(super) monitor: &'a dyn Monitor,
    /// Threads that answer; with none, the one that reads does.
    pub(super) workers: usize,
    /// Errors so far.
    pub(super) errors: AtomicU64,
}

struct Job {
    request: Request,
    payload: Vec<u8>,
}

type Answered = std::result::Result<(), Wrong>;

/// What a request's reply says went wrong: the value for the client, and words for its user.
struct Wrong {
    errno: Errno,
    words: &'static str,
    /// The whole of it, for the server's own log.
    error: Option<Error>,
}

impl Session<'_> {
    /// Serves until the client leaves.
    pub(super) fn run(&self) -> Result<()> {
        if self.workers == 0 {
            return self.receive(&|_| {}, &mut |job, _| self.answer(job));
        }
        let queue = Queue::new();
        let broken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let work = || {
                queue.work(|job| {
                    if !broken.load(Ordering::Relaxed) && self.answer(job).is_err() {
                        // The client is gone; the thread that reads will notice.
                        broken.store(true, Ordering::Relaxed);
                    }
                });
            };
            let mut push = |job, cost| {
                if queue.push(job, cost, self.workers) {
                    scope.spawn(work);
                }
                Ok(())
            };
            let ended = self.receive(&|cost| queue.admit(cost), &mut push);
            queue.close();
            ended
        })
    }

    /// Reads requests and passes them on.
    fn receive(&self, admit: &dyn Fn(u64), push: &mut dyn FnMut(Job, u64) -> io::Result<()>) -> Result<()> {
        let disk = &*self.export.disk;
        loop {
            let mut raw = [0; Request::LEN];
            match self.channel.read_exact(&mut raw) {
                // A client that leaves without DISC, such as a virtual machine that was ended.
                Err(error) if is_gone(&error) => return Ok(()),
                other => other.doing(|| "reading a request")?,
            }
            let request = Request::parse(&raw)?;
            if request.command == Command::Disconnect {
                return Ok(());
            }
            // Twice the largest payload is still read and thrown away, so that the client hears why.
            if request.payload() > 2 * MAX_PAYLOAD {
                let because = format!("its payload has {} bytes", request.len);
                return Err(Error::malformed("reading a request", because));
            }
            let checked = request.check(disk.size(), disk.is_read_only(), self.negotiated.context);
            if let Err(errno) = checked {
                self.discard(request.payload())?;
                let wrong = Wrong { errno, words: "the request is not valid for this export", error: None };
                self.send_error(&request, &wrong).doing(|| "answering a request")?;
                continue;
            }
            let cost = match request.command {
                Command::Read | Command::Write => request.len.into(),
                _ => 0,
            };
            admit(cost);
            let mut payload = vec![0; request.payload() as usize];
            self.channel.read_exact(&mut payload).doing(|| "reading a request's payload")?;
            push(Job { request, payload }, cost).doing(|| "answering a request")?;
        }
    }

    fn discard(&self, len: u32) -> Result<()> {
        let mut rest = len as usize;
        let mut buffer = vec![0; rest.min(1 << 20)];
        while let Some(room) = buffer.get_mut(..rest.min(1 << 20)).filter(|room| !room.is_empty()) {
            self.channel.read_exact(room).doing(|| "reading a request's payload")?;
            rest -= room.len();
        }
        Ok(())
    }

    /// Does what was asked, and replies. Fails only where the client cannot be reached.
    fn answer(&self, job: Job) -> io::Result<()> {
        let Job { request, payload } = job;
        let disk = &*self.export.disk;
        let (offset, len) = (request.offset, u64::from(request.len));
        let done = match request.command {
            Command::Read => return self.read(&request),
            Command::BlockStatus => return self.block_status(&request),
            Command::Write => disk.write_at(&payload, offset),
            Command::Trim => disk.trim(offset, len),
            Command::WriteZeroes => {
                let allocated = request.has(command_flag::NO_HOLE);
                disk.write_zeroes(
                    offset,
                    len,
                    Zeroes { allocated, fast: request.has(command_flag::FAST_ZERO) },
                )
            }
            Command::Cache => disk.will_need(offset, len),
            Command::Flush => disk.flush(),
            // Neither gets here.
            Command::Disconnect | Command::Other(_) => Ok(()),
        };
        drop(payload);
        let writes = matches!(request.command, Command::Write | Command::Trim | Command::WriteZeroes);
        let done = match done {
            Ok(()) if writes && request.has(command_flag::FUA) => disk.flush(),
            other => other,
        };
        match done {
            Ok(()) => {
                if request.command == Command::Write {
                    self.counters.written.fetch_add(len, Ordering::Relaxed);
                }
                self.send_done(&request)
            }
            Err(error) => self.send_error(&request, &Wrong::new(error, &request)),
        }
    }

    fn read(&self, request: &Request) -> io::Result<()> {
        let result = if self.negotiated.structured {
            self.read_structured(request)?
        } else {
            let mut buffer = vec![0; request.len as usize];
            match self.export.disk.read_at(&mut buffer, request.offset) {
                Ok(()) => {
                    self.channel.write_message(&[&simple(request.cookie, None), &buffer])?;
                    Ok(())
                }
                Err(error) => Err(Wrong::new(error, request)),
            }
        };
        match result {
            Ok(()) => {
                self.counters.read.fetch_add(request.len.into(), Ordering::Relaxed);
                Ok(())
            }
            Err(wrong) => self.send_error(request, &wrong),
        }
    }

    /// The data in one chunk or in several; the outer error is the client's absence, the inner one for it.
    fn read_structured(&self, request: &Request) -> io::Result<Answered> {
        if request.len == 0 {
            self.send_done(request)?;
            return Ok(Ok(()));
        }
        let disk = &*self.export.disk;
        let whole = request.has(command_flag::DF) || request.len <= WINDOW;
        let end = request.offset + u64::from(request.len);
        let mut at = request.offset;
        let mut buffer = Vec::new();
        while at < end {
            let len = if whole { request.len } else { WINDOW.min((end - at) as u32) };
            let done = if at + u64::from(len) == end { chunk::DONE } else { 0 };
            if !request.has(command_flag::DF) && is_zero(disk, at, len) {
                self.channel.write_message(&[&offset_hole(request.cookie, done, at, len)])?;
            } else {
                buffer.resize(len as usize, 0);
                if let Err(error) = disk.read_at(&mut buffer, at) {
                    return Ok(Err(Wrong::new(error, request)));
                }
                self.channel.write_message(&[&offset_data(request.cookie, done, at, len), &buffer])?;
            }
            at += u64::from(len);
        }
        Ok(Ok(()))
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        match extents(&*self.export.disk, request) {
            Ok(extents) => {
                self.channel.write_message(&[&descriptors(request.cookie, BASE_ALLOCATION_ID, &extents)])
            }
            Err(error) => self.send_error(request, &Wrong::new(error, request)),
        }
    }

    fn send_done(&self, request: &Request) -> io::Result<()> {
        let reply = match self.negotiated.structured {
            true => chunk_header(request.cookie, chunk::DONE, chunk::NONE, 0),
            false => simple(request.cookie, None),
        };
        self.channel.write_message(&[&reply])
    }

    fn send_error(&self, request: &Request, wrong: &Wrong) -> io::Result<()> {
        if let Some(error) = &wrong.error
            && self.errors.fetch_add(1, Ordering::Relaxed) < REPORTED_MOST
        {
            self.monitor.note(format!("export {}: {}", self.export.name, error.chain()));
        }
        let reply = match self.negotiated.structured {
            true => error_chunk(request.cookie, wrong.errno, wrong.words),
            false => simple(request.cookie, Some(wrong.errno)),
        };
        self.channel.write_message(&[&reply])
    }
}

impl Wrong {
    fn new(error: Error, request: &Request) -> Self {
        let fast = request.command == Command::WriteZeroes && request.has(command_flag::FAST_ZERO);
        if fast && error.kind() == ErrorKind::Unsupported {
            return Self { errno: Errno::NotSupported, words: "zeroing would not be fast here", error: None };
        }
        let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].map(Some);
        let (errno, words) = match error.io_cause().map(io::Error::raw_os_error) {
            Some(cause) if full.contains(&cause) => {
                (Errno::NoSpace, "there is no space left for the overlay")
            }
            _ if error.kind() == ErrorKind::Refused => (Errno::Perm, "it is not permitted"),
            _ => (Errno::Io, "the disk cannot be read or written there; the server's log says why"),
        };
        Self { errno, words, error: Some(error) }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// True where the disk knows, without reading, that a range is zeros.
fn is_zero(disk: &dyn Disk, offset: u64, len: u32) -> bool {
    let end = offset + u64::from(len);
    let mut at = offset;
    while at < end {
        match disk.extent_at(at, end - at) {
            Ok(extent) if extent.state == State::Zero && extent.len > 0 => at = extent.end(),
            _ => return false,
        }
    }
    true
}

/// Length and flags of the extents of a BLOCK_STATUS request, at least one; neighbours of one state are one.
fn extents(disk: &dyn Disk, request: &Request) -> Result<Vec<(u32, u32)>> {
    let end = request.offset + u64::from(request.len);
    let one = request.has(command_flag::REQ_ONE);
    let mut extents: Vec<(u32, u32)> = Vec::new();
    let mut at = request.offset;
    for _ in 0..STEPS_MOST {
        if at >= end {
            break;
        }
        let extent = disk.extent_at(at, end - at)?;
        let flags = if extent.state == State::Zero { state::HOLE | state::ZERO } else { 0 };
        let len = extent.len.min(end - at);
        let full = extents.len() >= if one { 1 } else { EXTENTS_MOST };
        match extents.last_mut() {
            Some((before, same)) if *same == flags => *before += len as u32,
            Some(_) if full => break,
            _ => extents.push((len as u32, flags)),
        }
        at += len;
    }
    Ok(extents)
}
