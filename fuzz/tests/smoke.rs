// SPDX-License-Identifier: Apache-2.0
//! Every target on its seeds as they are, then on seeds damaged by a fixed generator: the same rounds on each machine.
//!
//! A failure names the round; `cargo xtask fuzz run TARGET 1 ROUND` repeats it and keeps the input.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use unmoor_fuzz::damage::damaged;
use unmoor_fuzz::disk::Machine;
use unmoor_fuzz::{TARGETS, Target, seeds};

/// Damaged inputs of one target.
const ROUNDS: u64 = 1500;

fn smoke(name: &str) {
    let target = Target::named(name).unwrap();
    let corpus = seeds::load(Some(name));
    assert!(!corpus.is_empty(), "{name} has no seeds");
    for seed in &corpus {
        let found = target.run(&seed.data);
        assert_eq!(found.summary, seed.found, "{name}/{}", seed.name);
        assert_eq!(found, target.run(&seed.data), "{name}/{} has two answers", seed.name);
        // Sealing must not break what is whole, or the rounds below would stop at the first checksum.
        let mut machine = Machine::decode(&seed.data);
        (target.seal)(&mut machine);
        if seed.found != "error" {
            assert_eq!(target.run(&machine.encode()).summary, seed.found, "{name}/{} sealed", seed.name);
        }
    }
    let mut answers = BTreeSet::new();
    for round in 0..ROUNDS {
        let seed = &corpus[round as usize % corpus.len()];
        let data = damaged(target, seed, round);
        let result = catch_unwind(AssertUnwindSafe(|| target.run(&data)));
        let Ok(outcome) = result else { panic!("{name}/{} damaged, round {round}", seed.name) };
        if round % 8 == 0 {
            assert_eq!(outcome, target.run(&data), "{name}/{} has two answers, round {round}", seed.name);
        }
        answers.insert(outcome.digest);
    }
    println!("{name}: {} different answers", answers.len());
    // Damage that never shows would test nothing.
    assert!(answers.len() > 10, "{name}: only {} different answers", answers.len());
}

macro_rules! smoke {
    ($($test:ident $name:literal;)*) => {
        $(#[test] fn $test() { smoke($name); })*

        #[test]
        fn every_target_has_its_smoke_test_and_its_binary() {
            let tested: BTreeSet<_> = [$($name),*].into();
            let all: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tested, all);
            let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/libfuzzer/Cargo.toml")).unwrap();
            for name in all {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

smoke! {
    damaged_partition_tables_are_survived "partition";
    damaged_ext_is_survived "ext";
    damaged_xfs_is_survived "xfs";
    damaged_btrfs_is_survived "btrfs";
    damaged_ntfs_is_survived "ntfs";
    damaged_fat_is_survived "fat";
    damaged_exfat_is_survived "exfat";
    damaged_swap_is_survived "swap";
    damaged_lvm_is_survived "lvm";
    damaged_packs_are_survived "pack";
    damaged_indexes_of_stores_are_survived "index";
    damaged_trees_are_survived "tree";
    damaged_documents_of_stores_are_survived "stored";
    damaged_hints_of_stores_are_survived "hints";
    damaged_md_is_survived "md";
    damaged_luks_is_survived "luks";
    damaged_whole_disks_are_survived "layout";
    damaged_qcow2_is_survived "qcow2";
    damaged_vmdk_is_survived "vmdk";
    damaged_vhdx_is_survived "vhdx";
    damaged_vhd_is_survived "vhd";
    damaged_vdi_is_survived "vdi";
    damaged_maps_are_survived "map";
    damaged_manifests_are_survived "manifest";
    damaged_records_are_survived "record";
    damaged_initramfs_images_are_survived "initramfs";
    damaged_module_indexes_are_survived "modules";
    damaged_modules_are_survived "module";
    damaged_unified_kernel_images_are_survived "uki";
    damaged_packages_are_survived "package";
    damaged_dhcp_packets_are_survived "dhcp";
    damaged_partclone_images_are_survived "partclone";
    what_broken_clients_of_dhcp_send_is_survived "discover";
    what_broken_clients_of_tftp_send_is_survived "tftp";
    what_broken_name_servers_answer_is_survived "dns";
    damaged_profiles_of_object_storage_are_survived "credentials";
    damaged_inventories_of_machines_are_survived "hardware";
    damaged_grub_configurations_are_survived "grub";
    damaged_boot_entries_are_survived "entries";
    damaged_fstab_and_crypttab_are_survived "tables";
    damaged_network_configurations_are_survived "network";
    damaged_interface_names_are_survived "names";
    damaged_lvm_and_mdadm_configurations_are_survived "volumes";
    damaged_firmware_variables_are_survived "variables";
    damaged_pe_sections_are_survived "sections";
    what_broken_clients_say_is_survived "nbd";
    damaged_bitmaps_of_overlays_are_survived "overlay";
    damaged_orders_of_boots_are_survived "order";
    damaged_frames_of_leaves_are_survived "frames";
    damaged_commits_are_survived "commit";
}

#[test]
fn the_index_lists_exactly_the_seeds_and_they_are_small() {
    let listed: BTreeSet<_> =
        seeds::load(None).iter().map(|seed| seeds::path(&seed.target, &seed.name)).collect();
    let mut total = 0;
    let mut there = BTreeSet::new();
    for folder in std::fs::read_dir(seeds::folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                let size = file.metadata().unwrap().len();
                assert!(size <= 20 << 10, "{} has {size} bytes", file.path().display());
                total += size;
                there.insert(file.path());
            }
        }
    }
    assert_eq!(listed, there);
    assert!(total <= 300 << 10, "{total} bytes");
}
