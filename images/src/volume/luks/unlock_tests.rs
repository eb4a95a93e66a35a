// SPDX-License-Identifier: Apache-2.0
//! Volume keys against those that cryptsetup tells.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::ErrorKind;
use crate::volume::lvm::tests::Disk;

const PASSPHRASE: &str = "correct horse battery staple";

/// Runs cryptsetup with `secret` on its standard input.
fn cryptsetup(arguments: &[&str], secret: &str) -> String {
    let mut child = Command::new("cryptsetup")
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cryptsetup: {error}; this test needs the Debian package cryptsetup-bin")
        });
    child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A container made by cryptsetup with `options`.
fn container(options: &[&str]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(24 << 20).unwrap();
    let path = file.path().to_str().unwrap();
    let arguments = [&["luksFormat", "-q", "--key-file", "-"], options, &[path]].concat();
    cryptsetup(&arguments, PASSPHRASE);
    file
}

fn read(file: &tempfile::NamedTempFile) -> Disk {
    Disk(std::fs::read(file.path()).unwrap())
}

/// The volume key and other facts as cryptsetup dumps them.
fn dumped(file: &tempfile::NamedTempFile) -> (Vec<u8>, String) {
    let path = file.path().to_str().unwrap();
    let text = cryptsetup(&["luksDump", "-q", "--dump-volume-key", "--key-file", "-", path], PASSPHRASE);
    let (_, dump) = text.split_once("MK dump:").unwrap();
    let digits: String = dump.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    ((0..digits.len()).step_by(2).map(byte).collect(), text)
}

const QUICK: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
const ARGON: [&str; 6] =
    ["--pbkdf-force-iterations", "4", "--pbkdf-memory", "32768", "--pbkdf-parallel", "2"];

