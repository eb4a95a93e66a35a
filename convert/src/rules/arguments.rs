// SPDX-License-Identifier: Apache-2.0
//! Kernel arguments, wherever they stand: root=, resume=, console= and their like, changed word by word.

use std::collections::BTreeMap;
use std::ops::Range;

use super::references::{Verdict, judge, names_hardware};
use crate::devices::Devices;

/// What decides how arguments change.
pub(super) struct Context<'a> {
    pub(super) devices: &'a Devices,
    /// The new machine's serial console.
    pub(super) serial: Option<&'a str>,
    /// Hardware addresses, old to new, lower case.
    pub(super) macs: &'a BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In order and apart.
    pub(super) pieces: Vec<(Range<usize>, String)>,
    /// root= and its like that name hardware which is not among the captured disks.
    pub(super) lost: Vec<String>,
}

/// A word; `inner` is without the quotes around it.
struct Word {
    whole: Range<usize>,
    inner: Range<usize>,
}

/// The words of `text[region]`, as GRUB and the shell split them.
fn words(text: &str, region: &Range<usize>) -> Vec<Word> {
    let bytes = text.as_bytes();
    let mut all = Vec::new();
    let mut at = region.start;
    let end = region.end.min(bytes.len());
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(b' ');
    while at < end {
        if byte(at).is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let start = at;
        let mut quote = None;
        while at < end {
            match (byte(at), quote) {
                (b'\\', Some(b'"') | None) => at += 1,
                (q @ (b'"' | b'\''), None) => quote = Some(q),
                (q, Some(open)) if q == open => quote = None,
                (blank, None) if blank.is_ascii_whitespace() => break,
                _ => {}
            }
            at += 1;
        }
        let at_end = at.min(end);
        let quoted =
            matches!(byte(start), b'"' | b'\'') && at_end > start + 1 && byte(at_end - 1) == byte(start);
        let inner = if quoted { start + 1..at_end - 1 } else { start..at_end };
        all.push(Word { whole: start..at_end, inner });
    }
    all
}

/// What is to be changed among the arguments in `text[region]`. `initramfs`: one is loaded with the kernel; without one the
/// kernel itself finds root, and knows no UUIDs of filesystems (init/do_mounts.c).
pub(super) fn changes(text: &str, region: &Range<usize>, initramfs: bool, context: &Context<'_>) -> Changes {
    let words = words(text, region);
    let of = |word: &Word| text.get(word.inner.clone()).unwrap_or_default();
    let mut out = Changes::default();
    let mut consoles: Vec<String> = words
        .iter()
        .filter_map(|word| of(word).strip_prefix("console="))
        .filter(|value| context.serial.is_some_and(|serial| device_of(value) == serial))
        .map(str::to_owned)
        .collect();
    let mut resumes = words.iter().any(|word| of(word) == "noresume");
    let mut dropped_resume = false;
    for word in &words {
        let Some((key, value)) = of(word).split_once('=') else { continue };
        let value_at = word.inner.start + key.len() + 1;
        let mut put = |new: String| out.pieces.push((value_at..word.inner.end, new));
        match key {
            "root" | "real_root" | "usr" | "mount.usr" | "swap" => match judge(context.devices, value) {
                Verdict::Becomes(new) => {
                    put(if initramfs { new } else { for_kernel(context.devices, value, new) });
                }
                Verdict::Lost => out.lost.push(format!("{key}={value}")),
                Verdict::Holds => {}
            },
            "cryptdevice" => {
                let device = value.split(':').next().unwrap_or(value);
                let rest = value.get(device.len()..).unwrap_or_default();
                match judge(context.devices, device) {
                    Verdict::Becomes(new) => put(format!("{new}{rest}")),
                    Verdict::Lost => out.lost.push(format!("{key}={value}")),
                    Verdict::Holds => {}
                }
            }
            "resume" => match judge(context.devices, value) {
                Verdict::Becomes(new) => put(new),
                Verdict::Holds if is_there(context.devices, value) => {}
                _ => {
                    dropped_resume = true;
                    if resumes {
                        out.pieces.push((with_blank(text, region, &word.whole), String::new()));
                    } else {
                        resumes = true;
                        out.pieces.push((word.whole.clone(), "noresume".into()));
                    }
                }
            },
            "console" => match console(value, context.serial, &consoles) {
                Console::Keep => {}
                Console::Remove => out.pieces.push((with_blank(text, region, &word.whole), String::new())),
                Console::Becomes(new) => {
                    consoles.push(new.clone());
                    put(new);
                }
            },
            // dracut.cmdline(7): ifname=NAME:MAC
            "ifname" => {
                if let Some((name, mac)) = value.split_once(':')
                    && let Some(new) = context.macs.get(&mac.to_ascii_lowercase())
                {
                    put(format!("{name}:{new}"));
                }
            }
            _ => {}
        }
    }
    if dropped_resume {
        for word in words.iter().filter(|word| of(word).starts_with("resume_offset=")) {
            out.pieces.push((with_blank(text, region, &word.whole), String::new()));
        }
        out.pieces.sort_by_key(|(range, _)| range.start);
    }
    out
}

/// A word and the blank before it.
fn with_blank(text: &str, region: &Range<usize>, word: &Range<usize>) -> Range<usize> {
    let before = text.get(region.start..word.start).unwrap_or_default();
    word.start - usize::from(before.ends_with([' ', '\t']))..word.end
}

/// The partition's UUID, which the kernel finds without an initramfs.
fn for_kernel(devices: &Devices, old: &str, new: String) -> String {
    let device = devices.resolve(old).and_then(|index| devices.devices.get(index));
    device.and_then(|device| device.partuuid.as_ref()).map_or(new, |uuid| format!("PARTUUID={uuid}"))
}

/// Whether what `spec` means is on the captured disks; what is no reference to a device ("/dev/zram0", "LABEL=" of something
/// that a LUKS container holds) cannot be told and is taken to be.
fn is_there(devices: &Devices, spec: &str) -> bool {
    let told = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/disk/by-uuid/", "/dev/disk/by-label/"];
    let hidden = devices.devices.iter().any(|device| device.kind == "crypto_LUKS");
    hidden
        || devices.resolve(spec).is_some()
        || !told.iter().any(|tag| spec.starts_with(tag)) && !names_hardware(spec)
}

enum Console {
    Keep,
    Remove,
    Becomes(String),
}

/// "ttyS0,115200n8" -> "ttyS0"
fn device_of(value: &str) -> &str {
    value.split(',').next().unwrap_or(value)
}

/// Whether a console is a wire to somewhere, rather than the screen.
pub(super) fn is_serial(device: &str) -> bool {
    ["ttyS", "ttyAMA", "hvc", "xvc"].iter().any(|family| {
        device.strip_prefix(family).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// The console that only a hypervisor has (Xen's, virtio's).
pub(super) fn is_paravirtual(device: &str) -> bool {
    is_serial(device) && (device.starts_with("hvc") || device.starts_with("xvc"))
}

fn console(value: &str, serial: Option<&str>, there: &[String]) -> Console {
    let device = device_of(value);
    let Some(serial) = serial else {
        return if is_paravirtual(device) { Console::Remove } else { Console::Keep };
    };
    if !is_serial(device) || device == serial {
        return Console::Keep;
    }
    if there.iter().any(|known| device_of(known) == serial) {
        return Console::Remove;
    }
    let options = value.get(device.len()..).unwrap_or_default();
    // A paravirtual console has no speed.
    let options = if is_paravirtual(serial) { "" } else { options };
    Console::Becomes(format!("{serial}{options}"))
}
