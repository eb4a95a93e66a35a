// SPDX-License-Identifier: Apache-2.0
//! Page-aligned memory, which direct I/O demands.

use std::cell::RefCell;

use unmoor_images::formats::{ALIGNMENT, AlignedBuffer};

/// Bytes of a thread's buffer.
pub(super) const BUFFER: usize = 1 << 20;

thread_local! {
    static POOL: RefCell<Option<AlignedBuffer>> = const { RefCell::new(None) };
}

/// Runs `work` with this thread's aligned buffer of [`BUFFER`] bytes.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    POOL.with_borrow_mut(|pool| work(pool.get_or_insert_with(|| AlignedBuffer::new(BUFFER))))
}

/// True if direct I/O takes `buf` at `offset` as it is, in units of `unit` bytes.
pub(super) fn is_aligned(buf: &[u8], offset: u64, unit: u64) -> bool {
    buf.as_ptr().align_offset(ALIGNMENT) == 0
        && offset.is_multiple_of(unit)
        && (buf.len() as u64).is_multiple_of(unit)
}
