// SPDX-License-Identifier: Apache-2.0
//! The text formats of a guest's configuration, parsed with the places where things stand, so that an edit can replace a value
//! and leave every other byte as it is.
//!
//! | module | files |
//! |---|---|
//! | [`rows`] | fstab, crypttab: fields between blanks |
//! | [`assignments`] | os-release, /etc/default/grub, ifcfg, loader.conf's like: KEY=value as shells read it |
//! | [`ini`] | NetworkManager keyfiles, systemd's files |
//! | [`keywords`] | BLS and systemd-boot entries, extlinux, GRUB legacy: a keyword and the rest of the line |
//! | [`grub`] | grub.cfg, grubenv |
//! | [`interfaces`] | ifupdown |
//! | [`udev`] | udev rules |
//! | [`pe`] | the sections of a unified kernel image |
//!
//! No parser fails: a line that makes no sense is left out. All of them are linear in their input, and end at [`MOST_LINES`].

pub mod assignments;
pub mod glob;
pub mod grub;
pub mod ini;
pub mod interfaces;
pub mod keywords;
pub mod pe;
pub mod rows;
pub mod udev;
pub mod version;

/// Lines of one file that are looked at.
pub const MOST_LINES: usize = 100_000;

/// The lines of a text: number from 1, first byte, text without its end.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').take(MOST_LINES).enumerate().map(move |(index, line)| {
        let start = at;
        at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        (index + 1, start, line.strip_suffix('\r').unwrap_or(line))
    })
}
