// SPDX-License-Identifier: Apache-2.0
//! Kernel arguments of boot entries, and of those that the guest will make: GRUB, BLS, systemd-boot, extlinux and the files that
//! feed them.

use std::ops::Range;

use unmoor_images::Result;

use super::arguments::{Changes, Context, changes};
use super::grubenv;
use super::text::{Text, files_in, lines};
use crate::files::Files;
use crate::inspection::{Inspection, LoaderKind};
use crate::plan::{Draft, Severity};

const WHY: &str = "the new machine has its disks and consoles under other names";

/// Where kernel arguments stand in a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Syntax {
    /// grub.cfg, grub.conf, /etc/grub.d/40_custom.
    Grub,
    /// KEY="arguments", as the shell reads it.
    Assignments,
    /// BLS and systemd-boot: "options arguments".
    Entry,
    /// "append arguments".
    Extlinux,
    /// Nothing but arguments.
    Arguments,
}

pub(super) fn plan(draft: &mut Draft<'_>, inspection: &Inspection, context: &Context<'_>) -> Result<()> {
    let mut lost = Vec::new();
    for (path, syntax) in files(draft, inspection)? {
        let Some(file) = Text::read(draft, &path)? else { continue };
        let mut all = Changes::default();
        for (region, initramfs) in regions(&file.text, syntax) {
            let found = changes(&file.text, &region, initramfs, context);
            all.pieces.extend(found.pieces);
            lost.extend(found.lost.into_iter().map(|argument| (path.clone(), argument)));
        }
        if syntax == Syntax::Assignments {
            all.pieces.extend(uuid_switch(&file.text));
            all.pieces.sort_by_key(|(range, _)| range.start);
        }
        file.write(draft, &path, &all.pieces, "boot-arguments", WHY)?;
    }
    for path in ["/boot/grub/grubenv", "/boot/grub2/grubenv"] {
        let found =
            grubenv::plan(draft, path, WHY, |value| changes(value, &(0..value.len()), true, context))?;
        lost.extend(found.into_iter().map(|argument| (path.to_owned(), argument)));
    }
    for (path, argument) in lost {
        // Another system's entry, made by os-prober, or a file of a loader that is long gone keeps nothing from booting.
        let mut defaults = inspection.boot.entries.iter().filter(|entry| entry.default).peekable();
        let matters = defaults.peek().is_none() || defaults.any(|entry| entry.arguments.contains(&argument));
        draft.finding(
            if matters { Severity::Error } else { Severity::Warning },
            "boot-arguments",
            format!("{path} says {argument}, which is not on the captured disks"),
            Some("capture all disks of the machine, or correct the argument on it first".into()),
        );
    }
    // It names old disks, and grub-install stops at a disk that is not there; without it, it asks the machine.
    draft.remove(
        "/boot/grub/device.map",
        "boot-loader",
        "it lists the old machine's disks; grub-install needs none",
    )?;
    draft.remove(
        "/boot/grub2/device.map",
        "boot-loader",
        "it lists the old machine's disks; grub-install needs none",
    )
}

