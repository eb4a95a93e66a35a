// SPDX-License-Identifier: Apache-2.0
//! Unique bytes: what is said to go with an image, goes with it.

use super::scene::*;
use crate::LEAF;
use crate::monitor::Silent;
use crate::store::PruneOptions;

/// The oracle: remove the image in a copy of the store, and see what a prune that leaves nothing unused would free.
#[test]
fn what_counts_as_unique_is_what_a_removal_gives_back() {
    for secret in [None, Some(crate::store::Secret::KeyFile(zeroize::Zeroizing::new(noise(64, 1))))] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = init(folder.path(), secret.clone());
        let (one, extents) = disk(1);
        let mut two = one.clone();
        two[22 * LEAF as usize] ^= 1;
        let mut three = two.clone();
        three[55 * LEAF as usize] ^= 1;
        for (machine, bytes) in [
            ("a", &one),
            ("a", &two),
            ("a", &two),
            ("b", &one),
            ("b", &three),
            ("c", &disk(5).0),
            ("c", &one),
        ] {
            capture(&store, machine, bytes, &extents).unwrap();
        }
        let usage = store.count_usage(&Silent).unwrap();
        let images = store.images().unwrap();
        assert!(usage.is_of(&images) && images.len() == 7);
        for image in &images {
            assert_eq!(usage.of_image(image).unwrap(), freed(&store, vec![image.clone()]), "{image:?}");
        }
        for machine in ["a", "b", "c"] {
            let all = store.images_of(machine).unwrap();
            assert_eq!(usage.machines[&all[0].folder], freed(&store, all), "{machine}");
        }
        store.keep_usage(&usage).unwrap();
        assert_eq!(store.last_usage().unwrap(), usage);
    }
}

/// Bytes of chunks that nothing uses any more without these images.
fn freed(store: &crate::store::Store, without: Vec<crate::store::ImageRef>) -> u64 {
    let used = |without| {
        let dry = PruneOptions { dry_run: true, without, max_unused_percent: 100, ..PruneOptions::default() };
        let report = store.prune(&dry, &Silent).unwrap();
        report.pack_bytes - report.unused_bytes - report.left_unused_bytes
    };
    used(Vec::new()) - used(without)
}
