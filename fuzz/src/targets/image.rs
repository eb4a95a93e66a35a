// SPDX-License-Identifier: Apache-2.0
//! Disk images: opened by name, mapped from end to end, and read here and there.

use unmoor_images::formats::{Format, OpenOptions, open};
use unmoor_images::{BlockSource, Error, ErrorKind, State};

use super::{Answer, check_error, check_warnings, file_of, folder};
use crate::disk::Machine;
use crate::random::Random;

/// A map of more extents than this is not walked to its end.
const MOST_EXTENTS: usize = 2000;

pub(crate) fn qcow2(machine: &Machine) -> Answer {
    parse(machine, Format::Qcow2)
}

pub(crate) fn vmdk(machine: &Machine) -> Answer {
    parse(machine, Format::Vmdk)
}

pub(crate) fn vhdx(machine: &Machine) -> Answer {
    parse(machine, Format::Vhdx)
}

pub(crate) fn vhd(machine: &Machine) -> Answer {
    parse(machine, Format::Vhd)
}

pub(crate) fn vdi(machine: &Machine) -> Answer {
    parse(machine, Format::Vdi)
}

/// The first disk is the image, the second one a file beside it that a VMDK's descriptor may name.
fn parse(machine: &Machine, format: Format) -> Answer {
    let folder = folder();
    let path = folder.path().join("disk.vmdk");
    file_of(machine.first(), &path);
    if let Some(beside) = machine.disks.get(1) {
        file_of(beside, &folder.path().join("disk-flat.vmdk"));
    }
    // The folder's name is another each time.
    let told = |error: &Error| error.chain().replace(&*folder.path().to_string_lossy(), "folder");
    let name = format.name().to_lowercase();
    match open(&path, &OpenOptions { allow_backing: false, format: Some(format) }) {
        Err(error) => {
            // A file that a descriptor names need not be there.
            check_error(&error, &[ErrorKind::Refused, ErrorKind::Io]);
            Answer { summary: "error".into(), details: told(&error) }
        }
        Ok(opened) => {
            check_warnings(&opened.warnings);
            let (summary, details) = match read(&*opened.source, machine.choices) {
                Ok(details) => (name, details),
                Err(error) => {
                    // What a short file does not hold is the operating system's error.
                    check_error(&error, &[ErrorKind::Io]);
                    (format!("{name} broken"), told(&error))
                }
            };
            Answer { summary, details: format!("{:?} {details}", opened.warnings) }
        }
    }
}

fn read(source: &dyn BlockSource, choices: u64) -> Result<String, Error> {
    let mut details = blake3::Hasher::new();
    let mut at = 0;
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..MOST_EXTENTS {
        if at >= source.size() {
            break;
        }
        let len = source.size() - at;
        let extent = source.extent_at(at, len)?;
        assert!(
            extent.offset == at && extent.len > 0 && extent.len <= len,
            "{extent:x?} at {at:#x} of {len:#x}"
        );
        let piece = &mut buffer[..extent.len.min(1 << 16) as usize];
        source.read_at(piece, at)?;
        match extent.state {
            State::Zero => assert!(piece.iter().all(|byte| *byte == 0), "{extent:x?} does not read as zeros"),
            State::Data => {}
            State::Hole => panic!("a container cannot know holes: {extent:x?}"),
        }
        details.update(&at.to_le_bytes()).update(piece);
        at = extent.end();
    }
    let mut random = Random::new(choices);
    for _ in 0..8 {
        let at = random.below(source.size());
        let len = random.below((source.size() - at).min(1 << 16)) as usize;
        source.read_at(&mut buffer[..len], at)?;
        details.update(&buffer[..len]);
    }
    assert!(source.read_at(&mut buffer[..1], source.size()).is_err());
    Ok(details.finalize().to_hex().to_string())
}