#[test]
fn volume_keys_are_those_that_cryptsetup_tells() {
    let variants: [(&[&str], &[&str]); 10] = [
        (&["--type", "luks1", "--hash", "sha1", "--cipher", "aes-xts-plain64", "--key-size", "256"], &QUICK),
        (
            &["--type", "luks1", "--hash", "sha256", "--cipher", "aes-xts-plain64", "--key-size", "512"],
            &QUICK,
        ),
        (
            &["--type", "luks1", "--hash", "sha512", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"],
            &QUICK,
        ),
        (
            &["--type", "luks1", "--hash", "sha256", "--cipher", "aes-cbc-plain64", "--key-size", "128"],
            &QUICK,
        ),
        (&["--type", "luks2", "--sector-size", "512"], &QUICK),
        (&["--type", "luks2", "--hash", "sha512", "--key-size", "256"], &QUICK),
        (&["--type", "luks2", "--sector-size", "4096"], &QUICK),
        (&["--type", "luks2", "--pbkdf", "argon2id"], &ARGON),
        (&["--type", "luks2", "--pbkdf", "argon2i", "--hash", "sha1"], &ARGON),
        (&["--type", "luks2", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"], &QUICK),
    ];
    for (options, cost) in variants {
        let file = container(&[options, cost].concat());
        let (key, text) = dumped(&file);
        let disk = read(&file);
        let found = unlock(&disk, PASSPHRASE.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(*found.key, key, "{options:?}");
        let field =
            |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or("").trim();
        let cipher = format!("{}-{}", field("Cipher name:"), field("Cipher mode:"));
        assert_eq!(found.cipher, cipher, "{text}");
        let offset =
            field("Payload offset:").split_whitespace().next().unwrap_or("0").parse::<u64>().unwrap();
        assert_eq!(found.offset / 512, offset, "{text}");
        let plain = cryptsetup(&["luksDump", file.path().to_str().unwrap()], "");
        let sector = plain.lines().find_map(|line| line.trim().strip_prefix("sector: "));
        let sector = sector.and_then(|line| line.split(' ').next()).unwrap_or("512");
        assert_eq!(found.sector_size.to_string(), sector, "{plain}");
        let wrong = unlock(&disk, b"correct horse battery stapler", &Limits::default()).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Refused, "{}", wrong.chain());
    }
}

#[test]
fn a_key_file_in_another_slot_opens_too_and_a_removed_slot_does_not() {
    for kind in ["luks1", "luks2"] {
        let file = container(&[&["--type", kind][..], &QUICK].concat());
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("key");
        let secret: Vec<u8> = (0..64u8).map(|byte| byte.wrapping_mul(37) ^ 0x80).collect();
        std::fs::write(&key_file, &secret).unwrap();
        let path = file.path().to_str().unwrap();
        let add = ["luksAddKey", "-q", "--key-file", "-", path, key_file.to_str().unwrap()];
        cryptsetup(&[&add[..], &QUICK].concat(), PASSPHRASE);
        let (key, _) = dumped(&file);
        assert_eq!(*unlock(&read(&file), &secret, &Limits::default()).unwrap().key, key);
        cryptsetup(&["luksKillSlot", "-q", path, "0"], "");
        assert!(unlock(&read(&file), PASSPHRASE.as_bytes(), &Limits::default()).is_err());
        assert_eq!(*unlock(&read(&file), &secret, &Limits::default()).unwrap().key, key);
    }
}

#[test]
fn the_second_header_serves_where_the_first_is_damaged() {
    let file = container(&[&["--type", "luks2"][..], &QUICK].concat());
    let (key, _) = dumped(&file);
    let mut disk = read(&file);
    disk.0[5000] ^= 1;
    assert_eq!(*unlock(&disk, PASSPHRASE.as_bytes(), &Limits::default()).unwrap().key, key);
    disk.0[0x4000 + 5000] ^= 1;
    let error = unlock(&disk, PASSPHRASE.as_bytes(), &Limits::default()).unwrap_err();
    assert!(error.chain().contains("checksum mismatch"), "{}", error.chain());
}

#[test]
fn what_is_not_handled_is_refused_by_name_and_cost_is_bounded() {
    let disk = read(&container(&[&["--type", "luks2", "--pbkdf", "argon2id"][..], &ARGON].concat()));
    let little = Limits { memory: 16 << 20, ..Limits::default() };
    let error = unlock(&disk, PASSPHRASE.as_bytes(), &little).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains("needs 32 MiB of memory"), "{}", error.chain());
    let short = Limits { work: 999, ..Limits::default() };
    let disk = read(&container(&[&["--type", "luks1"][..], &QUICK].concat()));
    let error = unlock(&disk, PASSPHRASE.as_bytes(), &short).unwrap_err();
    assert!(error.chain().contains("iterations of PBKDF2"), "{}", error.chain());
    let serpent = ["--type", "luks2", "--hash", "ripemd160"];
    let disk = read(&container(&[&serpent[..], &QUICK].concat()));
    let error = unlock(&disk, PASSPHRASE.as_bytes(), &Limits::default()).unwrap_err();
    assert!(error.chain().contains("ripemd160"), "{}", error.chain());
}

/// Makes a LUKS2 header's checksum right again.
fn seal(disk: &mut Disk, at: usize) {
    use sha2::{Digest, Sha256};
    let len = u64::from_be_bytes(disk.0[at + 8..at + 16].try_into().unwrap()) as usize;
    let Some(header) = disk.0.get_mut(at..at + len.clamp(4096, 4 << 20)) else { return };
    header[448..512].fill(0);
    let digest = Sha256::digest(&*header);
    header[448..480].copy_from_slice(&digest);
}

#[test]
fn damaged_headers_never_panic_and_cost_little() {
    let limits = Limits { memory: 64 << 20, work: 1 << 16 };
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for (kind, head) in [("luks1", 592), ("luks2", 0x4000)] {
        let disk = read(&container(&[&["--type", kind][..], &QUICK].concat()));
        let text_end = disk.0[..head].iter().rposition(|&byte| byte != 0).unwrap();
        let (mut opened, mut failed) = (0, 0);
        for _ in 0..400 {
            let mut damaged = Disk(disk.0[..4 << 20].to_vec());
            for _ in 0..1 + random(2) {
                let at = if kind == "luks2" { 4096 + random(text_end - 4096) } else { random(text_end) };
                damaged.0[at] = match random(4) {
                    0 => damaged.0[at] ^ (1 << random(8)),
                    1 => b"0123456789-\"{}[],:"[random(18)],
                    2 => 0xff,
                    _ => damaged.0[random(head)],
                };
            }
            if kind == "luks2" {
                seal(&mut damaged, 0);
                damaged.0[0x4000..0x4006].fill(0);
            }
            match unlock(&damaged, PASSPHRASE.as_bytes(), &limits) {
                Ok(_) => opened += 1,
                Err(error) => {
                    failed += 1;
                    assert!(error.chain().len() < 1000, "{}", error.chain());
                }
            }
        }
        // Damage has to reach what matters, and to leave some of it alone.
        assert!(opened > 3 && failed > 100, "{kind}: {opened} opened, {failed} failed");
    }
}
