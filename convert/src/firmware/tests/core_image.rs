// SPDX-License-Identifier: Apache-2.0
//! Core images, held against those of grub-mkimage and grub-bios-setup for the same files.

use std::fs;

use liblzma::stream::{Action, Filters, LzmaOptions, Stream};

use super::{installed, run, text};
use crate::firmware::grub::core_image::{Wanted, build};
use crate::firmware::grub::embedded::{self, Found};

fn file(name: &str) -> Option<Vec<u8>> {
    fs::read(format!("/usr/lib/grub/i386-pc/{name}")).ok()
}

/// What a core image unpacks to.
fn unpacked(core: &[u8]) -> Vec<u8> {
    let decompressor = installed("grub-pc-bin", "/usr/lib/grub/i386-pc/lzma_decompress.img").len();
    let field = |at: usize| u32::from_le_bytes(core[512 + at..512 + at + 4].try_into().unwrap()) as usize;
    let mut options = LzmaOptions::new_preset(6).unwrap();
    options.dict_size(1 << 16).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = Filters::new();
    filters.lzma1(&options);
    let packed = &core[512 + decompressor..][..field(8)];
    // GRUB's own compressor writes no end: the length says where it is.
    let mut out = Vec::with_capacity(field(12));
    Stream::new_raw_decoder(&filters).unwrap().process_vec(packed, &mut out, Action::Run).unwrap();
    assert_eq!(out.len(), field(12));
    out
}

#[test]
fn a_core_image_unpacks_to_what_grub_mkimage_packs() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (dir.path().join("load.cfg"), dir.path().join("core.img"));
    let commands =
        "search.fs_uuid 0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f root\nset prefix=($root)'/boot/grub'\n";
    fs::write(&config, commands).unwrap();
    for modules in
        [&["biosdisk"][..], &["biosdisk", "part_gpt", "ext2", "normal", "lvm", "luks2", "search", "linux"]]
    {
        let arguments = [
            "-O",
            "i386-pc",
            "-d",
            "/usr/lib/grub/i386-pc",
            "-p",
            "/boot/grub",
            "-c",
            text(&config),
            "-o",
            text(&out),
        ];
        run("grub-common", "grub-mkimage", &[&arguments, modules].concat());
        let theirs = fs::read(&out).unwrap();
        let wanted = Wanted { modules, prefix: "/boot/grub", config: commands, first_sector: 34 };
        let ours = build(&file, &wanted).unwrap().core;
        assert!(unpacked(&ours) == unpacked(&theirs), "{modules:?}");
        // The decompressor but for the two sizes, and the sector that loads it but for places and lengths.
        let decompressor = installed("grub-pc-bin", "/usr/lib/grub/i386-pc/lzma_decompress.img").len();
        assert_eq!(ours[512 + 16..512 + decompressor], theirs[512 + 16..512 + decompressor]);
        assert_eq!(ours[..500], theirs[..500]);
        assert_eq!(ours[500..508], 35u64.to_le_bytes());
        assert_eq!(ours[508..510], (((ours.len() / 512) - 1) as u16).to_le_bytes());
        assert_eq!(ours[510..512], theirs[510..512]);
        assert!(ours.len().is_multiple_of(512));
    }
}

/// grub-bios-setup wants the device of the system that it runs on, so that it is no judge here; the starts in QEMU are.
#[test]
fn boot_code_is_boot_img_with_its_three_fields_filled() {
    let wanted =
        Wanted { modules: &["biosdisk"], prefix: "/boot/grub", config: "", first_sector: 0x1_2345_6789 };
    let ours = build(&file, &wanted).unwrap();
    let theirs = installed("grub-pc-bin", "/usr/lib/grub/i386-pc/boot.img");
    let changed: Vec<usize> = (0..440).filter(|at| ours.boot_code[*at] != theirs[*at]).collect();
    assert!(changed.iter().all(|at| matches!(at, 0x5c..=0x63 | 0x64 | 0x66 | 0x67)), "{changed:x?}");
    assert_eq!(ours.boot_code[0x5c..0x64], 0x1_2345_6789u64.to_le_bytes());
    // A jump over two bytes, which grub-bios-setup replaces on hard disks too.
    assert_eq!((theirs[0x66], &ours.boot_code[0x66..0x68]), (0xeb, &[0x90, 0x90][..]));
    assert_eq!(ours.core[500..508], 0x1_2345_678au64.to_le_bytes());
}

