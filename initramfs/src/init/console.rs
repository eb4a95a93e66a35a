// SPDX-License-Identifier: Apache-2.0
//! What PID 1 says: the same line on every console, since nobody knows which one is looked at.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

static CONSOLES: OnceLock<Mutex<Vec<File>>> = OnceLock::new();

/// Opens the consoles that the kernel uses, and tty0 and ttyS0.
pub(super) fn open() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names: Vec<&str> = active.split_whitespace().chain(["tty0", "ttyS0"]).collect();
    names.sort_unstable();
    names.dedup();
    let mut consoles = Vec::new();
    for name in names {
        // Without O_NOCTTY the terminal would become PID 1's, and its hang-up a signal; without O_NONBLOCK opening a serial port
        // can wait for a carrier.
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(format!("/dev/{name}"));
        // A port that is not there fails at the first write only.
        if let Ok(mut console) = opened
            && console.write_all(b"\r").is_ok()
        {
            consoles.push(console);
        }
    }
    let _ = CONSOLES.set(Mutex::new(consoles));
}

/// One line. A console that does not take it is left behind: nothing may stop PID 1.
pub(crate) fn say(text: &str) {
    let line = format!("[{:>8.3}] unmoor: {}\n", clock().as_secs_f64(), text);
    let Some(consoles) = CONSOLES.get() else { return };
    for console in consoles.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        let mut rest = line.as_bytes();
        for _ in 0..1000 {
            match console.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break,
            }
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Time since the kernel started.
pub(super) fn clock() -> Duration {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
