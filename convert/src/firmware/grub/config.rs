// SPDX-License-Identifier: Apache-2.0
//! GRUB's configuration: stubs that lead to the guest's own, what other firmware calls by other names, and a menu made of a
//! guest's boot entries where its own loader has another language.

use std::fmt::Write;

use crate::firmware::locate::OnDevice;
use crate::inspection::BootEntry;

/// The first line of what is made here, by which it is known again.
pub(crate) const MARK: &str = "# Made by unmoor.";

/// Commands that find the filesystem of a file and name it `root`, in the words of the rescue parser: no variables but root.
pub(crate) fn find(on: &OnDevice<'_>) -> Option<String> {
    let uuid = on.device.uuid.as_deref()?;
    let mut text = String::new();
    if let Some((luks, _)) = &on.luks {
        let _ = writeln!(text, "cryptomount -u {}", luks.replace('-', ""));
    }
    let _ = writeln!(text, "search.fs_uuid {uuid} root");
    Some(text)
}

/// A file that leads to the configuration `on`, whose directory becomes the prefix.
pub(crate) fn stub(on: &OnDevice<'_>) -> Option<String> {
    let (directory, name) = on.path.rsplit_once('/')?;
    let mut text = format!("{MARK} It leads to the boot menu on the machine's own filesystem.\n");
    text += &find(on)?;
    let _ = writeln!(text, "set prefix=($root)'{}'", directory.replace('\'', ""));
    let _ = writeln!(text, "configfile $prefix/{name}");
    Some(text)
}

/// `linux16` and `initrd16` (BIOS), `linuxefi` and `initrdefi` (Fedora's and Debian's EFI) become `linux` and `initrd`, which
/// every GRUB 2 has for its firmware. `None` where none of them is used.
pub(crate) fn plain_commands(config: &[u8]) -> Option<Vec<u8>> {
    const WORDS: &[(&[u8], &[u8])] = &[
        (b"linux16", b"linux"),
        (b"initrd16", b"initrd"),
        (b"linuxefi", b"linux"),
        (b"initrdefi", b"initrd"),
    ];
    let (mut out, mut changed) = (Vec::with_capacity(config.len()), false);
    for line in config.split_inclusive(|byte| *byte == b'\n') {
        let blank = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let (blank, rest) = line.split_at(blank);
        let word = rest.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        out.extend_from_slice(blank);
        match WORDS.iter().find(|(old, _)| *old == word) {
            Some((old, new)) => {
                out.extend_from_slice(new);
                out.extend_from_slice(rest.get(old.len()..).unwrap_or_default());
                changed = true;
            }
            None => out.extend_from_slice(rest),
        }
    }
    changed.then_some(out)
}

/// A word for GRUB's parser: in quotes, unless it needs none.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace(['\n', '\r'], " ").replace('\'', r"'\''"))
}

/// A menu of entries with the places of their files. `locate` answers where a guest's path lies; an entry whose files are not
/// found is left out and its title is in the second answer.
pub(crate) fn menu<'a>(
    entries: &[BootEntry],
    locate: &dyn Fn(&str) -> Option<OnDevice<'a>>,
) -> (String, Vec<String>) {
    let mut text = format!(
        "{MARK} It repeats the boot entries of another boot loader as they were; new kernels do not appear here.\nset timeout=5\n"
    );
    let (mut left_out, mut number) = (Vec::new(), 0);
    let mut body = String::new();
    for entry in entries {
        match menu_entry(entry, locate) {
            Some(made) => {
                if entry.default {
                    let _ = writeln!(text, "set default={number}");
                }
                body += &made;
                number += 1;
            }
            None => left_out.push(entry.title.clone()),
        }
    }
    (text + &body, left_out)
}

fn menu_entry<'a>(entry: &BootEntry, locate: &dyn Fn(&str) -> Option<OnDevice<'a>>) -> Option<String> {
    let kernel = locate(entry.kernel.as_deref()?)?;
    let initramfs: Vec<_> = entry.initramfs.iter().map(|path| locate(path)).collect::<Option<_>>()?;
    // A UKI is no file that `linux` takes on a BIOS.
    if entry.style == "uki" || initramfs.iter().any(|one| one.device != kernel.device) {
        return None;
    }
    let mut text = format!("menuentry {} {{\n", quoted(&entry.title));
    for line in find(&kernel)?.lines() {
        let _ = writeln!(text, "  {line}");
    }
    let _ = write!(text, "  linux {}", quoted(&kernel.path));
    entry.arguments.iter().for_each(|argument| {
        let _ = write!(text, " {}", quoted(argument));
    });
    text.push('\n');
    if !initramfs.is_empty() {
        let _ = write!(text, "  initrd");
        initramfs.iter().for_each(|one| {
            let _ = write!(text, " {}", quoted(&one.path));
        });
        text.push('\n');
    }
    text += "}\n";
    Some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_commands_are_renamed() {
        let config =
            b"  linux16 /vmlinuz linux16=yes\n\tinitrd16\t/initrd\nlinuxefi /v\n# linux16\necho linux16\n";
        let new = plain_commands(config).unwrap();
        assert_eq!(
            new,
            b"  linux /vmlinuz linux16=yes\n\tinitrd\t/initrd\nlinux /v\n# linux16\necho linux16\n"
        );
        assert_eq!(plain_commands(&new), None);
    }

    #[test]
    fn words_that_could_be_commands_stand_in_quotes() {
        assert_eq!(quoted("root=UUID=0a-1"), "root=UUID=0a-1");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("x'; reboot #"), r"'x'\''; reboot #'");
        assert_eq!(quoted("$root"), "'$root'");
        assert_eq!(quoted(""), "''");
    }
}
