// SPDX-License-Identifier: Apache-2.0
//! A client's connection as one reader and several writers use it: a socket, or TLS over one.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};
use std::sync::Arc;

/// What sessions read from and write to. One thread reads; any may write.
pub trait Channel: Sync {
    /// Fills `buf`.
    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()>;

    /// Writes one message, whole, not mixed with another thread's.
    fn write_message(&self, parts: &[&[u8]]) -> io::Result<()>;
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    /// Small replies go out at once, and a peer that is gone is noticed.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::KeepAlive, &true)?)
            }
            Self::Unix(stream) => stream.set_nonblocking(false),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // Fails where the peer is gone already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    fn set_timeouts(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).read(buf),
            Socket::Unix(stream) => (&mut &*stream).read(buf),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write(buf),
            Socket::Unix(stream) => (&mut &*stream).write(buf),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&mut &*stream).write_vectored(parts),
            Socket::Unix(stream) => (&mut &*stream).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket with a time until which everything has to be over.
struct Timed {
    socket: Socket,
    deadline: Mutex<Option<Instant>>,
}

impl Timed {
    fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        *lock(&self.deadline) = limit.and_then(|limit| Instant::now().checked_add(limit));
        if limit.is_none() { self.socket.set_timeouts(None) } else { Ok(()) }
    }

    fn arm(&self) -> io::Result<()> {
        let Some(deadline) = *lock(&self.deadline) else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_timeouts(Some(left))
    }
}

impl Read for &Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        (&self.socket).read(buf)
    }
}

impl Write for &Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.arm()?;
        (&self.socket).write(buf)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.arm()?;
        (&self.socket).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket as it is.
pub(super) struct Plain {
    timed: Timed,
    sending: Mutex<()>,
}

impl Plain {
    pub(super) fn new(socket: Socket, limit: Duration) -> io::Result<Self> {
        let timed = Timed { socket, deadline: Mutex::new(None) };
        timed.limit(Some(limit))?;
        Ok(Self { timed, sending: Mutex::new(()) })
    }

    /// From now on there is no time limit.
    pub(super) fn unlimited(&self) -> io::Result<()> {
        self.timed.limit(None)
    }

    /// Shakes hands for TLS as its server; the time limit stays.
    pub(super) fn into_tls(self, config: Arc<ServerConfig>) -> io::Result<Tls> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // What is handed to it at a time is bounded here.
        connection.set_buffer_limit(None);
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut &self.timed)?;
        }
        Ok(Tls {
            timed: self.timed,
            connection: Mutex::new(connection),
            sending: Mutex::new(()),
            incoming: Mutex::new(Incoming { raw: vec![0; 64 << 10], range: 0..0 }),
        })
    }
}

impl Channel for Plain {
    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        (&self.timed).read_exact(buf)
    }

    fn write_message(&self, parts: &[&[u8]]) -> io::Result<()> {
        let _turn = lock(&self.sending);
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest: &mut [IoSlice<'_>] = &mut slices;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match (&self.timed).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Bytes from the socket that TLS has not taken yet.
struct Incoming {
    raw: Vec<u8>,
    range: std::ops::Range<usize>,
}

/// TLS over a socket. The lock on the connection is never held while the socket blocks, so that a reader that waits keeps
/// no writer from its work; `sending` keeps records in the order in which they were sealed.
pub(super) struct Tls {
    timed: Timed,
    connection: Mutex<ServerConnection>,
    sending: Mutex<()>,
    incoming: Mutex<Incoming>,
}

/// Bytes that are sealed and sent at a time.
const SEAL: usize = 128 << 10;

impl Tls {
    pub(super) fn unlimited(&self) -> io::Result<()> {
        self.timed.limit(None)
    }

    /// Seals `data` and what TLS itself has to say; `sending` is held.
    fn send(&self, data: &[u8]) -> io::Result<()> {
        let mut records = Vec::with_capacity(data.len() + 1024);
        {
            let mut connection = lock(&self.connection);
            connection.writer().write_all(data)?;
            while connection.wants_write() {
                connection.write_tls(&mut records)?;
            }
        }
        (&self.timed).write_all(&records)
    }

    /// Says that nothing more comes.
    pub(super) fn close(&self) {
        let _turn = lock(&self.sending);
        lock(&self.connection).send_close_notify();
        // Fails where the peer is gone already.
        let _ = self.send(&[]);
    }
}

impl Channel for Tls {
    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        let mut incoming = lock(&self.incoming);
        let Incoming { raw, range } = &mut *incoming;
        let mut done = 0;
        while let Some(room) = buf.get_mut(done..).filter(|room| !room.is_empty()) {
            let mut connection = lock(&self.connection);
            match connection.reader().read(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    done += read;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if range.start == range.end {
                drop(connection);
                match (&self.timed).read(raw) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => *range = 0..read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let mut piece = raw.get(range.clone()).unwrap_or(&[]);
            let taken = connection.read_tls(&mut piece)?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            range.start += taken;
            connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let wants_write = connection.wants_write();
            drop(connection);
            if wants_write {
                let _turn = lock(&self.sending);
                self.send(&[])?;
            }
        }
        Ok(())
    }

    fn write_message(&self, parts: &[&[u8]]) -> io::Result<()> {
        let _turn = lock(&self.sending);
        // A header goes out with what follows it.
        let mut sealed = Vec::new();
        for part in parts {
            for piece in part.chunks(SEAL) {
                sealed.extend_from_slice(piece);
                if sealed.len() >= SEAL {
                    self.send(&sealed)?;
                    sealed.clear();
                }
            }
        }
        if sealed.is_empty() { Ok(()) } else { self.send(&sealed) }
    }
}
