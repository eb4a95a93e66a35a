// SPDX-License-Identifier: Apache-2.0
//! Guests that somebody made to do harm: rings, links outwards, absurd sizes, and files damaged at random.

use super::*;
use crate::files::Directory;
use crate::syntax;

#[test]
fn rings_of_links_and_includes_end() {
    let kernel = "6.1.0-9-amd64";
    let cfg = "menuentry 'One' { configfile /boot/grub/grub.cfg; linux /boot/vmlinuz-6.1.0-9-amd64 $x\n}\nsource /boot/grub/a.cfg\n\
               set x=aaaaaaaaaaaaaaaa\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do set x=\"$x$x$x$x\"; done\n\
               menuentry 'Two' { linux /boot/vmlinuz-6.1.0-9-amd64 $x\n}\nwhile true; do echo; done\n\
               function f { f; g; }\nfunction g { f; }\nfor i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5 6 7 8; do f; done; done\n";
    let found = Phony::new("ID=debian\n")
        .kernel(kernel, "/boot/initrd.img-6.1.0-9-amd64")
        .file("/boot/grub/grub.cfg", cfg)
        .file("/boot/grub/a.cfg", "source /boot/grub/b.cfg\n")
        .file("/boot/grub/b.cfg", "source /boot/grub/a.cfg\n")
        .file(
            "/etc/network/interfaces",
            "source /etc/network/interfaces\nsource-directory /etc/network\niface eth0 inet dhcp\n",
        )
        .link("/etc/network/loop", "loop")
        .link("/etc/crypttab", "crypttab")
        .link("/etc/fstab", "../../../../../../../../etc/fstab")
        .file("/boot/extlinux.conf", "INCLUDE /boot/extlinux.conf\nMENU INCLUDE extlinux.conf\nLABEL a\n")
        .inspect();
    assert!(found.notes.iter().any(|note| note.contains("include each other")), "{:?}", found.notes);
    assert!(found.notes.iter().any(|note| note.contains("too many steps")), "{:?}", found.notes);
    let two = found.boot.entries.iter().find(|entry| entry.title == "Two").unwrap();
    assert_eq!((two.arguments.len(), two.arguments[0].len()), (1, 4096));
    assert_eq!(interface(&found, "eth0").addresses, ["dhcp"]);
}

#[test]
fn entries_and_initramfs_files_without_end_are_cut_off() {
    let kernel = "6.1.0-9-amd64";
    let mut cfg = String::new();
    for entry in 0..40 {
        let words: String = (0..30).map(|file| format!(" /boot/i-{entry}-{file}")).collect();
        cfg += &format!("menuentry 'E{entry}' {{ linux /boot/vmlinuz-{kernel} quiet\ninitrd{words}\n}}\n");
    }
    // Two more loaders' entries, so that they are too many together.
    let mut phony =
        Phony::new("ID=debian\n").kernel(kernel, "/boot/initrd.img").file("/boot/grub/grub.cfg", &cfg);
    for number in 0..1100 {
        let entry = format!("title e{number}\nlinux /boot/vmlinuz-{kernel}\ninitrd /boot/initrd.img\n");
        phony = phony.file(&format!("/boot/loader/entries/{number:04}.conf"), &entry);
    }
    let found = phony.inspect();
    assert!(found.boot.entries.len() <= 1000);
    assert!(found.boot.entries.iter().all(|entry| entry.initramfs.len() <= 16));
    assert!(
        found.notes.iter().any(|note| note.contains("\"E0\" loads 30 initramfs files")),
        "{:?}",
        found.notes
    );
    assert!(found.notes.iter().any(|note| note.contains("over 256 initramfs files")), "{:?}", found.notes);
    let started = &found.kernels[0];
    assert!(started.bootable && started.initramfs.len() >= 640);
    let left = started
        .initramfs
        .iter()
        .filter(|one| one.broken.as_ref().is_some_and(|why| why.starts_with("over 256")));
    assert_eq!(left.count(), started.initramfs.len() - 256);
}

