// SPDX-License-Identifier: Apache-2.0
//! Initramfs images of every compression with an archive of ours behind them, given to a real kernel: its answer to what
//! `unmoor_initramfs::archive` says that the kernel would unpack.

use crate::lab::appliance;
use crate::lab::hardware::{Bus, Chipset, Firmware};
use crate::lab::qemu::{Kernel, Machine};
use crate::lab::{Scratch, read_text};
use crate::run::{Failure, Result, While, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use unmoor_initramfs::archive::{self, Addition, Limits, Writer};

const INIT: &str = include_str!("../../../tests/lab/initramfs-init.c");

/// What makes the image: the kernel takes no other kinds of xz and lz4.
const COMPRESSORS: [(&str, &str); 6] = [
    ("none", "cat"),
    ("gzip", "gzip -n9"),
    ("xz", "xz --check=crc32"),
    ("lzma", "xz --format=lzma"),
    ("zstd", "zstd -q -19"),
    ("lz4", "lz4 -l -9 -c"),
];

/// What init must say.
const EXPECTED: [&str; 7] = [
    "LAB /lib leads to usr/lib",
    "LAB /usr/lib/kept has mode 644, 5 bytes: kept",
    "LAB /lib/new/deep/file has mode 644, 4 bytes: new",
    "LAB /etc/replaced has mode 644, 6 bytes: after",
    "LAB /etc/link leads to replaced",
    "LAB /etc/script has mode 755, 7 bytes: script",
    "LAB end",
];

/// The names of the compressions.
pub(crate) fn compressions() -> impl Iterator<Item = &'static str> {
    COMPRESSORS.iter().map(|(name, _)| *name)
}

/// Boots an image of that compression with an archive appended; the appliance's kernel unless another is named.
pub(crate) fn boot(compression: &str, kernel: Option<&Path>) -> Result {
    let program = COMPRESSORS
        .iter()
        .find(|(name, _)| *name == compression)
        .map(|(_, program)| *program)
        .ok_or_else(|| Failure::new(format!("there is no compression {compression}")))?;
    let scratch = Scratch::new("initramfs")?;
    let folder = scratch.path();
    let image = image(folder, program).while_doing(format_args!("making an initramfs with {program}"))?;
    let kernel = match kernel {
        Some(kernel) => kernel.to_owned(),
        None => appliance::built()?.join("vmlinuz"),
    };
    let mut machine = Machine::new(Chipset::Q35, Firmware::Bios, Bus::Virtio, Vec::new());
    machine.memory_mib = 256;
    machine.kernel = Some(Kernel {
        image: kernel,
        initramfs: image,
        command_line: "console=ttyS0 no_timer_check panic=-1".to_owned(),
    });
    machine.run(folder, Duration::from_secs(180))?;
    let console = read_text(&folder.join("console"))?;
    let said: Vec<&str> = console
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("LAB ") || line.contains("nitramfs unpacking failed"))
        .collect();
    if said != EXPECTED {
        return Err(Failure::new(format!("{compression}: the kernel's init said {said:#?}")));
    }
    Ok(())
}

/// The image's file: a base system of the least size, packed by `program`, and what is appended to it.
fn image(folder: &Path, program: &str) -> Result<std::path::PathBuf> {
    let (source, init) = (folder.join("init.c"), folder.join("init"));
    std::fs::write(&source, INIT).while_doing(format_args!("writing {}", source.display()))?;
    run(Command::new("gcc").args(["-static", "-O1", "-w", "-o"]).arg(&init).arg(&source))?;
    let init = std::fs::read(&init).while_doing("reading the init program")?;
    let failed = |error: unmoor_images::Error| Failure::new(error.chain());
    let base = || -> std::result::Result<Vec<u8>, unmoor_images::Error> {
        let mut base = Writer::new(0);
        base.file("init", 0o755, &init)?;
        base.directory("usr", 0o755)?;
        base.directory("usr/lib", 0o755)?;
        base.link("lib", "usr/lib")?;
        base.file("usr/lib/kept", 0o644, b"kept\n")?;
        base.directory("etc", 0o755)?;
        base.file("etc/replaced", 0o600, b"before, and longer\n")?;
        base.finish()
    };
    let (plain, packed) = (folder.join("plain"), folder.join("image"));
    std::fs::write(&plain, base().map_err(failed)?)
        .while_doing(format_args!("writing {}", plain.display()))?;
    run(Command::new("sh").args(["-ec", &format!("{program} < plain > image")]).current_dir(folder))?;
    let mut image = std::fs::read(&packed).while_doing(format_args!("reading {}", packed.display()))?;
    let read = archive::read(&image, &Limits::default()).map_err(failed)?;
    let additions = [
        Addition::file("lib/new/deep/file", *b"new\n"),
        Addition::file("etc/replaced", *b"after\n"),
        Addition::Link { path: "etc/link".to_owned(), target: "replaced".to_owned() },
        Addition::File { path: "etc/script".to_owned(), mode: 0o755, content: b"script\n".to_vec() },
    ];
    image.extend(archive::append(&image, &read, &additions, 0).map_err(failed)?);
    std::fs::write(&packed, image).while_doing(format_args!("writing {}", packed.display()))?;
    Ok(packed)
}
