// SPDX-License-Identifier: Apache-2.0
//! Against objcopy, which makes the images and takes ours apart, and sbverify, which checks our signatures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn shell(folder: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A UKI as systemd's documentation tells to make one (systemd-stub(7)); `last` comes behind the others.
pub(crate) fn unified(folder: &Path, initrd: &[u8], last: &str) -> Vec<u8> {
    fs::write(folder.join("linux"), vec![0xAA; 300_000]).unwrap();
    fs::write(folder.join("initrd"), initrd).unwrap();
    fs::write(folder.join("cmdline"), "root=/dev/sda1 quiet").unwrap();
    fs::write(folder.join("osrel"), "PRETTY_NAME=\"Phony 1\"\n").unwrap();
    fs::write(folder.join("uname"), "6.1.0-test").unwrap();
    let mut order: Vec<&str> =
        ["osrel", "cmdline", "uname", "linux", "initrd"].into_iter().filter(|name| *name != last).collect();
    order.push(last);
    // Far behind the stub's own sections, which end before 1 MiB.
    let mut script = format!(
        "base=$(objdump -p {STUB} | sed -n 's/^ImageBase[[:space:]]*//p'); at=$((0x$base + 0x1000000)); args=\n"
    );
    for name in order {
        script += &format!(
            "args=\"$args --add-section .{name}={name} --change-section-vma .{name}=$at\"; at=$(( (at + $(stat -c %s {name}) + 4095) / 4096 * 4096 ))\n"
        );
    }
    script += &format!("objcopy $args {STUB} uki.efi");
    shell(folder, &script);
    fs::read(folder.join("uki.efi")).unwrap()
}

/// A section's content as objcopy finds it.
fn dumped(folder: &Path, image: &[u8], name: &str) -> Vec<u8> {
    fs::write(folder.join("ours.efi"), image).unwrap();
    shell(folder, &format!("objcopy --dump-section {name}=dumped ours.efi copied.efi"));
    fs::read(folder.join("dumped")).unwrap()
}

#[test]
fn sections_are_those_that_objcopy_put_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = unified(folder.path(), &[7; 50_001], "initrd");
    let image = Image::parse(&file).unwrap();
    assert!(image.is_unified() && !image.is_signed());
    assert_eq!(image.find(".initrd").unwrap(), vec![7; 50_001]);
    assert_eq!(image.find(".cmdline").unwrap(), b"root=/dev/sda1 quiet");
    assert_eq!(image.find(".uname").unwrap(), b"6.1.0-test");
    assert!(image.find(".text").is_some_and(|text| text.len() > 1000));
}

#[test]
fn a_rebuilt_image_has_the_new_sections_and_the_old_others() {
    let folder = tempfile::tempdir().unwrap();
    for last in ["initrd", "linux"] {
        let file = unified(folder.path(), &[7; 50_001], last);
        let old = Image::parse(&file).unwrap();
        let initrd = vec![9; 4_000_000];
        let arguments = "root=UUID=x ".repeat(1000);
        let built =
            rebuild(&old, &[(".initrd", &initrd), (".cmdline", arguments.as_bytes()), (".unmoor", b"new")])
                .unwrap();
        let new = Image::parse(&built).unwrap();
        assert!(dumped(folder.path(), &built, ".initrd") == initrd, "objcopy finds the new section");
        assert_eq!(dumped(folder.path(), &built, ".cmdline"), arguments.as_bytes());
        assert_eq!(new.find(".unmoor").unwrap(), b"new");
        for section in &old.sections {
            let name = section.name.as_str();
            if !matches!(name, ".initrd" | ".cmdline") {
                assert_eq!(new.find(name), old.find(name), "{name}");
                assert_eq!(
                    new.section(name).unwrap().address,
                    section.address,
                    "{name} stays where it is in memory"
                );
            }
        }
        let mut ends: Vec<(u32, u32)> =
            new.sections.iter().map(|section| (section.address, section.address + section.size)).collect();
        ends.sort_unstable();
        assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two sections overlap: {ends:x?}");
        let headers = shell(folder.path(), "objdump -p ours.efi");
        let said =
            headers.lines().find_map(|line| line.strip_prefix("SizeOfImage")).unwrap().trim().to_owned();
        assert!(u32::from_str_radix(&said, 16).unwrap() >= ends.last().unwrap().1);
        // Twice is once.
        let again = rebuild(&new, &[(".initrd", &initrd)]).unwrap();
        assert_eq!(Image::parse(&again).unwrap().find(".initrd").unwrap(), initrd);
        assert_eq!(
            with_arguments(&built, "quiet", None).unwrap(),
            rebuild(&new, &[(".cmdline", b"quiet")]).unwrap()
        );
    }
}

