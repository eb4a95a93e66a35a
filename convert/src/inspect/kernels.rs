// SPDX-License-Identifier: Apache-2.0
//! Kernels: images in /boot, in module trees, on EFI system partitions and in unified images, with their modules and initramfs.

use std::cmp::Reverse;

use unmoor_images::parse::{Bytes, c_text};

use super::guest::{Guest, join};
use super::initramfs::Examiner;
use crate::inspection::{Boot, BootEntry, Initramfs, Kernel};
use crate::syntax::pe;
use crate::syntax::version::compare;

/// Kernels that are looked at.
const MOST: usize = 128;
/// Largest image that is read for its release; unified ones are larger.
const MOST_IMAGE: u64 = 128 << 20;
/// Names that a kernel's file has before its release.
const PREFIXES: [&str; 6] = ["vmlinuz-", "vmlinux-", "Image-", "image-", "kernel-", "linux-"];

pub(super) fn read(guest: &Guest<'_>, boot: &Boot) -> Vec<Kernel> {
    let trees = trees(guest);
    let mut examiner = Examiner::new(guest);
    // Once: there may be a thousand entries, and a hundred kernels to find among them.
    let started: Vec<Option<String>> = boot
        .entries
        .iter()
        .map(|entry| entry.kernel.as_ref().map(|path| guest.real_path(path).unwrap_or_else(|| path.clone())))
        .collect();
    let mut kernels: Vec<Kernel> = Vec::new();
    for path in images(guest, boot, &trees) {
        let name = path.rsplit('/').next().unwrap_or_default();
        let Some(release) = release(guest, &path, &trees) else {
            guest.note(format!("{path}: which release of Linux it is cannot be told"));
            continue;
        };
        let modules = trees.iter().find(|(name, _)| *name == release).map(|(_, path)| path.clone());
        let with_real = boot.entries.iter().zip(&started);
        let entries: Vec<&BootEntry> =
            with_real.filter(|(_, real)| real.as_ref() == Some(&path)).map(|(entry, _)| entry).collect();
        kernels.push(Kernel {
            initramfs: initramfs_of(&mut examiner, guest, &entries, &path, &release),
            config: [format!("/boot/config-{release}"), format!("/usr/lib/modules/{release}/config")]
                .into_iter()
                .find(|path| guest.is_file(path)),
            bootable: !entries.is_empty(),
            special: special(name, &entries).map(str::to_owned),
            image: Some(path),
            modules,
            release,
        });
    }
    merge(&mut kernels);
    // Modules alone: a kernel whose image is on a filesystem that is not seen, or left over.
    for (release, path) in &trees {
        if !kernels.iter().any(|kernel| kernel.release == *release) {
            kernels.push(Kernel {
                release: release.clone(),
                image: None,
                modules: Some(path.clone()),
                initramfs: Vec::new(),
                config: None,
                bootable: false,
                special: None,
            });
        }
    }
    kernels.sort_by(|a, b| compare(&b.release, &a.release).then_with(|| a.special.cmp(&b.special)));
    kernels
}

/// A release's image may be found twice, in /boot and beside its modules: the one that is booted counts.
fn merge(kernels: &mut Vec<Kernel>) {
    kernels.sort_by_key(|kernel| Reverse(kernel.bootable));
    let mut seen: Vec<(String, Option<String>)> = Vec::new();
    kernels.retain(|kernel| {
        let key = (kernel.release.clone(), kernel.special.clone());
        let keep = kernel.bootable || !seen.contains(&key);
        seen.push(key);
        keep
    });
}

/// (release, directory without links)
fn trees(guest: &Guest<'_>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for base in ["/usr/lib/modules", "/lib/modules"] {
        for name in guest.list(base).into_iter().take(MOST) {
            let path = join(base, &name);
            let is_tree = ["modules.dep", "modules.dep.bin", "modules.order", "kernel"]
                .iter()
                .any(|file| guest.exists(&join(&path, file)));
            if !is_tree || found.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if let Some(real) = guest.real_path(&path) {
                found.push((name, real));
            }
        }
    }
    found
}

/// Paths of images, without links: those of boot entries first.
fn images(guest: &Guest<'_>, boot: &Boot, trees: &[(String, String)]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |path: &str| {
        let real = guest.real_path(path).filter(|path| guest.is_file(path));
        if let Some(real) = real.filter(|real| !found.contains(real) && found.len() < MOST) {
            found.push(real);
        }
    };
    for entry in &boot.entries {
        entry.kernel.iter().for_each(|path| add(path));
    }
    for name in guest.list("/boot") {
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with(".old") {
            add(&join("/boot", &name));
        }
    }
    for (_, tree) in trees {
        add(&join(tree, "vmlinuz"));
    }
    found
}

