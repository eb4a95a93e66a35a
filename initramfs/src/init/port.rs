// SPDX-License-Identifier: Apache-2.0
//! Jobs in and answers out: the virtio-serial port `unmoor.0`, one JSON document a line.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use unmoor_images::{Error, ErrorKind, Result};

/// The port's name at the host's end.
const NAME: &str = "unmoor.0";
/// A job's length: driver archives may be part of it (bytes).
const LONGEST: usize = 256 << 20;
/// How long a port may take to appear whose driver is loaded.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a port that nobody has connected to.
const PAUSE: Duration = Duration::from_millis(5);

/// The port, open.
pub(super) struct Port {
    input: File,
    output: Mutex<File>,
}

impl Port {
    /// The port, where the machine has one.
    pub(super) fn find() -> Option<Self> {
        for port in std::fs::read_dir("/sys/class/virtio-ports").ok()?.filter_map(std::result::Result::ok) {
            let name = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim() == NAME {
                let device = Path::new("/dev").join(port.file_name());
                let input = OpenOptions::new().read(true).write(true).open(device).ok()?;
                let output = Mutex::new(input.try_clone().ok()?);
                return Some(Self { input, output });
            }
        }
        None
    }

    /// Waits for it: the host tells the ports' names after the driver is there.
    pub(super) fn wait() -> Result<Self> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(port) = Self::find() {
                return Ok(port);
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::new(ErrorKind::Io, "waiting for a job")
            .because(format!("there is no virtio-serial port {NAME} after {} s", PATIENCE.as_secs())))
    }

    /// One line, however long the host takes to connect.
    pub(super) fn read_line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match self.input.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("reading a job", error)),
            };
            // Nobody is connected (drivers/char/virtio_console.c, port_fops_read).
            if count == 0 {
                std::thread::sleep(PAUSE);
                continue;
            }
            let read = buffer.get(..count).unwrap_or_default();
            if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(read.get(..end).unwrap_or_default());
                return Ok(line);
            }
            line.extend_from_slice(read);
            if line.len() > LONGEST {
                return Err(Error::unsupported("reading a job", format!("it has over {LONGEST} bytes")));
            }
        }
    }

    /// Writes one line. A write returns when the host has it.
    pub(super) fn write(&self, value: &Value) -> Result<()> {
        let mut line = value.to_string();
        line.push('\n');
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(line.as_bytes()).map_err(|error| Error::io("answering", error))
    }
}
