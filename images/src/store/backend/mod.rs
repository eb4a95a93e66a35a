// SPDX-License-Identifier: Apache-2.0
//! Objects by name: the little that a store needs of what holds it.

mod directory;
mod s3;

use super::Location;
use crate::{ErrorKind, Result};

pub use directory::Directory;
pub use s3::{Patience, S3, S3Options, addresses, decode_answer, decode_profile};

/// An object that a listing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, parts separated by slashes.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Objects by name, as object storage has them. Used by several threads.
///
/// An object appears whole or not at all; a put replaces what has that name. Names are made by the store of letters,
/// digits, dots, dashes, underscores and slashes.
pub trait Backend: Send + Sync {
    /// What to call it in messages.
    fn describe(&self) -> String;

    /// The whole object, at most `most` bytes; none where there is none.
    fn get(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>>;

    /// Fills `buf` from byte `offset` of the object. An object that is absent or too short is an error.
    fn read(&self, name: &str, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The last bytes of an object, `most` or as many as there are, and its length; none where there is none.
    fn tail(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, u64)>>;

    /// Writes an object. Whether it survives a crash is known after [`barrier`](Self::barrier).
    fn put(&self, name: &str, data: &[u8]) -> Result<()>;

    /// The same for a large object. A backend that hands bytes to other threads may take the buffer rather than copy it; it gives
    /// back what it can, of any content.
    fn put_buffer(&self, name: &str, data: &mut Vec<u8>) -> Result<()> {
        self.put(name, data)
    }

    /// The same for an object that must not be there yet; false where it is.
    fn create(&self, name: &str, data: &[u8]) -> Result<bool>;

    /// Waits until all that was put is on stable storage.
    fn barrier(&self) -> Result<()>;

    /// Removes an object; one that is not there is no error.
    fn delete(&self, name: &str) -> Result<()>;

    /// All objects whose names begin with `prefix`, which ends in a slash or is empty, in no particular order.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()>;

    /// How long after a put or a delete a listing may not show it yet. Prune waits so long where it matters.
    fn listing_lag(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// True where a read costs a trip over a network, so that larger and fewer ones pay.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Opens what holds a store. Nothing is written.
pub fn open(location: &Location) -> Result<Box<dyn Backend>> {
    match location {
        Location::Directory(path) => Ok(Box::new(Directory::open(path))),
        Location::S3 { bucket, prefix } => Ok(Box::new(S3::open(bucket, prefix)?)),
    }
}

/// Reads and checks; once more where that finds something wrong: bits flip on their way, too.
pub(crate) fn checked<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if matches!(error.kind(), ErrorKind::Mismatch | ErrorKind::Malformed) => read(),
        done => done,
    }
}

/// All names below `prefix`, sorted.
pub(crate) fn names(backend: &dyn Backend, prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    backend.list(prefix, &mut |listed| {
        names.push(listed.name);
        Ok(())
    })?;
    names.sort();
    // A listing in pages, of what changes meanwhile, may have a name twice.
    names.dedup();
    Ok(names)
}
