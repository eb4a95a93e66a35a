// SPDX-License-Identifier: Apache-2.0
//! The server: connections, each with its handshake and its transmission.
//!
//! ```text
//!   Listener --accept--> client thread: Plain -greet, haggle-> (Tls -haggle->) Session
//!                        Session: this thread reads requests -> Queue -> up to WORKERS threads: Disk, reply
//! ```

mod channel;
mod handshake;
mod listener;
mod queue;
mod transmission;

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use unmoor_images::{Error, Monitor, Result, ResultExt};

use crate::disk::Disk;
use channel::{Plain, Socket};
use handshake::{Encryption, Outcome};
use transmission::{Counters, Session};

pub use channel::Channel;
pub use listener::{Address, Listener};

/// Threads that answer one connection's requests.
const WORKERS: usize = 16;
/// How long a client may take for its handshake, TLS included.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a client may take to receive its last replies when the server ends.
const LEAVING: Duration = Duration::from_secs(5);

/// A disk under a name.
pub struct Export<'a> {
    /// What clients ask for; the first export also has the empty name.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it is.
    pub disk: Box<dyn Disk + 'a>,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// With it nothing is said without TLS.
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections at a time; others are closed at once.
    pub max_clients: usize,
}

/// What a server did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that chose an export.
    pub clients: u64,
    /// Bytes that clients read.
    pub read_bytes: u64,
    /// Bytes that clients wrote.
    pub written_bytes: u64,
}

/// Connections that are there, by number.
type Clients = Mutex<HashMap<u64, Socket>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until the monitor is cancelled; requests that were read by then are answered.
pub fn serve(
    listener: &Listener,
    exports: &[Export<'_>],
    options: &Options,
    monitor: &dyn Monitor,
) -> Result<Totals> {
    let counters = Counters::default();
    let clients = Clients::default();
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut number = 0;
        let mut listen = || -> Result<()> {
            while !monitor.cancelled() {
                let Some((socket, peer)) = listener.accept(Duration::from_millis(250))? else { continue };
                if lock(&clients).len() >= options.max_clients {
                    monitor.note(format!(
                        "{peer}: turned away: {} clients are there already",
                        options.max_clients
                    ));
                    continue;
                }
                number += 1;
                let Ok(twin) = socket.try_clone() else { continue };
                lock(&clients).insert(number, twin);
                let client = Client { exports, options, counters: &counters, served: &served, monitor, peer };
                let (clients, number) = (&clients, number);
                scope.spawn(move || {
                    client.run(socket);
                    lock(clients).remove(&number);
                });
            }
            Ok(())
        };
        let listened = listen();
        // No more requests; those that are at work are answered.
        lock(&clients).values().for_each(|socket| socket.shutdown(Shutdown::Read));
        let began = Instant::now();
        while !lock(&clients).is_empty() {
            if began.elapsed() > LEAVING {
                lock(&clients).values().for_each(|socket| socket.shutdown(Shutdown::Both));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        listened
    })?;
    Ok(Totals {
        clients: served.load(Ordering::Relaxed),
        read_bytes: counters.read.load(Ordering::Relaxed),
        written_bytes: counters.written.load(Ordering::Relaxed),
    })
}

/// One connection.
struct Client<'a> {
    exports: &'a [Export<'a>],
    options: &'a Options,
    counters: &'a Counters,
    served: &'a AtomicU64,
    monitor: &'a dyn Monitor,
    peer: String,
}

impl Client<'_> {
    fn run(&self, socket: Socket) {
        let twin = socket.try_clone();
        if let Err(error) = self.talk(socket) {
            self.monitor.note(format!("{}: {}", self.peer, error.chain()));
        }
        // Other handles to the socket are still open; the peer is to see its end now.
        if let Ok(twin) = twin {
            twin.shutdown(Shutdown::Both);
        }
    }

    fn talk(&self, socket: Socket) -> Result<()> {
        socket.prepare().doing(|| "preparing the connection")?;
        let plain = Plain::new(socket, HANDSHAKE).doing(|| "preparing the connection")?;
        let no_zeroes = handshake::greet(&plain)?;
        let encryption = if self.options.tls.is_some() { Encryption::Wanted } else { Encryption::Off };
        match (handshake::haggle(&plain, self.exports, encryption, no_zeroes)?, &self.options.tls) {
            (Outcome::Transmission(negotiated), _) => {
                plain.unlimited().doing(|| "preparing the connection")?;
                self.transmit(&plain, negotiated)
            }
            (Outcome::StartTls, Some(config)) => {
                let tls = plain.into_tls(Arc::clone(config)).doing(|| "shaking hands for TLS")?;
                let outcome = handshake::haggle(&tls, self.exports, Encryption::On, no_zeroes)?;
                if let Outcome::Transmission(negotiated) = outcome {
                    tls.unlimited().doing(|| "preparing the connection")?;
                    self.transmit(&tls, negotiated)?;
                }
                tls.close();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn transmit(&self, channel: &dyn Channel, negotiated: handshake::Negotiated) -> Result<()> {
        self.served.fetch_add(1, Ordering::Relaxed);
        session(channel, self.exports, negotiated, self.counters, self.monitor, WORKERS)
    }
}

fn session(
    channel: &dyn Channel,
    exports: &[Export<'_>],
    negotiated: handshake::Negotiated,
    counters: &Counters,
    monitor: &dyn Monitor,
    workers: usize,
) -> Result<()> {
    let Some(export) = exports.get(negotiated.export) else { return Ok(()) };
    let errors = AtomicU64::new(0);
    Session { channel, export, negotiated, counters, monitor, workers, errors }.run()
}

/// Serves one client that is connected already, without TLS, until it leaves.
///
/// # Errors
///
/// As the connection, and what the client did wrong.
pub fn serve_one(stream: UnixStream, exports: &[Export<'_>], monitor: &dyn Monitor) -> Result<()> {
    let plain = Plain::new(Socket::Unix(stream), HANDSHAKE).doing(|| "preparing the connection")?;
    let no_zeroes = handshake::greet(&plain)?;
    match handshake::haggle(&plain, exports, Encryption::Off, no_zeroes)? {
        Outcome::Transmission(negotiated) => {
            plain.unlimited().doing(|| "preparing the connection")?;
            session(&plain, exports, negotiated, &Counters::default(), monitor, WORKERS)
        }
        Outcome::StartTls | Outcome::Ended => Ok(()),
    }
}

/// Serves one client, request after request in this thread. For tests and fuzzing: the same input gives the same output.
pub fn converse(channel: &dyn Channel, exports: &[Export<'_>], monitor: &dyn Monitor) -> Result<()> {
    let no_zeroes = handshake::greet(channel)?;
    match handshake::haggle(channel, exports, Encryption::Off, no_zeroes)? {
        Outcome::Transmission(negotiated) => {
            session(channel, exports, negotiated, &Counters::default(), monitor, 0)
        }
        Outcome::StartTls | Outcome::Ended => Ok(()),
    }
}

fn accept_failed(error: io::Error) -> Error {
    Error::io("accepting a connection", error)
}
