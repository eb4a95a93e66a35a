// SPDX-License-Identifier: Apache-2.0
//! What the kernel calls /sbin/modprobe for (kernel/module/kmod.c): `modprobe -q -- fs-xfs`.

use super::load::Loader;

/// Loads what the arguments name; the exit status, which the kernel looks at no closer than zero or not.
pub fn modprobe(arguments: impl IntoIterator<Item = String>) -> u8 {
    let Ok(loader) = Loader::new() else { return 1 };
    let names = arguments.into_iter().skip(1).filter(|argument| !argument.starts_with('-'));
    let mut status = 0;
    for name in names {
        if !loader.load(&name) {
            status = 1;
        }
    }
    status
}

/// Whether this program was called as modprobe.
pub fn is_modprobe() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&name).file_name().is_some_and(|name| name == "modprobe")
}
