// SPDX-License-Identifier: Apache-2.0
//! An image's files: one, or the parts that `split` made of it (NAME.aa, NAME.ab, ...).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::unpack;
use crate::{Error, Result};

/// The parts in order.
#[derive(Debug, Clone)]
pub struct Parts {
    files: Vec<PathBuf>,
}

/// Bytes of one read of a file.
const BUFFER: usize = 256 << 10;

impl Parts {
    /// The image at `path`, with all its parts where `path` is the first of them.
    ///
    /// # Errors
    ///
    /// `Malformed` where a part in the midst is missing.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let first = name.rsplit_once('.').filter(|(_, end)| is_first(end));
        let Some((base, end)) = first else { return Ok(Self { files: vec![path.to_owned()] }) };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut found = Vec::new();
        let doing = |error| Error::io("listing", error).path(folder);
        for entry in std::fs::read_dir(folder).map_err(doing)? {
            let name = entry.map_err(doing)?.file_name().to_string_lossy().into_owned();
            let part = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('.'));
            found.extend(part.and_then(|part| number(part, end.len())));
        }
        found.sort_unstable();
        if let Some(missing) = (0..).zip(&found).find(|(want, have)| want != *have) {
            return Err(Error::malformed(
                "looking for an image's parts",
                format!("part {} is missing", missing.0),
            )
            .path(path));
        }
        let files =
            (0..found.len() as u64).map(|part| folder.join(format!("{base}.{}", letters(part, end.len()))));
        Ok(Self { files: files.collect() })
    }

    /// Their content, unpacked.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        unpack::unpack(Box::new(BufReader::with_capacity(BUFFER, Joined::new(self.files.clone())))).map_err(
            |error| match self.files.first() {
                Some(first) => error.path(first),
                None => error,
            },
        )
    }

    /// The first file.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }
}

/// `aa`, `aaa`.
fn is_first(end: &str) -> bool {
    matches!(end.len(), 2 | 3) && end.bytes().all(|byte| byte == b'a')
}

/// `ab` is 1.
fn number(end: &str, len: usize) -> Option<u64> {
    let plain = end.len() == len && end.bytes().all(|byte| byte.is_ascii_lowercase());
    plain.then(|| end.bytes().fold(0, |number, byte| number * 26 + u64::from(byte - b'a')))
}

fn letters(mut part: u64, len: usize) -> String {
    let mut out = vec![b'a'; len];
    for byte in out.iter_mut().rev() {
        *byte += (part % 26) as u8;
        part /= 26;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Files one behind the other.
struct Joined {
    rest: std::vec::IntoIter<PathBuf>,
    now: Option<File>,
}

impl Joined {
    fn new(files: Vec<PathBuf>) -> Self {
        Self { rest: files.into_iter(), now: None }
    }
}

impl Read for Joined {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.now {
                let read = file.read(buf)?;
                if read > 0 || buf.is_empty() {
                    return Ok(read);
                }
            }
            let Some(next) = self.rest.next() else { return Ok(0) };
            let opened = File::open(&next);
            self.now = Some(
                opened
                    .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", next.display())))?,
            );
        }
    }
}
