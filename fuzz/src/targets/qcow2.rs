// SPDX-License-Identifier: Apache-2.0
//! Disk images: opened by name, mapped from end to end, and read here and there.

use unmoor_images::formats::{Format, OpenOptions, open};
use unmoor_images::{BlockSource, Error, ErrorKind, State};

use super::{Answer, check_error, check_warnings, file_of, folder};
use crate::disk::Machine;
use crate::random::Random;

/// A map of more extents than this is not walked to its end.
const MOST_EXTENTS: usize = 2000;

pub(crate) fn parse(machine: &Machine) -> Answer {
    let folder = folder();
    let path = folder.path().join("image");
    file_of(machine.first(), &path);
    let options = OpenOptions { allow_backing: false, format: Some(Format::Qcow2) };
    match open(&path, &options) {
        Err(error) => {
            check_error(&error, &[ErrorKind::Refused]);
            // The folder's name is another each time.
            let details = error.chain().replace(&*path.to_string_lossy(), "image");
            Answer { summary: "error".into(), details }
        }
        Ok(opened) => {
            check_warnings(&opened.warnings);
            let (summary, details) = match read(&*opened.source, machine.choices) {
                Ok(details) => ("qcow2", details),
                Err(error) => {
                    // What a short file does not hold is the operating system's error.
                    check_error(&error, &[ErrorKind::Io]);
                    ("qcow2 broken", error.chain().replace(&*path.to_string_lossy(), "image"))
                }
            };
            Answer { summary: summary.into(), details: format!("{:?} {details}", opened.warnings) }
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