pub(crate) fn key(folder: &Path, kind: &str) -> SignKey {
    shell(
        folder,
        &format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -subj '/CN=unmoor test {kind}/' -days 30 -keyout key.pem -out cert.pem -set_serial 0x00ffeeddccbbaa9988 2>&1"
        ),
    );
    if kind == "pkcs1" {
        shell(folder, "openssl rsa -traditional -in key.pem -out key1.pem 2>&1; mv key1.pem key.pem");
    }
    SignKey {
        key: fs::read_to_string(folder.join("key.pem")).unwrap(),
        certificate: fs::read_to_string(folder.join("cert.pem")).unwrap(),
    }
}

#[test]
fn sbverify_accepts_our_signatures_and_no_changed_image() {
    let folder = tempfile::tempdir().unwrap();
    let file = unified(folder.path(), &[7; 50_001], "initrd");
    for kind in ["pkcs8", "pkcs1"] {
        let key = key(folder.path(), kind);
        let signed = with_arguments(&file, "root=UUID=x", Some(&key)).unwrap();
        assert!(Image::parse(&signed).unwrap().is_signed());
        fs::write(folder.path().join("signed.efi"), &signed).unwrap();
        let said = shell(folder.path(), "sbverify --cert cert.pem signed.efi 2>&1");
        assert!(said.contains("Signature verification OK"), "{said}");
        let mut changed = signed.clone();
        let at = changed.windows(11).position(|bytes| bytes == b"root=UUID=x").unwrap();
        changed[at] ^= 1;
        fs::write(folder.path().join("changed.efi"), &changed).unwrap();
        shell(folder.path(), "! sbverify --cert cert.pem changed.efi 2>&1");
        assert!(sign(&signed, &key).is_err(), "a signed image is not signed again");
        // What is rebuilt has no signature that no longer holds.
        let unsigned = with_arguments(&signed, "quiet", None).unwrap();
        assert!(!Image::parse(&unsigned).unwrap().is_signed());
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = unified(folder.path(), b"x", "initrd");
    let one = key(folder.path(), "one");
    let other = key(folder.path(), "other");
    let mixed = SignKey { key: one.key.clone(), certificate: other.certificate };
    assert!(
        with_arguments(&file, "x", Some(&mixed)).unwrap_err().chain().contains("not that of the certificate")
    );
    let none = SignKey { key: "nothing".to_owned(), certificate: one.certificate };
    assert!(with_arguments(&file, "x", Some(&none)).is_err());
}

#[test]
fn damaged_images_are_errors_and_never_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = unified(folder.path(), &[7; 5_000], "initrd");
    let mut state = 7u64;
    let mut random = move |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    let (mut fine, mut bad) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = file.clone();
        for _ in 0..=random(3) {
            let at = random(1024);
            bytes[at] = [0, 0xff, random(256) as u8][random(3)];
        }
        if random(4) == 0 {
            bytes.truncate(random(bytes.len()));
        }
        match Image::parse(&bytes).and_then(|image| rebuild(&image, &[(".initrd", b"new")])) {
            Ok(built) => {
                assert!(built.len() < 100 << 20);
                fine += 1;
            }
            Err(_) => bad += 1,
        }
    }
    assert!(fine > 100 && bad > 100, "{fine} {bad}");
}