/// By its name, by its package's note beside the modules (Arch), by its place, or by what it says of itself.
fn release(guest: &Guest<'_>, path: &str, trees: &[(String, String)]) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let suffix = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    let known =
        |name: &str| trees.iter().find(|(release, _)| release == name).map(|(release, _)| release.clone());
    if let Some(release) =
        suffix.and_then(|suffix| known(suffix).or_else(|| known(suffix.trim_end_matches(".gz"))))
    {
        return Some(release);
    }
    // /usr/lib/modules/RELEASE/vmlinuz, ESP/TOKEN/RELEASE/linux
    let mut above = path.rsplit('/').skip(1);
    if let Some(release) = above.next().and_then(known) {
        return Some(release);
    }
    let package = |tree: &str| guest.line(&join(tree, "pkgbase"));
    if let Some(suffix) = suffix
        && let Some((release, _)) = trees.iter().find(|(_, tree)| package(tree).as_deref() == Some(suffix))
    {
        return Some(release.clone());
    }
    let bytes = guest.bytes(path, if name.ends_with(".efi") { 1 << 30 } else { MOST_IMAGE });
    let told = bytes.as_deref().and_then(|bytes| uki_release(bytes).or_else(|| told_release(bytes)));
    told.or_else(|| {
        suffix.filter(|suffix| suffix.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
    })
}

/// The section .uname of a unified kernel image, or what the kernel in it says.
fn uki_release(bytes: &[u8]) -> Option<String> {
    let image = pe::parse(bytes).ok()?;
    let name = image.text(bytes, ".uname").filter(|name| !name.is_empty());
    name.or_else(|| told_release(image.section(bytes, ".linux")?))
}

/// The version string of a bzImage (Documentation/arch/x86/boot.rst, `kernel_version`): its first word.
fn told_release(bytes: &[u8]) -> Option<String> {
    let raw = Bytes::new(bytes, "kernel image");
    if raw.slice(0x202, 4).ok()? != b"HdrS" {
        return None;
    }
    let at = usize::from(raw.u16_le(0x20e).ok()?) + 0x200;
    let text = c_text(raw.slice(at, 256.min(raw.len().saturating_sub(at))).ok()?);
    text.split_whitespace()
        .next()
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

/// What else than a normal boot it is for.
fn special(name: &str, entries: &[&BootEntry]) -> Option<&'static str> {
    let all_kdump = |entry: &&BootEntry| entry.initramfs.iter().any(|path| path.contains("kdump"));
    if name.contains("rescue") {
        Some("rescue")
    } else if !entries.is_empty() && entries.iter().all(all_kdump) {
        Some("kdump")
    } else {
        None
    }
}

/// Those of the default entry in its order, then those that other entries have.
fn initramfs_of(
    examiner: &mut Examiner<'_, '_>,
    guest: &Guest<'_>,
    entries: &[&BootEntry],
    image: &str,
    release: &str,
) -> Vec<Initramfs> {
    let mut paths: Vec<String> = Vec::new();
    let first = entries.iter().filter(|entry| entry.default);
    let rest = entries.iter().filter(|entry| !entry.default);
    for path in first.chain(rest).flat_map(|entry| &entry.initramfs) {
        let real = guest.real_path(path).unwrap_or_else(|| path.clone());
        if !paths.contains(&real) {
            paths.push(real);
        }
    }
    if entries.is_empty() {
        let name = image.rsplit('/').next().unwrap_or_default();
        let suffix = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(release);
        let usual = [
            format!("/boot/initrd.img-{suffix}"),
            format!("/boot/initramfs-{suffix}.img"),
            format!("/boot/initrd-{suffix}"),
            format!("/boot/initrd-{suffix}.img"),
            format!("/boot/initramfs-{suffix}"),
        ];
        paths.extend(usual.into_iter().find(|path| guest.is_file(path)));
    }
    paths.iter().map(|path| examiner.examine(path)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_image_tells_its_release_and_a_broken_one_tells_nothing() {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x180_u16.to_le_bytes());
        image[0x380..0x3a0].copy_from_slice(b"6.8.1-arch1-1 (linux@archlinux) ");
        assert_eq!(told_release(&image).as_deref(), Some("6.8.1-arch1-1"));
        image[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        assert_eq!(told_release(&image), None);
        assert_eq!(told_release(&image[..0x205]), None);
    }
}
