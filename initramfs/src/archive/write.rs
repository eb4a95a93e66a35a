// SPDX-License-Identifier: Apache-2.0
//! Writing newc archives: the same entries give the same bytes.

use unmoor_images::{Error, Result};

use super::newc::TRAILER;

/// An archive in the making. Inode numbers count from 1; owner and group are root's.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    inode: u32,
    mtime: u32,
}

impl Writer {
    /// An empty archive, all entries of which get the time `mtime` (seconds since 1970).
    pub fn new(mtime: u32) -> Self {
        Self { bytes: Vec::new(), inode: 0, mtime }
    }

    /// A directory; its parent must have come before.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(path, 0o040_000 | (mode & 0o7777), 2, (0, 0), &[])
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, 0o100_000 | (mode & 0o7777), 1, (0, 0), content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, 0o120_777, 1, (0, 0), target.as_bytes())
    }

    /// A character device with its major and minor number.
    pub fn character_device(&mut self, path: &str, mode: u32, device: (u32, u32)) -> Result<()> {
        self.entry(path, 0o020_000 | (mode & 0o7777), 1, device, &[])
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True before the first entry.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The archive, ended by a trailer; its length is a multiple of 4.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = 0;
        self.mtime = 0;
        self.raw(TRAILER, 0, 0, 1, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let path = path.trim_matches('/');
        let odd = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
        if path.len() >= super::tree::LONGEST || path == TRAILER || path.split('/').any(odd) {
            return Err(Error::malformed("writing an archive", format!("{path:?} is no name for an entry")));
        }
        self.inode += 1;
        self.raw(path, self.inode, mode, links, device, content)
    }

    fn raw(
        &mut self,
        name: &str,
        inode: u32,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> Result<()> {
        let too_long = |_| Error::unsupported("writing an archive", format!("{name} has over 4 GiB"));
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        let fields = [inode, mode, 0, 0, links, self.mtime, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        pad(&mut self.bytes);
        self.bytes.extend_from_slice(content);
        pad(&mut self.bytes);
        Ok(())
    }
}

/// Zeros up to a multiple of 4 bytes.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