#[test]
fn missing_damaged_and_too_many_files_are_errors() {
    let wanted = Wanted { modules: &["biosdisk"], prefix: "/boot/grub", config: "", first_sector: 34 };
    let without = |missing: &'static str| move |name: &str| file(name).filter(|_| name != missing);
    for name in
        ["kernel.img", "moddep.lst", "biosdisk.mod", "lzma_decompress.img", "diskboot.img", "boot.img"]
    {
        let error = build(&without(name), &wanted).unwrap_err();
        assert!(error.chain().contains(&format!("grub/i386-pc/{name} is missing")), "{}", error.chain());
        let short =
            |wanted: &str| file(wanted).map(|bytes| if wanted == name { bytes[..3].to_vec() } else { bytes });
        let is_list_or_module = matches!(name, "moddep.lst" | "biosdisk.mod");
        assert!(build(&short, &wanted).is_err() || is_list_or_module, "{name}");
    }
    let all: Vec<String> = fs::read_dir("/usr/lib/grub/i386-pc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".mod").map(str::to_owned))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let error = build(&file, &Wanted { modules: &all, ..wanted }).unwrap_err();
    assert!(error.chain().contains("a BIOS can load"), "{}", error.chain());
}

/// What boot code on a disk would load is found as grub-mkimage made it, whatever stands before it.
#[test]
fn the_core_image_of_a_disk_is_read_as_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let (config, out) = (dir.path().join("load.cfg"), dir.path().join("core.img"));
    let commands = "search.fs_uuid 0ad62e5a-8d35-4b4b-a1d3-8b1c6e0f6c9f root\n";
    fs::write(&config, commands).unwrap();
    let arguments = ["-O", "i386-pc", "-p", "(lvmid/a/b)/boot/grub", "-c", text(&config), "-o", text(&out)];
    run(
        "grub-common",
        "grub-mkimage",
        &[&arguments[..], &["biosdisk", "part_gpt", "ext2", "lvm", "search"]].concat(),
    );
    let mut core = fs::read(&out).unwrap();
    core.resize(core.len().next_multiple_of(512), 0);
    core[500..508].copy_from_slice(&35u64.to_le_bytes());
    let sectors = (core.len() / 512 - 1) as u16;
    core[508..510].copy_from_slice(&sectors.to_le_bytes());
    let boot = installed("grub-pc-bin", "/usr/lib/grub/i386-pc/boot.img");
    let mut disk = vec![0; 1 << 20];
    disk[..440].copy_from_slice(&boot[..440]);
    disk[0x5c..0x64].copy_from_slice(&34u64.to_le_bytes());
    disk[34 * 512..][..core.len()].copy_from_slice(&core);
    let source = unmoor_images::adapt::Memory::new(disk.clone());
    let Some(Found::Image(image)) = embedded::read(&source) else { unreachable!("it is not found") };
    assert!(image == unpacked(&core));
    for words in [commands, "(lvmid/a/b)/boot/grub"] {
        assert!(image.windows(words.len()).any(|window| window == words.as_bytes()));
    }

    // Damaged anywhere, it is read, unreadable or none, and never a panic.
    for step in 0..60usize {
        let mut damaged = disk.clone();
        let at = [0x5c, 34 * 512 + 500, 35 * 512 + 8, 35 * 512 + 3000][step % 4] + step / 4;
        damaged[at] ^= 0x55;
        let _ = embedded::read(&unmoor_images::adapt::Memory::new(damaged));
    }
    assert!(embedded::read(&unmoor_images::adapt::Memory::new(vec![0; 4096])).is_none());
    disk.truncate(34 * 512 + 100);
    let cut = unmoor_images::adapt::Memory::new(disk);
    assert!(matches!(embedded::read(&cut), Some(Found::Unreadable)));
}