/// Every file with kernel arguments, each once.
fn files(draft: &Draft<'_>, inspection: &Inspection) -> Result<Vec<(String, Syntax)>> {
    let mut all: Vec<(String, Syntax)> = Vec::new();
    for loader in &inspection.boot.loaders {
        let syntax = match loader.kind {
            LoaderKind::Grub2 | LoaderKind::GrubLegacy => Syntax::Grub,
            LoaderKind::Extlinux => Syntax::Extlinux,
            _ => continue,
        };
        all.extend(loader.config.clone().map(|path| (path, syntax)));
    }
    for entry in &inspection.boot.entries {
        let syntax = match entry.style.as_str() {
            "grub" => Syntax::Grub,
            "bls" | "systemd-boot" => Syntax::Entry,
            "extlinux" => Syntax::Extlinux,
            _ => continue,
        };
        all.push((entry.file.clone(), syntax));
    }
    for (path, syntax) in [
        ("/boot/grub/grub.cfg", Syntax::Grub),
        ("/boot/grub2/grub.cfg", Syntax::Grub),
        ("/boot/grub/custom.cfg", Syntax::Grub),
        ("/boot/grub2/custom.cfg", Syntax::Grub),
        ("/boot/grub/menu.lst", Syntax::Grub),
        ("/boot/grub/grub.conf", Syntax::Grub),
        ("/etc/grub.d/40_custom", Syntax::Grub),
        ("/etc/grub.d/41_custom", Syntax::Grub),
        ("/etc/default/grub", Syntax::Assignments),
        ("/etc/sysconfig/grub", Syntax::Assignments),
        ("/etc/sysconfig/bootloader", Syntax::Assignments),
        ("/etc/dracut.conf", Syntax::Assignments),
        ("/etc/default/u-boot", Syntax::Assignments),
        ("/boot/extlinux/extlinux.conf", Syntax::Extlinux),
        ("/boot/syslinux/syslinux.cfg", Syntax::Extlinux),
        ("/etc/kernel/cmdline", Syntax::Arguments),
    ] {
        all.push((path.to_owned(), syntax));
    }
    for (folder, end, syntax) in [
        ("/etc/default/grub.d", ".cfg", Syntax::Assignments),
        ("/etc/dracut.conf.d", ".conf", Syntax::Assignments),
        ("/etc/kernel/cmdline.d", ".conf", Syntax::Arguments),
        ("/boot/loader/entries", ".conf", Syntax::Entry),
        ("/boot/efi/loader/entries", ".conf", Syntax::Entry),
        ("/efi/loader/entries", ".conf", Syntax::Entry),
    ] {
        all.extend(files_in(draft, folder, end)?.into_iter().map(|path| (path, syntax)));
    }
    for path in &inspection.boot.argument_files {
        let syntax = if path.contains("cmdline") { Syntax::Arguments } else { Syntax::Assignments };
        all.push((path.clone(), syntax));
    }
    // Several names may lead to one file (/etc/grub2.cfg, /etc/sysconfig/grub).
    let mut seen = Vec::new();
    let mut once = Vec::new();
    for (path, syntax) in all {
        if let Some(real) = draft.real_path(&path)?
            && !seen.contains(&real)
        {
            seen.push(real.clone());
            once.push((real, syntax));
        }
    }
    Ok(once)
}

/// The places of arguments, and whether an initramfs goes with them.
fn regions(text: &str, syntax: Syntax) -> Vec<(Range<usize>, bool)> {
    match syntax {
        Syntax::Arguments => {
            let plain = lines(text).filter(|(_, line)| !line.trim_start().starts_with('#'));
            plain.map(|(start, line)| (start..start + line.len(), true)).collect()
        }
        Syntax::Assignments => assignments(text).into_iter().map(|(_, value)| (value, true)).collect(),
        Syntax::Entry => {
            let initramfs = keyword_lines(text).any(|(key, _)| key == "initrd");
            let options = keyword_lines(text).filter(|(key, _)| key == "options");
            options.map(|(_, rest)| (rest, initramfs)).collect()
        }
        Syntax::Extlinux => {
            let initramfs = keyword_lines(text).any(|(key, rest)| {
                key == "initrd"
                    || key == "append" && text.get(rest).is_some_and(|all| all.contains("initrd="))
            });
            let append = keyword_lines(text).filter(|(key, _)| key == "append");
            append.map(|(_, rest)| (rest, initramfs)).collect()
        }
        Syntax::Grub => grub(text),
    }
}

/// Lines as keyword in lower case and the place of the rest.
fn keyword_lines(text: &str) -> impl Iterator<Item = (String, Range<usize>)> {
    lines(text).map(|(start, line)| {
        let blank = line.len() - line.trim_start().len();
        let rest = line.get(blank..).unwrap_or_default();
        let key = rest.split([' ', '\t']).next().unwrap_or_default();
        (key.to_ascii_lowercase(), start + blank + key.len()..start + line.len())
    })
}

