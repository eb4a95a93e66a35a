// SPDX-License-Identifier: Apache-2.0
//! GRUB's names of disks and files, and its "search".

use unmoor_images::layout::Place;

use super::machine::Machine;
use crate::inspect::guest::join;

impl Machine<'_, '_> {
    /// The path in the guest of what GRUB calls `path`: "(hd0,gpt2)/vmlinuz", or on $root.
    pub(super) fn place(&self, path: &str) -> String {
        let (device, path) = self.split(path);
        if device == "guest" && self.guest.exists(path) {
            return join("", path);
        }
        self.mounts.locate(self.device(device), path)
    }

    fn split<'t>(&'t self, path: &'t str) -> (&'t str, &'t str) {
        match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((device, path)) => (device, path),
            None => (self.variable("root"), path),
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.guest.is_file(&self.place(path))
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        self.guest.is_directory(&self.place(path))
    }

    pub(super) fn is_filled(&self, path: &str) -> bool {
        self.guest.size(&self.place(path)).is_some_and(|size| size > 0)
    }

    /// What a name of GRUB's means: "hd0,gpt2", "hd0,msdos1", "lvm/vg-lv", "mduuid/...", "cryptouuid/..."; "device7" is what
    /// [`search`](Self::search) found.
    fn device(&self, name: &str) -> Option<usize> {
        let devices = self.guest.devices;
        if let Some(number) = name.strip_prefix("device") {
            return number.parse().ok().filter(|number| *number < devices.devices.len());
        }
        if let Some(volume) = name.strip_prefix("lvm/") {
            return devices.resolve(&format!("/dev/mapper/{volume}"));
        }
        if let Some(array) = name.strip_prefix("md/") {
            return devices.resolve(&format!("/dev/md/{array}"));
        }
        if let Some(uuid) = name.strip_prefix("mduuid/") {
            let same = |name: &String| {
                name.starts_with("/dev/disk/by-id/md-uuid-") && name.replace(':', "").ends_with(uuid)
            };
            return devices.devices.iter().position(|device| device.names.iter().any(same));
        }
        let (disk, partition) = name.strip_prefix("hd")?.split_once(',')?;
        let letters = ["gpt", "msdos", "apple"];
        let number = letters.iter().find_map(|table| partition.strip_prefix(table)).unwrap_or(partition);
        let (disk, number): (usize, u32) = (disk.parse().ok()?, number.parse().ok()?);
        devices.devices.iter().position(|device| {
            let here = matches!(device.place, Place::Disk { partition: Some(here), .. } if here == number);
            device.disk == disk && here
        })
    }

    /// `search [--file|--label|--fs-uuid] [--set[=VAR]] [hints] NAME`: the variable (root) gets the device.
    pub(super) fn search(&mut self, arguments: &[String]) -> bool {
        let mut kind = "--file";
        let mut variable = None;
        let mut names: Vec<&str> = Vec::new();
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--file" | "-f" => kind = "--file",
                "--label" | "-l" => kind = "--label",
                "--fs-uuid" | "-u" => kind = "--fs-uuid",
                "--set" | "-s" => variable = Some("root"),
                "--hint" => drop(words.next()),
                _ if word.starts_with("--set=") => variable = word.split_once('=').map(|(_, name)| name),
                _ if word.starts_with("--") => {}
                // Short options may stand together: "-nu".
                _ if word.starts_with('-') && word.contains('u') => kind = "--fs-uuid",
                _ => names.push(word),
            }
        }
        // "--set NAME VALUE" of GRUB 1.98 and later; the value is last.
        let Some(value) = names.pop() else { return false };
        let variable = match (variable, names.first()) {
            (Some("root"), Some(name)) if !name.contains(',') => (*name).to_owned(),
            (variable, _) => variable.unwrap_or("root").to_owned(),
        };
        let value = value.to_owned();
        self.found(kind, &value, &variable)
    }

    /// `search.fs_uuid VALUE [VAR [HINT...]]`, as grub-install's load.cfg has it.
    pub(super) fn search_for(&mut self, kind: &str, arguments: &[String]) -> bool {
        let Some(value) = arguments.first().cloned() else { return false };
        let variable = arguments.get(1).cloned().unwrap_or_else(|| "root".to_owned());
        self.found(kind, &value, &variable)
    }

    fn found(&mut self, kind: &str, value: &str, variable: &str) -> bool {
        let device = match kind {
            "--fs-uuid" => self.guest.devices.resolve(&format!("UUID={value}")),
            "--label" => self.guest.devices.resolve(&format!("LABEL={value}")),
            _ => {
                // Which filesystem has it shows when the file is looked for.
                let there = self.guest.exists(&self.mounts.locate(None, value));
                if there {
                    self.set(variable, "guest");
                }
                return there;
            }
        };
        match device {
            Some(device) => self.set(variable, &format!("device{device}")),
            // A filesystem that is not among the devices: files are looked for where they may be.
            None => self.set(variable, "guest"),
        }
        true
    }
}
