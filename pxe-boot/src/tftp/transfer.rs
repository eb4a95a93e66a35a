// SPDX-License-Identifier: Apache-2.0
//! One transfer: blocks go out by windows, and what is not acknowledged goes out again.
//!
//! A block that is acknowledged twice is not sent twice (the "Sorcerer's Apprentice", RFC 1123 section 4.2.3.1): only silence, and an
//! acknowledgement from within a window, make it go back.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use unmoor_images::Monitor;

use super::packet::{self, BLOCK, Options, Packet, Problem};
use super::source::Opened;

/// Sent again after so many seconds, where the client does not say.
const TIMEOUT: u8 = 1;
/// Sent so often before the client counts as gone.
const TRIES: u32 = 8;
/// Blocks of a window at most: more overflow the sockets of firmware.
pub(super) const WINDOW: u16 = 64;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client has it all.
    Complete,
    /// It wanted the size only, or thought better of it.
    Refused,
    /// It said nothing more.
    Silent,
}

/// Sends `opened` to whom `socket` is connected.
pub(super) fn send(
    socket: &UdpSocket,
    opened: &Opened,
    options: &Options,
    monitor: &dyn Monitor,
) -> io::Result<End> {
    let granted = Options { window: options.window.map(|window| window.min(WINDOW)), ..options.clone() };
    let timeout = Duration::from_secs(granted.timeout.unwrap_or(TIMEOUT).into());
    let block = u64::from(granted.block.unwrap_or(BLOCK));
    let window = u64::from(granted.window.unwrap_or(1));
    // The last block is shorter than the others, and may be empty.
    let last = opened.size() / block + 1;
    let mut session = Session { socket, monitor, timeout, tries: 0 };
    if !granted.is_none() {
        let offer = granted.acknowledge(opened.size());
        loop {
            socket.send(&offer)?;
            match session.wait(0, 0, true)? {
                Heard::Ack(0) => break,
                Heard::Silence if session.may_go_on() => {}
                Heard::Silence => return Ok(End::Silent),
                Heard::Ack(_) | Heard::End => return Ok(End::Refused),
            }
        }
        session.tries = 0;
    }
    let (mut acknowledged, mut rewound) = (0, false);
    let mut buffer = Vec::with_capacity(block as usize + 4);
    while acknowledged < last {
        let until = (acknowledged + window).min(last);
        for number in acknowledged + 1..=until {
            let at = (number - 1) * block;
            let len = (opened.size() - at).min(block) as usize;
            buffer.clear();
            buffer.extend([0, 3]);
            buffer.extend((number as u16).to_be_bytes());
            buffer.resize(4 + len, 0);
            if let Some(part) = buffer.get_mut(4..) {
                opened.read_at(part, at)?;
            }
            socket.send(&buffer)?;
        }
        // A client tells of a loss for each block that follows it: once is enough, or each of them would send the window again.
        match session.wait(acknowledged, until, !rewound && until - acknowledged > 1)? {
            Heard::Ack(number) if number > acknowledged => {
                (acknowledged, rewound) = (number, false);
                session.tries = 0;
            }
            Heard::Ack(_) => rewound = true,
            Heard::Silence if session.may_go_on() => {}
            Heard::Silence => return Ok(End::Silent),
            Heard::End => return Ok(End::Refused),
        }
    }
    Ok(End::Complete)
}

enum Heard {
    /// All up to this block.
    Ack(u64),
    Silence,
    /// The client gives up.
    End,
}

struct Session<'a> {
    socket: &'a UdpSocket,
    monitor: &'a dyn Monitor,
    timeout: Duration,
    tries: u32,
}

impl Session<'_> {
    fn may_go_on(&mut self) -> bool {
        self.tries += 1;
        self.tries < TRIES && !self.monitor.cancelled()
    }

    /// Waits for an acknowledgement of a block behind `acknowledged` and up to `until`, or of that one where a repetition counts.
    /// Block numbers have 16 bits and begin again at 0.
    fn wait(&self, acknowledged: u64, until: u64, repeated: bool) -> io::Result<Heard> {
        let end = Instant::now() + self.timeout;
        let mut buffer = [0; 2048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Silence);
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match self.socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(Heard::Silence);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The client's port is closed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Heard::End),
                Err(error) => return Err(error),
            };
            match Packet::parse(buffer.get(..len).unwrap_or_default()) {
                Ok(Packet::Ack(number)) => {
                    let behind = number.wrapping_sub(acknowledged as u16);
                    let found = acknowledged + u64::from(behind);
                    if found > acknowledged && found <= until || found == acknowledged && repeated {
                        return Ok(Heard::Ack(found));
                    }
                }
                Ok(Packet::Error { .. }) => return Ok(Heard::End),
                Ok(_) => {
                    self.socket.send(&packet::error(Problem::Illegal, "a transfer is under way"))?;
                    return Ok(Heard::End);
                }
                Err(_) => {}
            }
        }
    }
}
