// SPDX-License-Identifier: Apache-2.0
//! A proxy before an HTTP server of this host, which delays, breaks and counts what passes. One thread a connection.

use std::cell::Cell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(dead_code, reason = "each program that has this uses a part")]
pub(crate) enum Action {
    Pass,
    /// Answered here, with this status and S3 error code; the server is not asked.
    Status(u16, &'static str),
    /// Not answered for so long, then the connection ends.
    Hang(Duration),
    /// The connection ends; the server is not asked.
    Reset,
    /// The server is asked, and the connection ends before its answer.
    Lose,
    /// The connection ends after so many bytes of the answer's body.
    Cut(u64),
    /// One bit of this byte of the answer's body is another.
    Flip(u64),
}

/// What is known of a request when its fate is decided.
#[allow(dead_code, reason = "each program that has this uses a part")]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// How many came before.
    pub(crate) number: usize,
}

type Decide = Box<dyn Fn(&Request<'_>) -> Action + Send + Sync>;

struct Shared {
    upstream: u16,
    delay: Duration,
    decide: Decide,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    stopped: AtomicBool,
}

/// A proxy that runs until it is dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a free port for what goes to `upstream` of this host. Every request is delayed by `delay`.
    pub(crate) fn start(
        upstream: u16,
        delay: Duration,
        decide: impl Fn(&Request<'_>) -> Action + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            upstream,
            delay,
            decide: Box::new(decide),
            requests: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let proxy = Self { port, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = shared.clone();
                // What breaks a connection ends it, for both sides.
                std::thread::spawn(move || shared.serve(&client).err());
            }
        });
        Ok(proxy)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests so far.
    #[allow(dead_code, reason = "each program that has this uses a part")]
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Most requests that were in flight at a time.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for clients.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A request's or an answer's head, and how its body ends.
struct Head {
    bytes: Vec<u8>,
    first: String,
    length: Option<u64>,
    chunked: bool,
}

/// None where the connection ended before it began.
fn read_head(from: &mut impl BufRead) -> Result<Option<Head>> {
    let mut head = Head { bytes: Vec::new(), first: String::new(), length: None, chunked: false };
    loop {
        let before = head.bytes.len();
        if from.read_until(b'\n', &mut head.bytes)? == 0 {
            return if before == 0 { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let line = String::from_utf8_lossy(head.bytes.get(before..).unwrap_or_default()).trim().to_owned();
        if line.is_empty() {
            return Ok(Some(head));
        }
        if head.first.is_empty() {
            head.first = line;
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => head.length = value.trim().parse().ok(),
            "transfer-encoding" => head.chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
}

/// Passes `len` bytes on; `at` counts those of the body. `ends` is called before the last of them are written.
fn pass(
    from: &mut impl Read,
    to: &mut impl Write,
    len: u64,
    at: &mut u64,
    action: &Action,
    ends: &dyn Fn(),
) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut left = len;
    while left > 0 {
        let most = (buffer.len() as u64).min(left) as usize;
        let read = from.read(buffer.get_mut(..most).unwrap_or_default())?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let piece = buffer.get_mut(..read).unwrap_or_default();
        match action {
            Action::Flip(byte) if (*at..*at + read as u64).contains(byte) => {
                if let Some(byte) = piece.get_mut((byte - *at) as usize) {
                    *byte ^= 4;
                }
            }
            Action::Cut(most) if *at + read as u64 > *most => {
                to.write_all(piece.get(..(*most - *at) as usize).unwrap_or_default())?;
                to.flush()?;
                return Err(ErrorKind::ConnectionReset.into());
            }
            _ => {}
        }
        *at += read as u64;
        left -= read as u64;
        if left == 0 {
            ends();
        }
        to.write_all(piece)?;
    }
    Ok(())
}

/// Passes a body on. `ends` is called before its last bytes are written.
fn pass_body(
    head: &Head,
    from: &mut impl BufRead,
    to: &mut impl Write,
    action: &Action,
    ends: &dyn Fn(),
) -> Result<()> {
    let mut at = 0;
    if !head.chunked {
        return pass(from, to, head.length.unwrap_or(0), &mut at, action, ends);
    }
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        let len = text.trim().split(';').next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let len = len.ok_or(ErrorKind::InvalidData)?;
        if len == 0 {
            ends();
        }
        to.write_all(&line)?;
        if len > 0 {
            pass(from, to, len, &mut at, action, &|| {})?;
        }
        let mut end = Vec::new();
        from.read_until(b'\n', &mut end)?;
        to.write_all(&end)?;
        if len == 0 {
            return Ok(());
        }
    }
}

/// A request in flight: until it is dropped, or before the last of its answer is written. Counted until later, a client
/// that has its answer and asks again would be counted twice.
struct Flight<'a> {
    shared: &'a Shared,
    over: Cell<bool>,
}

impl<'a> Flight<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most.fetch_max(now, Ordering::Relaxed);
        Self { shared, over: Cell::new(false) }
    }

    fn end(&self) {
        if !self.over.replace(true) {
            self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let mut from_client = BufReader::with_capacity(256 * 1024, client);
        let mut server: Option<BufReader<TcpStream>> = None;
        while let Some(head) = read_head(&mut from_client)? {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let flight = Flight::begin(self);
            std::thread::sleep(self.delay);
            let served = self.one(number, &head, &mut from_client, client, &mut server, &flight);
            drop(flight);
            if let Err(error) = served {
                let _ = client.shutdown(Shutdown::Both);
                return Err(error);
            }
        }
        Ok(())
    }

    fn one(
        &self,
        number: usize,
        head: &Head,
        from_client: &mut BufReader<&TcpStream>,
        mut client: &TcpStream,
        server: &mut Option<BufReader<TcpStream>>,
        flight: &Flight<'_>,
    ) -> Result<()> {
        let mut words = head.first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let action = (self.decide)(&Request { method, path, number });
        match action {
            Action::Status(status, code) => {
                pass_body(head, from_client, &mut std::io::sink(), &Action::Pass, &|| {})?;
                let body = format!(
                    "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>injected</Message></Error>"
                );
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n"
                );
                let body = if method == "HEAD" { "" } else { &body };
                flight.end();
                return client.write_all(format!("{head}{body}").as_bytes());
            }
            Action::Hang(time) => {
                std::thread::sleep(time);
                return Err(ErrorKind::TimedOut.into());
            }
            Action::Reset => return Err(ErrorKind::ConnectionReset.into()),
            Action::Pass | Action::Lose | Action::Cut(_) | Action::Flip(_) => {}
        }
        let upstream = match server {
            Some(upstream) => upstream,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.upstream))?;
                stream.set_nodelay(true)?;
                server.insert(BufReader::with_capacity(256 * 1024, stream))
            }
        };
        let mut to_server = upstream.get_ref();
        to_server.write_all(&head.bytes)?;
        pass_body(head, from_client, &mut to_server, &Action::Pass, &|| {})?;
        let answer = read_head(upstream)?.ok_or(ErrorKind::UnexpectedEof)?;
        if action == Action::Lose {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let bare =
            method == "HEAD" || ["204", "304"].iter().any(|code| answer.first.contains(&format!(" {code}")));
        let bodiless = bare || (!answer.chunked && answer.length.unwrap_or(0) == 0);
        if bodiless {
            flight.end();
        }
        client.write_all(&answer.bytes)?;
        if bare {
            return Ok(());
        }
        pass_body(&answer, upstream, &mut client, &action, &|| flight.end())
    }
}
