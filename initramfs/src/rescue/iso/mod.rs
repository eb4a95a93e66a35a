// SPDX-License-Identifier: Apache-2.0
//! A bootable CD image of the rescue environment, for BIOS and UEFI, that also starts from a USB disk.
//!
//! ```text
//!   BIOS, CD    El Torito: isolinux.bin -> isolinux.cfg -> /vmlinuz, /initramfs
//!   BIOS, disk  MBR: isohdpfx.bin -> the same isolinux.bin
//!   UEFI        El Torito or partition 2: a FAT image with shim and GRUB, both signed -> grub.cfg -> the same files
//! ```
//!
//! GRUB is Debian's for CDs (gcdx64.efi.signed), which looks for /.disk/info and takes grub.cfg from where that is: so Secure Boot
//! stays on, as Debian's kernels are signed too.

mod fat;
mod volume;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use unmoor_images::{Error, Result};

use super::payload::Payload;
use volume::{Boot, Volume};

/// The kernel's command line where the caller has no other: both consoles, the serial one last, so that it is /dev/console.
pub const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 quiet unmoor.net=dhcp";

/// Boot loader file, Debian package that has it, and the firmware that it is for.
const LOADERS: [(&str, &str); 6] = [
    ("ISOLINUX/isolinux.bin", "isolinux"),
    ("ISOLINUX/isohdpfx.bin", "isolinux"),
    ("syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
    ("shim/shimx64.efi.signed", "shim-signed"),
    ("shim/mmx64.efi.signed", "shim-helpers-amd64-signed"),
    ("grub/x86_64-efi-signed/gcdx64.efi.signed", "grub-efi-amd64-signed"),
];

/// Writes the image to `out`. `command_line` is the kernel's.
///
/// # Errors
///
/// `Refused` where the payload lacks a boot loader, saying which packages have it; `Io`.
pub fn write(
    kernel: &Path,
    initramfs: &Path,
    payload: &Payload,
    command_line: &str,
    out: &Path,
) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| Error::io("reading", error).path(path));
    let image = image(read(kernel)?, read(initramfs)?, payload, command_line)?;
    let failed = |error| Error::io("writing", error).path(out);
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let written = std::fs::File::create(&partial)
        .and_then(|mut file| file.write_all(&image))
        .and_then(|()| std::fs::rename(&partial, out));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        failed(error)
    })
}

fn image(kernel: Vec<u8>, initramfs: Vec<u8>, payload: &Payload, command_line: &str) -> Result<Vec<u8>> {
    if command_line.chars().any(|char| char.is_control() || matches!(char, '\'' | '"' | '$' | '\\' | ';')) {
        return Err(Error::refused(
            "writing the kernel's command line into the boot loaders' configuration",
            "quotes, $, ; and \\ mean something to GRUB: leave them out",
        ));
    }
    let missing: Vec<&str> = LOADERS
        .iter()
        .filter(|(path, _)| !payload.contains_key(*path))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        return Err(Error::refused(
            "looking for boot loaders",
            format!(
                "the payload lacks those of the Debian packages {}: apt-get download them, and name their folder with \
                 --payload",
                missing.join(", ")
            ),
        ));
    }
    let loader = |path: &str| payload.get(path).cloned().unwrap_or_default();
    let grub = format!(
        "search --no-floppy --set=root --file /.disk/info\nset timeout=0\nmenuentry 'unmoor' {{\n  linux /vmlinuz {command_line}\n  \
         initrd /initramfs\n}}\n"
    );
    let isolinux = format!(
        "SERIAL 0 115200\nDEFAULT unmoor\nPROMPT 0\nLABEL unmoor\n  KERNEL /vmlinuz\n  INITRD /initramfs\n  APPEND {command_line}\n"
    );
    let esp = fat::image(&[
        ("BOOTX64 EFI", loader("shim/shimx64.efi.signed")),
        // The name under which shim looks for its second stage, beside itself.
        ("GRUBX64 EFI", loader("grub/x86_64-efi-signed/gcdx64.efi.signed")),
        ("MMX64   EFI", loader("shim/mmx64.efi.signed")),
        ("GRUB    CFG", grub.clone().into_bytes()),
    ])?;
    let files = BTreeMap::from([
        (".disk/info", format!("unmoor {}\n", env!("CARGO_PKG_VERSION")).into_bytes()),
        ("boot/grub/grub.cfg", grub.into_bytes()),
        ("isolinux/isolinux.bin", loader("ISOLINUX/isolinux.bin")),
        ("isolinux/isolinux.cfg", isolinux.into_bytes()),
        ("isolinux/ldlinux.c32", loader("syslinux/modules/bios/ldlinux.c32")),
        ("isolinux/efi.img", esp),
        ("vmlinuz", kernel),
        ("initramfs", initramfs),
    ]);
    let boot = Boot {
        bios: "isolinux/isolinux.bin",
        uefi: "isolinux/efi.img",
        mbr: loader("ISOLINUX/isohdpfx.bin"),
    };
    Volume::new("UNMOOR", files)?.image(&boot)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_missing_boot_loader_is_named_by_its_package() {
        let error = image(vec![1], vec![2], &Payload::new(), COMMAND_LINE).unwrap_err().chain();
        assert!(error.contains("isolinux") && error.contains("shim-helpers-amd64-signed"), "{error}");
        let error = image(vec![1], vec![2], &Payload::new(), "a; reboot").unwrap_err();
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused);
    }

    #[test]
    fn other_readers_see_the_files_and_the_boot_images() {
        let payload: Payload =
            LOADERS.iter().map(|(path, _)| ((*path).to_owned(), path.repeat(4000).into_bytes())).collect();
        let kernel: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let image = image(kernel.clone(), b"initramfs".to_vec(), &payload, COMMAND_LINE).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.iso");
        std::fs::write(&path, &image).unwrap();
        let xorriso = |arguments: &[&str]| {
            let done = std::process::Command::new("xorriso").args(arguments).output();
            done.unwrap_or_else(|error| unreachable!("xorriso is needed for this test: {error}"))
        };
        let path = path.to_str().unwrap();
        let listed = xorriso(&[
            "-indev",
            path,
            "-report_el_torito",
            "plain",
            "-find",
            "/",
            "-type",
            "f",
            "-exec",
            "lsdl",
        ]);
        let said =
            String::from_utf8_lossy(&listed.stdout).into_owned() + &String::from_utf8_lossy(&listed.stderr);
        for expected in [
            "/vmlinuz",
            "/initramfs",
            "/isolinux/isolinux.cfg",
            "/.disk/info",
            "BIOS  y   none",
            "UEFI  y   none",
        ] {
            assert!(said.to_lowercase().contains(&expected.to_lowercase()), "{expected}: {said}");
        }
        let out = folder.path().join("out");
        let extracted =
            xorriso(&["-osirrox", "on", "-indev", path, "-extract", "/VMLINUZ", out.to_str().unwrap()]);
        assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
        assert!(std::fs::read(out).unwrap() == kernel);
    }
}