#[test]
fn links_out_of_the_guest_show_the_guest() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("hostname"), "the-host\n").unwrap();
    std::fs::create_dir(outside.path().join("grub")).unwrap();
    std::fs::write(outside.path().join("grub/grub.cfg"), "menuentry host { linux /x }\n").unwrap();
    let guest = tempfile::tempdir().unwrap();
    symlink(outside.path(), guest.path().join("etc")).unwrap();
    symlink(outside.path(), guest.path().join("boot")).unwrap();
    std::fs::create_dir(guest.path().join("usr")).unwrap();
    let files = Directory::open(guest.path()).unwrap();
    // Its /etc is nowhere, so it is no system.
    assert!(crate::inspect::inspect(&files, &Devices::default(), None).is_err());
    std::fs::remove_file(guest.path().join("etc")).unwrap();
    std::fs::create_dir(guest.path().join("etc")).unwrap();
    symlink(outside.path().join("hostname"), guest.path().join("etc/hostname")).unwrap();
    let found = crate::inspect::inspect(&files, &Devices::default(), None).unwrap();
    assert_eq!((found.system.hostname, found.boot.entries.len()), (None, 0));
}

#[test]
fn files_of_absurd_size_are_said_and_left_out() {
    let phony = Phony::new("ID=debian\n").file("/etc/fstab", "").file("/boot/grub/grub.cfg", "");
    let grow = |path: &str, size: u64| {
        let file = fs::File::options().write(true).open(phony.root.path().join(path)).unwrap();
        file.set_len(size).unwrap();
    };
    grow("etc/fstab", 1 << 40);
    grow("boot/grub/grub.cfg", 5 << 20);
    let found = phony.inspect();
    for name in ["/etc/fstab", "/boot/grub/grub.cfg"] {
        assert!(found.notes.iter().any(|note| note.contains(name)), "{name}: {:?}", found.notes);
    }
}

/// A generator that is the same each time (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

/// Damages a text: bytes changed, pieces removed, doubled, or put elsewhere.
fn damaged(text: &[u8], random: &mut Random) -> Vec<u8> {
    const TELLING: [&[u8]; 16] = [
        b"\"", b"'", b"{", b"}", b"\\", b"$", b"${", b"\n", b"=", b"[", b"]", b"#", b"\0", b"\xff", b"; fi",
        b">",
    ];
    let mut bytes = text.to_vec();
    for _ in 0..=random.next(6) {
        let at = random.next(bytes.len() + 1);
        let len = random.next(40).min(bytes.len() - at);
        match random.next(4) {
            0 => drop(bytes.drain(at..at + len)),
            1 => {
                let piece = bytes[at..at + len].to_vec();
                let to = random.next(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            2 => drop(bytes.splice(at..at + len.min(1), TELLING[random.next(TELLING.len())].iter().copied())),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next(256) as u8;
                }
            }
        }
    }
    bytes
}

/// Texts that every parser gets, whoever's they are.
fn texts() -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = vec![
        super::debian::grub_cfg("UUID=x", &["6.1.0-32-amd64", "6.1.0-9-amd64"]).into(),
        super::red_hat::BLS_CFG.into(),
        super::others::uki(&[(".linux", b"x"), (".cmdline", b"root=x"), (".initrd", b"y")], true),
    ];
    for text in [
        "# c\nUUID=1\t/ ext4 errors=remount-ro 0 1\n/dev/sdb1 /my\\040disk auto\n",
        "GRUB_CMDLINE_LINUX=\"a \\\"b\\\"\"\nexport X='y'\nIPADDR1=192.0.2.1\nNETMASK1=255.255.255.0\nA+=b\\\nc\n",
        "[Match]\nMACAddress=52:54:00:12:34:56\n[Network]\nDHCP=yes\n[Link]\nName=x\n",
        "title x\nlinux /v\noptions $kernelopts ${a}\ninitrd /a\nLABEL l\nMENU LABEL m\nAPPEND initrd=/a b\ndefault=0\nroot (hd0,0)\nkernel /v\n",
        "auto lo\niface eth0 inet static\n address 1 \\\n 2\nsource a*\nsource-directory .\n",
        "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:12:34:56\", \\\n NAME=\"eth0\"\n",
        "network:\n  ethernets:\n    a: &x {dhcp4: yes, match: {macaddress: '52:54:00:12:34:56'}, addresses: [1.2.3.4/24]}\n    b: *x\n",
        "# GRUB Environment Block\nsaved_entry=1>2\nkernelopts=root=x \\\n y\n########",
        "ARRAY /dev/md0 UUID=1\n  name=x\nfilter = [ \"a|/dev/sda|\" ]\n",
    ] {
        texts.push(text.into());
    }
    texts
}

