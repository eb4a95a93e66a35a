// SPDX-License-Identifier: Apache-2.0
//! Runs of set bits in an allocation bitmap, found a word at a time.

use std::ops::Range;

/// Calls `found` with every run of set bits among the first `bits` bits of `bytes`, ascending. Bit 0 is the
/// lowest bit of byte 0 (NTFS `$Bitmap`, exFAT allocation bitmap, ext block bitmaps).
pub(super) fn set_runs(bytes: &[u8], bits: u64, mut found: impl FnMut(Range<u64>)) {
    let mut emit = |start: u64, end: u64| {
        let end = end.min(bits);
        if start < end {
            found(start..end);
        }
    };
    let mut run = None;
    let mut base = 0u64;
    for chunk in bytes.chunks(8) {
        let mut raw = [0; 8];
        raw.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        let word = u64::from_le_bytes(raw);
        match (word, run) {
            (0, None) | (u64::MAX, Some(_)) => {}
            (0, Some(start)) => {
                emit(start, base);
                run = None;
            }
            (u64::MAX, None) => run = Some(base),
            _ => {
                let mut at = 0u32;
                while at < 64 {
                    let rest = word >> at;
                    match run {
                        Some(start) => {
                            at += rest.trailing_ones();
                            if at < 64 {
                                emit(start, base + u64::from(at));
                                run = None;
                            }
                        }
                        None => {
                            at += rest.trailing_zeros();
                            if at < 64 {
                                run = Some(base + u64::from(at));
                            }
                        }
                    }
                }
            }
        }
        base += 64;
    }
    if let Some(start) = run {
        emit(start, base);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::set_runs;

    proptest! {
        #[test]
        fn runs_are_what_a_bit_by_bit_search_finds(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..70),
            cut in 0u64..20,
        ) {
            let bits = (bytes.len() as u64 * 8).saturating_sub(cut);
            let mut got = Vec::new();
            set_runs(&bytes, bits, |run| got.push(run));
            prop_assert!(got.windows(2).all(|pair| pair[0].end < pair[1].start));
            let got: Vec<u64> = got.into_iter().flatten().collect();
            let want: Vec<u64> = (0..bits).filter(|bit| bytes[*bit as usize / 8] >> (bit % 8) & 1 == 1).collect();
            prop_assert_eq!(got, want);
        }
    }
}
