// SPDX-License-Identifier: Apache-2.0
//! Damaged binaries, lists and configurations never panic or hang.

use unmoor_images::parse::Bytes;

use super::payload;
use crate::firmware::grub::{binary, config, modules, reads};

/// Bytes that differ at random places, for ever the same.
fn damaged(bytes: &[u8], rounds: u64, mut judge: impl FnMut(&[u8])) {
    let mut noise = 99u64;
    let mut copy = bytes.to_vec();
    for _ in 0..rounds {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (noise >> 33) as usize % copy.len();
        let was = copy[at];
        copy[at] = (noise >> 20) as u8;
        judge(&copy);
        copy[at] = was;
        judge(&bytes[..at]);
    }
}

#[test]
fn damaged_binaries_lists_and_menus_are_read_or_not() {
    let payload = payload();
    let grub = &payload["grub/x86_64-efi-signed/grubx64.efi.signed"];
    let at = grub.windows(4).rposition(|window| window == b"mimg").unwrap();
    // Objects before the prefix are whole modules: only their headers matter.
    let part = &grub[at..];
    assert!(Bytes::new(part, "").u32_le(0).is_ok());
    damaged(part.get(..4096).unwrap(), 2000, |bytes| {
        let _ = binary::prefix(bytes);
        let _ = binary::version(bytes);
    });
    let list = &payload["grub/i386-pc/moddep.lst"];
    damaged(list, 500, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let closure = modules::Dependencies::parse(&text).closure(["normal", "lvm", "luks2"]);
        assert!(closure.len() < 1000);
        let _ = modules::commands(&text);
    });
    let menu = super::machine::menu("x", "linux16 /a\ninitrdefi /b\n");
    damaged(menu.as_bytes(), 500, |bytes| {
        let _ = config::plain_commands(bytes);
        let _ = modules::named(&String::from_utf8_lossy(bytes), &Default::default());
        let _ = reads::Version::parse(&String::from_utf8_lossy(bytes));
    });
}
