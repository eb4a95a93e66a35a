// SPDX-License-Identifier: Apache-2.0
//! Secrets that open LUKS containers.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;
use unmoor_images::{Error, ErrorKind, Result};

/// Largest key file that cryptsetup reads, in bytes.
const MOST: u64 = 8 << 20;

/// How encrypted disks are opened.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeyOptions {
    /// A key file for the guest's LUKS containers
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Read a passphrase for them from this file descriptor, up to the end of its first line
    #[arg(long, value_name = "NUMBER")]
    passphrase_fd: Option<RawFd>,
}

impl KeyOptions {
    /// The secrets, the file's first.
    pub(crate) fn read(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        if let Some(path) = &self.key_file {
            let mut key = Vec::new();
            File::open(path)
                .and_then(|file| file.take(MOST).read_to_end(&mut key))
                .map_err(|error| Error::io("reading the key file", error).path(path))?;
            keys.push(key);
        }
        if let Some(number) = self.passphrase_fd {
            let path = format!("/proc/self/fd/{number}");
            let usage = |error| {
                Error::new(ErrorKind::Usage, format!("reading the passphrase from descriptor {number}"))
                    .source(error)
            };
            let mut key = Vec::new();
            // Through /proc, since a number from the command line is no proof that the descriptor is ours to close.
            File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut key)).map_err(usage)?;
            if let Some(end) = key.iter().position(|byte| *byte == b'\n') {
                key.truncate(end);
            }
            keys.push(key);
        }
        Ok(keys)
    }
}