#[test]
fn damaged_files_neither_stop_nor_break_any_parser() {
    let mut random = Random(0x5eed_0bad_cafe_f00d);
    for round in 0..4000 {
        let texts = texts();
        let bytes = damaged(&texts[round % texts.len()], &mut random);
        let text = String::from_utf8_lossy(&bytes);
        // Whatever stands somewhere stands there.
        for field in syntax::rows::rows(&text).into_iter().flat_map(|row| row.fields) {
            assert_eq!(syntax::rows::unescaped(&text[field.range]), field.text);
        }
        for one in syntax::assignments::assignments(&text) {
            assert!(text[..one.range.start].ends_with('=') && text.is_char_boundary(one.range.end));
        }
        for entry in syntax::ini::parse(&text).sections.into_iter().flat_map(|section| section.entries) {
            assert_eq!(text[entry.range], entry.value);
        }
        for line in syntax::keywords::parse(&text) {
            assert_eq!(text[line.range], line.value);
        }
        for item in syntax::udev::parse(&text).into_iter().flat_map(|rule| rule.items) {
            assert_eq!(text[item.range], item.value);
        }
        for word in syntax::interfaces::parse(&text).into_iter().flat_map(|stanza| stanza.words) {
            assert_eq!(text[word.range], word.text);
        }
        let script = syntax::grub::parse(&text);
        for command in script.simple() {
            assert!(command.lines.0 <= command.lines.1);
            for word in &command.words {
                assert!(!text[word.range.clone()].is_empty());
            }
        }
        for variable in syntax::grub::env::parse(&text).into_iter().flatten() {
            assert!(text.is_char_boundary(variable.range.start) && text.is_char_boundary(variable.range.end));
        }
        if let Ok(image) = syntax::pe::parse(&bytes) {
            assert!(image.sections.iter().all(|section| section.range.end <= bytes.len()));
        }
    }
}

#[test]
fn a_guest_of_damaged_files_is_inspected_all_the_same() {
    let mut random = Random(0xdead_beef_0000_0001);
    let places = [
        "/boot/grub/grub.cfg",
        "/boot/grub2/grub.cfg",
        "/efi/EFI/Linux/a.efi",
        "/etc/fstab",
        "/etc/default/grub",
        "/etc/systemd/network/a.link",
        "/boot/loader/entries/a.conf",
        "/etc/network/interfaces",
        "/etc/udev/rules.d/70-persistent-net.rules",
        "/etc/netplan/a.yaml",
        "/boot/grub/grubenv",
        "/etc/mdadm.conf",
    ];
    for _ in 0..60 {
        let mut phony = Phony::new("ID=x\n")
            .file("/boot/grub/menu.lst", "default=0\n")
            .kernel("6.1.0", "/boot/initrd-6.1.0");
        let texts = texts();
        for (index, place) in places.iter().enumerate() {
            // Mostly the file that belongs there.
            let source = if random.next(8) == 0 { random.next(texts.len()) } else { index };
            phony = phony.file(place, damaged(&texts[source], &mut random));
        }
        let found = phony.inspect();
        assert!(found.notes.len() <= 100);
        assert!(found.boot.entries.iter().filter(|entry| entry.default).count() <= 1);
    }
}
