// SPDX-License-Identifier: Apache-2.0
//! What is read of a guest's start: initramfs images, module indexes and objects, unified kernel images.

use unmoor_images::{BlockSource, ErrorKind, Result};
use unmoor_initramfs::archive::{self, Addition, Kind, Limits};
use unmoor_initramfs::modules::{self, ModuleTree, Source};
use unmoor_inject_drivers::uki::{Image, rebuild};

use super::Answer;
use crate::disk::{Disk, Machine};

fn bytes_of(disk: &Disk) -> Vec<u8> {
    disk.peek(0, disk.size().min(4 << 20) as usize)
}

/// What the fuzzer may unpack: bombs are met by the limits, not by patience.
fn limits() -> Limits {
    Limits { unpacked: 16 << 20, entries: 20_000, kept: 8 << 20, largest: 1 << 20, keep: |_| true }
}

pub(crate) fn archive(machine: &Machine) -> Answer {
    let image = bytes_of(machine.first());
    let read = match archive::read(&image, &limits()) {
        Ok(read) => read,
        Err(error) => return Answer::error(&error),
    };
    let mut end = 0;
    for segment in &read.segments {
        assert!(segment.offset >= end && segment.length > 0, "{segment:?} begins before {end:#x}");
        end = segment.offset + segment.length;
        assert!(end <= image.len() as u64, "{segment:?} ends behind the image");
    }
    for (path, node) in read.tree.below("") {
        assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path:?}");
        if let Kind::File(content) = &node.kind {
            assert!(content.bytes.as_ref().is_none_or(|bytes| bytes.len() as u64 == content.size));
        }
        assert!(read.tree.link_node(&path).is_some(), "{path:?} is listed and not found");
    }
    // Whatever the image is, what is appended is found in it or refused.
    let additions = [Addition::file("lib/modules/6.1/unmoor", *b"x"), Addition::file("etc/unmoor", *b"y")];
    let appended = match archive::append(&image, &read, &additions, 0) {
        Ok(appended) => appended.len(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Refused, "{}", error.chain());
            0
        }
    };
    let names: Vec<&str> = read.segments.iter().map(|segment| segment.compression.name()).collect();
    Answer::new(names.join(" "), (&read.segments, &read.dropped, read.tree.below(""), appended))
}

/// The disks as files of one kernel's directory.
struct Files<'a>(&'a Machine);

impl Source for Files<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let names = ["k/modules.dep", "k/modules.alias", "k/modules.softdep", "k/modules.builtin.alias.bin"];
        let place = names.iter().position(|name| *name == path);
        Ok(place.and_then(|place| self.0.disks.get(place)).map(bytes_of))
    }

    fn list(&self, _path: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

pub(crate) fn indexes(machine: &Machine) -> Answer {
    let tree = match ModuleTree::read(&Files(machine), "k") {
        Ok(tree) => tree,
        Err(error) => return Answer::error(&error),
    };
    let names: Vec<&str> = tree.modules().map(|module| module.name.as_str()).collect();
    let closure = tree.closure(&names);
    let mut met = std::collections::HashSet::new();
    assert!(closure.order.iter().all(|name| met.insert(name)), "a module is loaded twice");
    assert!(
        names.iter().all(|name| closure.order.iter().any(|known| known == name) || tree.is_builtin(name))
    );
    let drivers = tree.drivers_for("pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00");
    let written = match tree.indexes() {
        Ok(files) => files.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(),
        Err(error) => return Answer::error(&error),
    };
    Answer::new(format!("{} modules", names.len()), (closure, drivers, written))
}

pub(crate) fn object(machine: &Machine) -> Answer {
    match modules::information(&bytes_of(machine.first())) {
        Ok(pairs) => Answer::new(format!("{} pairs", pairs.len()), pairs),
        Err(error) => Answer::error(&error),
    }
}

pub(crate) fn unified(machine: &Machine) -> Answer {
    let file = bytes_of(machine.first());
    let image = match Image::parse(&file) {
        Ok(image) => image,
        Err(error) => return Answer::error(&error),
    };
    let summary =
        format!("{} sections{}", image.sections.len(), if image.is_unified() { ", unified" } else { "" });
    let built = match rebuild(&image, &[(".initrd", b"new")]) {
        Ok(built) => built,
        Err(error) => return Answer::error(&error),
    };
    let again = Image::parse(&built).expect("what is built is an image");
    assert_eq!(again.find(".initrd"), Some(b"new".as_slice()));
    for section in image.sections.iter().filter(|section| section.name != ".initrd") {
        // In memory, what the file does not have of a section is zeros; the file may have some of them now.
        let old = image.content(section);
        let same = |new: &[u8]| new.starts_with(old) && new[old.len()..].iter().all(|byte| *byte == 0);
        assert!(again.sections.iter().any(|other| same(again.content(other))), "{}", section.name);
    }
    Answer::new(summary, (&image.sections, built.len()))
}
