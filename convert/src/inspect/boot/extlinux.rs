// SPDX-License-Identifier: Apache-2.0
//! EXTLINUX and SYSLINUX configurations.

use unmoor_images::manifest::Firmware;

use super::super::guest::{Guest, join};
use super::super::mounts::Mounts;
use crate::inspection::{Boot, BootEntry, Loader, LoaderKind};
use crate::syntax::keywords::parse;

/// Where EXTLINUX looks (syslinux wiki, "Config"), seen from the guest.
const CONFIGS: [&str; 6] = [
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/extlinux.conf",
    "/boot/syslinux.cfg",
    "/extlinux.conf",
];
const MOST_ENTRIES: usize = 256;
const MOST_FILES: usize = 16;

#[derive(Default)]
struct Reader {
    entries: Vec<BootEntry>,
    labels: Vec<String>,
    default: Option<String>,
    marked: Option<usize>,
    files: usize,
}

pub(super) fn read(guest: &Guest<'_>, mounts: &Mounts<'_, '_>, boot: &mut Boot) {
    let Some(config) = CONFIGS.iter().find(|path| guest.is_file(path)) else { return };
    let mut reader = Reader::default();
    reader.file(guest, mounts, config);
    let by_label = reader
        .default
        .as_ref()
        .and_then(|wanted| reader.labels.iter().position(|label| label.eq_ignore_ascii_case(wanted)));
    if let Some(entry) = reader.entries.get_mut(reader.marked.or(by_label).unwrap_or(0)) {
        entry.default = true;
    }
    boot.entries.append(&mut reader.entries);
    boot.loaders.push(Loader {
        kind: LoaderKind::Extlinux,
        firmware: Firmware::Bios,
        config: Some((*config).to_owned()),
        binaries: Vec::new(),
        shim: false,
    });
}

impl Reader {
    fn file(&mut self, guest: &Guest<'_>, mounts: &Mounts<'_, '_>, path: &str) {
        self.files += 1;
        if self.files > MOST_FILES {
            guest.note(format!(
                "{path} is not followed: configurations of SYSLINUX include each other too often"
            ));
            return;
        }
        let Some(text) = guest.text(path) else { return };
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let device = mounts.device_above(path);
        // Relative to the configuration's directory.
        let place = |file: &str| {
            if file.starts_with('/') {
                mounts.locate(device, file)
            } else {
                let mut here = directory.to_owned();
                let mut file = file;
                while let Some(rest) = file.strip_prefix("../") {
                    here.truncate(here.rfind('/').unwrap_or(0));
                    file = rest;
                }
                join(&here, file.trim_start_matches("./"))
            }
        };
        let mut open = false;
        for line in parse(&text) {
            let value = line.value.as_str();
            if line.key == "label" {
                open = self.entries.len() < MOST_ENTRIES;
                if open {
                    self.labels.push(value.to_owned());
                    self.entries.push(BootEntry {
                        file: path.to_owned(),
                        lines: Some((line.line, line.line)),
                        style: "extlinux".into(),
                        title: value.to_owned(),
                        kernel: None,
                        initramfs: Vec::new(),
                        arguments: Vec::new(),
                        default: false,
                    });
                }
                continue;
            }
            let number = self.entries.len().saturating_sub(1);
            match (line.key.as_str(), self.entries.last_mut().filter(|_| open)) {
                ("default" | "ontimeout", None) => self.default = Some(value.to_owned()),
                ("include", _) => self.file(guest, mounts, &place(value)),
                ("menu", entry) => {
                    let (word, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
                    match (word.to_ascii_lowercase().as_str(), entry) {
                        ("label", Some(entry)) => entry.title = rest.trim().replace('^', ""),
                        ("default", Some(_)) => self.marked = Some(number),
                        ("include", _) => self.file(guest, mounts, &place(rest.trim())),
                        _ => {}
                    }
                }
                (key, Some(entry)) => {
                    let known = match key {
                        "kernel" | "linux" => {
                            entry.kernel = Some(place(value));
                            true
                        }
                        "initrd" => {
                            entry.initramfs = value.split(',').map(|file| place(file.trim())).collect();
                            true
                        }
                        "append" => {
                            for word in value.split_whitespace() {
                                match word.strip_prefix("initrd=") {
                                    Some(files) => entry.initramfs = files.split(',').map(place).collect(),
                                    None => entry.arguments.push(word.to_owned()),
                                }
                            }
                            true
                        }
                        _ => false,
                    };
                    if let (true, Some(lines)) = (known, &mut entry.lines) {
                        lines.1 = line.line;
                    }
                }
                _ => {}
            }
        }
    }
}
