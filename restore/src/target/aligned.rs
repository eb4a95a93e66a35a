// SPDX-License-Identifier: Apache-2.0
//! Page-aligned memory, which direct I/O demands.

use std::cell::RefCell;

/// Alignment that satisfies every driver.
pub(super) const PAGE: usize = 4096;

/// Bytes of a thread's buffer.
pub(super) const BUFFER: usize = 1 << 20;

thread_local! {
    static POOL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with this thread's aligned buffer of [`BUFFER`] bytes.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    POOL.with_borrow_mut(|pool| {
        if pool.is_empty() {
            pool.resize(BUFFER + PAGE, 0);
        }
        let start = pool.as_ptr().align_offset(PAGE).min(PAGE);
        work(pool.get_mut(start..start + BUFFER).unwrap_or(&mut []))
    })
}

/// True if direct I/O takes `buf` at `offset` as it is.
pub(super) fn is_aligned(buf: &[u8], offset: u64, sector: u64) -> bool {
    buf.as_ptr().align_offset(PAGE) == 0
        && offset.is_multiple_of(sector)
        && (buf.len() as u64).is_multiple_of(sector)
}
