// SPDX-License-Identifier: Apache-2.0
//! What every binary has: the target, and damage by `unmoor_fuzz` beside libFuzzer's own, because no blind change gets past a
//! checksum.
#![no_main]

pub use libfuzzer_sys;
pub use unmoor_fuzz;

/// The binary of one target.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        use $crate::libfuzzer_sys;

        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::unmoor_fuzz::$name(data));

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            if seed % 4 == 0 {
                return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
            }
            $crate::unmoor_fuzz::mutate(stringify!($name), data, size, max_size, seed)
        });
    };
}
