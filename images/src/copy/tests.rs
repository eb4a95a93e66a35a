// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;
use crate::adapt::Memory;
use crate::monitor::Silent;
use crate::{BlockSink, Error, LEAF, RangeSet, merkle, sink};

fn options(threads: usize) -> Options {
    Options { threads, disk: 0, phase: Phase::Capture, name: "test".into() }
}

fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The oracle is arithmetic on whole buffers: data equal, zeros zero, and holes zero or untouched.
    #[test]
    fn copies_are_byte_exact_and_hash_as_zero_filled(
        size in 1usize..5_000_000,
        cuts in prop::collection::vec((0u64..5_000_000, 1u64..900_000), 0..12),
        zeros in (0u64..5_000_000, 0u64..4_000_000),
        granule in prop::sample::select(vec![512u64, 4096, 65536, 2 << 20]),
        threads in 1usize..5,
    ) {
        let mut data = RangeSet::new();
        for (start, len) in cuts {
            data.insert(start..start + len);
        }
        let map = ExtentMap::from_data(size as u64, &mut data, State::Hole)
            .zero_holes(&mut RangeSet::of(zeros.0..zeros.0 + zeros.1));
        let content = noise(size, 1);
        let source = Memory::new(content.clone());
        let before = vec![0xA5; size];
        let target = Memory::new(before.clone()).with_granule(granule);
        let report = copy(&source, &map, &target, &options(threads), &Silent).unwrap();

        let mut filled = vec![0; size];
        let after = target.bytes();
        for extent in map.iter() {
            let range = extent.offset as usize..extent.end() as usize;
            match extent.state {
                State::Data => {
                    filled[range.clone()].copy_from_slice(&content[range.clone()]);
                    prop_assert!(after[range.clone()] == content[range]);
                }
                State::Zero => prop_assert!(merkle::is_zero(&after[range])),
                State::Hole => prop_assert!(after[range].iter().all(|&byte| byte == 0 || byte == 0xA5)),
            }
        }
        let pairs = filled.chunks(LEAF as usize).enumerate().map(|(i, leaf)| (i as u64, merkle::leaf(leaf))).collect();
        prop_assert_eq!(&report.leaves, &Leaves::from_pairs(size as u64, pairs).unwrap());

        let verified = verify(&target, &map, &report.leaves, &options(threads), &Silent).unwrap();
        prop_assert!(verified.is_exact());
    }
}

use crate::merkle::Leaves;

#[test]
fn verify_names_the_leaf_that_was_damaged() {
    let content = noise(3_000_000, 2);
    let map = ExtentMap::uniform(3_000_000, State::Data);
    let target = Memory::new(vec![0; 3_000_000]);
    let report = copy(&Memory::new(content), &map, &target, &options(2), &Silent).unwrap();
    BlockSink::write_at(&target, &[1, 2, 3], 5 * LEAF + 7).unwrap();
    let verified = verify(&target, &map, &report.leaves, &options(2), &Silent).unwrap();
    assert_eq!(verified.differing, [5 * LEAF..6 * LEAF]);
}

/// A sink that fails after some writes.
struct Failing(Memory, std::sync::atomic::AtomicI32);

impl BlockSink for Failing {
    fn granule(&self) -> u64 {
        4096
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        if self.1.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
            return Err(Error::io("writing the image", std::io::Error::from_raw_os_error(28)));
        }
        self.0.write_at(data, offset)
    }
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        self.0.write_zeros(offset, len)
    }
    fn written_bytes(&self) -> u64 {
        0
    }
    fn finish(self: Box<Self>) -> Result<sink::Finished> {
        Box::new(self.0).finish()
    }
}

#[test]
fn the_first_failure_ends_the_copy_with_its_own_error() {
    let source = Memory::new(noise(20 << 20, 3));
    let sink = Failing(Memory::new(vec![0; 20 << 20]), 3.into());
    let error =
        copy(&source, &ExtentMap::uniform(20 << 20, State::Data), &sink, &options(4), &Silent).unwrap_err();
    assert_eq!(error.io_cause().and_then(std::io::Error::raw_os_error), Some(28));
}
