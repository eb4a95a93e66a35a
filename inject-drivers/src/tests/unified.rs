// SPDX-License-Identifier: Apache-2.0
//! Kernels that are unified kernel images.

use std::fs;

use unmoor_convert::inspection::{Loader, LoaderKind};
use unmoor_convert::plan::Severity;
use unmoor_convert::request::{Purpose, SignKey};

use super::*;
use crate::uki::tests::{key, unified};
use crate::uki::{Image, sign};

const PATH: &str = "/efi/EFI/Linux/phony.efi";

/// A guest with one kernel in a UKI.
fn guest(signed: Option<&SignKey>) -> Phony {
    let mut phony = Phony::new(Style::Udev);
    phony.kernels.truncate(1);
    phony.kernels[0].image = Some(PATH.to_owned());
    phony.kernels[0].initramfs[0].path = PATH.to_owned();
    phony.boot.entries.clear();
    let folder = tempfile::tempdir().unwrap();
    let mut file = unified(folder.path(), &initramfs(NEW, Style::Udev), "initrd");
    if let Some(key) = signed {
        file = sign(&crate::uki::rebuild(&Image::parse(&file).unwrap(), &[]).unwrap(), key).unwrap();
    }
    phony.write(PATH, &file);
    phony
}

fn virtio() -> Request {
    request(vec![part(VIRTIO_BLK, Purpose::Disk, true)])
}

fn tree_of(initrd: &[u8]) -> archive::Tree {
    archive::read(initrd, &Limits::keep_all()).unwrap().tree
}

fn driver() -> String {
    format!("lib/modules/{NEW}/kernel/drivers/block/virtio_blk.ko")
}

#[test]
fn an_unsigned_image_is_made_anew_with_the_drivers() {
    let phony = guest(None);
    let plan = phony.plan(&virtio());
    assert_eq!(plan.findings, []);
    assert_eq!(paths(&plan), [PATH]);
    phony.apply(&plan);
    let file = fs::read(phony.path(PATH)).unwrap();
    let image = Image::parse(&file).unwrap();
    assert!(tree_of(image.find(".initrd").unwrap()).node(&driver()).is_some());
    assert_eq!(image.find(".cmdline").unwrap(), b"root=/dev/sda1 quiet");
    assert_eq!(phony.plan(&virtio()).edits, [], "again");
}

#[test]
fn a_signed_image_is_refused_signed_anew_or_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let key = key(folder.path(), "owner");
    let mut phony = guest(Some(&key));
    let plan = phony.plan(&virtio());
    assert_eq!(plan.edits, []);
    assert!(findings(&plan, Severity::Error)[0].starts_with("uki: "), "{:?}", plan.findings);
    assert!(plan.findings[0].remedy.as_ref().unwrap().contains("--sign-key"));

    let mut with_key = virtio();
    with_key.sign_key = Some(key);
    let plan = phony.plan(&with_key);
    assert!(!plan.is_refused() && paths(&plan) == [PATH]);
    let Change::Write { content, .. } = &plan.edits[0].change else { panic!("{:?}", plan.edits) };
    let image = Image::parse(content.bytes()).unwrap();
    assert!(image.is_signed() && tree_of(image.find(".initrd").unwrap()).node(&driver()).is_some());

    let mut off = virtio();
    off.secure_boot = SecureBoot::Off;
    let plan = phony.plan(&off);
    assert_eq!(paths(&plan), [PATH], "without a menu the image itself is what starts");
    let Change::Write { content, .. } = &plan.edits[0].change else { panic!("{:?}", plan.edits) };
    assert!(!Image::parse(content.bytes()).unwrap().is_signed());

    phony.boot.loaders.push(Loader {
        kind: LoaderKind::SystemdBoot,
        firmware: Firmware::Uefi,
        config: None,
        binaries: Vec::new(),
        shim: false,
    });
    phony.write("/efi/loader/loader.conf", b"timeout 3\ndefault phony.efi\n");
    let plan = phony.plan(&off);
    assert_eq!(
        paths(&plan),
        [
            "/efi/unmoor/6.1.0-test/linux",
            "/efi/unmoor/6.1.0-test/initrd",
            "/efi/loader/entries/unmoor-6.1.0-test.conf",
            "/efi/loader/loader.conf",
        ]
    );
    let before = fs::read(phony.path(PATH)).unwrap();
    phony.apply(&plan);
    let text = |path: &str| fs::read_to_string(phony.path(path)).unwrap();
    assert_eq!(
        text("/efi/loader/entries/unmoor-6.1.0-test.conf"),
        "title Phony 1\nversion 6.1.0-test\nlinux /unmoor/6.1.0-test/linux\ninitrd /unmoor/6.1.0-test/initrd\noptions root=/dev/sda1 quiet\n"
    );
    assert_eq!(text("/efi/loader/loader.conf"), "default unmoor-6.1.0-test.conf\ntimeout 3\n");
    assert!(
        tree_of(&fs::read(phony.path("/efi/unmoor/6.1.0-test/initrd")).unwrap()).node(&driver()).is_some()
    );
    assert_eq!(fs::read(phony.path("/efi/unmoor/6.1.0-test/linux")).unwrap(), vec![0xAA; 300_000]);
    assert_eq!(fs::read(phony.path(PATH)).unwrap(), before, "the signed image stays as it is");
}

#[test]
fn a_signed_image_that_lacks_nothing_stays_and_nothing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let phony = guest(Some(&key(folder.path(), "owner")));
    let ahci = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    let plan = phony.plan(&request(vec![part(ahci, Purpose::Disk, true)]));
    assert_eq!((plan.edits, plan.findings), (vec![], vec![]));
}