/// Commands that load a kernel, and variables that hold arguments. GRUB legacy says "kernel", Xen's entries "module".
fn grub(text: &str) -> Vec<(Range<usize>, bool)> {
    let all: Vec<(String, Range<usize>)> = keyword_lines(text).collect();
    let mut found = Vec::new();
    for (index, (key, rest)) in all.iter().enumerate() {
        let value = text.get(rest.clone()).unwrap_or_default();
        if key == "set" {
            let trimmed = value.trim_start();
            if ["kernelopts=", "default_kernelopts=", "tuned_params="]
                .iter()
                .any(|name| trimmed.starts_with(name))
            {
                let equals = value.find('=').unwrap_or_default();
                found.push((unquote(text, &(rest.start + equals + 1..rest.end)), true));
            }
            continue;
        }
        let loads = key.starts_with("linux") || key.starts_with("$linux") || key.starts_with("${linux");
        let module = matches!(key.as_str(), "kernel" | "module" | "module2" | "multiboot" | "multiboot2");
        if !(loads || module && value.contains("root=")) {
            continue;
        }
        // Up to the next kernel or the end of the entry.
        let after = all.iter().skip(index + 1).take_while(|(key, _)| {
            !key.starts_with('}')
                && !key.starts_with("linux")
                && !matches!(key.as_str(), "title" | "menuentry")
        });
        let mut after = after.map(|(key, _)| key.as_str());
        let initramfs = after.any(|key| key.contains("initrd") || key.starts_with("module"));
        found.push((rest.clone(), initramfs));
    }
    found
}

/// The place of a value without quotes around it.
fn unquote(text: &str, range: &Range<usize>) -> Range<usize> {
    let value = text.get(range.clone()).unwrap_or_default();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    match quote.and_then(|quote| value.get(1..)?.find(quote)) {
        Some(len) => range.start + 1..range.start + 1 + len,
        None => range.clone(),
    }
}

/// Shell assignments (a value in quotes may go over several lines): name and place of the value within its quotes.
pub(super) fn assignments(text: &str) -> Vec<(String, Range<usize>)> {
    let mut all = Vec::new();
    let mut done = 0;
    for (start, line) in lines(text) {
        if start < done {
            continue;
        }
        let blank = line.len() - line.trim_start().len();
        let rest = line.get(blank..).unwrap_or_default();
        let rest = rest.strip_prefix("export ").unwrap_or(rest);
        let Some((name, _)) = rest.split_once('=') else { continue };
        let bare = name.trim_end_matches('+');
        if bare.is_empty() || !bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let value = start + line.len() - rest.len() + name.len() + 1;
        let tail = text.get(value..).unwrap_or_default();
        let range = match tail.as_bytes().first() {
            Some(quote @ (b'"' | b'\'')) => {
                let mut end = 1;
                let bytes = tail.as_bytes();
                while let Some(byte) = bytes.get(end).filter(|byte| *byte != quote) {
                    end += if *byte == b'\\' && *quote == b'"' { 2 } else { 1 };
                }
                value + 1..value + end.min(tail.len())
            }
            _ => value..value + tail.find(['\n', ' ', '\t', ';']).unwrap_or(tail.len()),
        };
        if text.is_char_boundary(range.end) {
            done = range.end;
            all.push((bare.to_owned(), range));
        }
    }
    all
}

/// The guest's own grub-mkconfig would write the names of disks again.
fn uuid_switch(text: &str) -> Vec<(Range<usize>, String)> {
    let is = |name: &str| matches!(name, "GRUB_DISABLE_LINUX_UUID" | "GRUB_DISABLE_UUID");
    let on = assignments(text)
        .into_iter()
        .filter(|(name, value)| is(name) && text.get(value.clone()) == Some("true"));
    on.map(|(_, value)| (value, "false".to_owned())).collect()
}
