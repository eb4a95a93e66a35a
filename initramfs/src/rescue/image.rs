// SPDX-License-Identifier: Apache-2.0
//! The initramfs' bytes: files and directories as a newc archive, compressed or not.

use std::collections::BTreeMap;
use std::io::Write;

use unmoor_images::{Error, Result};

use crate::archive::Writer;

/// The time of every entry: builds of the same files are the same bytes. 2001-09-09, since a clock that was never set must not
/// make files come from the future.
const MTIME: u32 = 1_000_000_000;

/// What is at a path.
enum Node {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
    Character(u32, (u32, u32)),
}

/// Files of an initramfs in the making, by path.
#[derive(Default)]
pub(super) struct Image {
    nodes: BTreeMap<String, Node>,
}

impl Image {
    /// What PID 1 needs before it has mounted anything: places for its mounts, the kernel's modprobe, a console.
    pub(super) fn with_init(init: Vec<u8>) -> Self {
        let mut image = Self::default();
        for path in ["dev", "dev/pts", "proc", "sys", "run", "etc", "mnt", "bin", "sbin", "lib", "usr", "var"]
        {
            image.nodes.insert(path.into(), Node::Directory(0o755));
        }
        image.nodes.insert("tmp".into(), Node::Directory(0o1777));
        image.file("init", 0o755, init);
        for modprobe in ["sbin/modprobe", "bin/modprobe"] {
            image.nodes.insert(modprobe.into(), Node::Link("../init".into()));
        }
        // The kernel opens it for PID 1 (init/main.c, console_on_rootfs) before there is a devtmpfs.
        image.nodes.insert("dev/console".into(), Node::Character(0o600, (5, 1)));
        image.nodes.insert("dev/null".into(), Node::Character(0o666, (1, 3)));
        image
    }

    /// Adds a file and the directories above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..end) {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Directory(0o755));
            }
        }
        self.nodes.insert(path.to_owned(), Node::File(mode, content));
    }

    /// The archive. A path sorts behind its parent, so every parent comes first.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::new(MTIME);
        for (path, node) in &self.nodes {
            match node {
                Node::Directory(mode) => writer.directory(path, *mode)?,
                Node::File(mode, content) => writer.file(path, *mode, content)?,
                Node::Link(target) => writer.link(path, target)?,
                Node::Character(mode, device) => writer.character_device(path, *mode, *device)?,
            }
        }
        writer.finish()
    }
}

/// One zstd frame, compressed on all processors. The kernel takes windows of up to 128 MiB (lib/decompress_unzstd.c); level 12's
/// has 4 MiB.
pub(super) fn compress(archive: &[u8], level: i32) -> Result<Vec<u8>> {
    let failed = |error| Error::io("compressing the initramfs", error);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).map_err(failed)?;
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(16));
    encoder.multithread(u32::try_from(threads).unwrap_or(1)).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    encoder.write_all(archive).map_err(failed)?;
    let mut bytes = encoder.finish().map_err(failed)?;
    // What follows, another archive, must begin at a multiple of 4 bytes.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(bytes)
}
