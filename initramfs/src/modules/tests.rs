// SPDX-License-Identifier: Apache-2.0
//! Against kmod: what depmod writes for modules that a compiler made, and what modprobe makes of the indexes that we write.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

/// Name and place, what it exports, what it uses, what it says of itself.
type Recipe =
    (&'static str, &'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

const MODULES: &[Recipe] = &[
    ("virtio", "drivers/virtio", &["register_virtio_driver", "virtio_find"], &[], &[]),
    ("virtio_ring", "drivers/virtio", &["vring_new"], &["register_virtio_driver"], &[]),
    (
        "virtio_pci",
        "drivers/virtio",
        &[],
        &["vring_new", "virtio_find"],
        &["alias=pci:v00001AF4d*sv*sd*bc*sc*i*", "parm=force_legacy:no"],
    ),
    (
        "virtio-blk",
        "drivers/block",
        &[],
        &["vring_new", "register_virtio_driver"],
        &["alias=virtio:d00000002v*"],
    ),
    ("scsi_mod", "drivers/scsi", &["scsi_add_host"], &[], &["alias=char-major-21-*"]),
    ("sd_mod", "drivers/scsi", &[], &["scsi_add_host"], &["alias=scsi:t-0x00*", "alias=scsi:t-0x07*"]),
    (
        "ahci",
        "drivers/ata",
        &[],
        &["scsi_add_host"],
        &["alias=pci:v*d*sv*sd*bc01sc06i01*", "softdep=post: sd_mod"],
    ),
    ("crc32c_generic", "crypto", &[], &[], &["alias=crypto-crc32c", "alias=crc32c"]),
    (
        "crc32c-intel",
        "arch/x86/crypto",
        &[],
        &[],
        &["alias=crypto-crc32c", "alias=cpu:type:x86,ven*fam*mod*:feature:*0094*"],
    ),
    ("ext4", "fs", &[], &[], &["alias=fs-ext4", "softdep=pre: crc32c post: loop", "alias=ext[2-4]"]),
    ("loop", "drivers/block", &[], &[], &["alias=devname:loop-control", "alias=char-major-10-237"]),
];

const RELEASE: &str = "6.1.0-test";

/// Compiles the modules to `root`/lib/modules, and lets depmod index them.
fn kernel(root: &Path) {
    let directory = root.join("lib/modules").join(RELEASE);
    let mut order = String::new();
    for (name, place, exports, uses, says) in MODULES {
        let mut code = format!("char name[] __attribute__((section(\".modinfo\"))) = \"name={name}\";\n");
        for (number, text) in says.iter().enumerate() {
            code += &format!("char say{number}[] __attribute__((section(\".modinfo\"))) = \"{text}\";\n");
        }
        if !exports.is_empty() {
            code += &format!(
                "char strings[] __attribute__((section(\"__ksymtab_strings\"))) = \"{}\";\n",
                exports.join("\\0")
            );
        }
        for symbol in *exports {
            code += &format!("void {symbol}(void) {{}}\n");
        }
        for symbol in *uses {
            code += &format!("extern void {symbol}(void); void use_{symbol}(void) {{ {symbol}(); }}\n");
        }
        let folder = directory.join("kernel").join(place);
        fs::create_dir_all(&folder).unwrap();
        let (source, object) = (root.join("module.c"), folder.join(format!("{name}.ko")));
        fs::write(&source, code).unwrap();
        run(Command::new("gcc")
            .args(["-c", "-w", "-fno-pic", "-mcmodel=kernel", "-o"])
            .arg(object)
            .arg(&source));
        order += &format!("kernel/{place}/{name}.ko\n");
    }
    fs::write(directory.join("modules.order"), order).unwrap();
    fs::write(
        directory.join("modules.builtin"),
        "kernel/fs/xfs/xfs.ko\nkernel/drivers/nvme/nvme-core.ko\nkernel/drivers/nvme/nvme.ko\n",
    )
    .unwrap();
    let told = "xfs.alias=fs-xfs\0xfs.license=GPL\0nvme_core.file=x\0nvme.alias=pci:v*d*sv*sd*bc01sc08i02*\0nvme.file=y\0";
    fs::write(directory.join("modules.builtin.modinfo"), told).unwrap();
    run(Command::new("depmod").args(["-b", root.to_str().unwrap(), RELEASE]));
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn directory() -> String {
    format!("lib/modules/{RELEASE}")
}

fn tree(root: &Path) -> ModuleTree {
    ModuleTree::read(&Folder(root.to_owned()), &directory()).unwrap()
}

/// What modprobe would load for `name`, by file name.
fn modprobe(root: &Path, name: &str) -> Vec<String> {
    let shown = run(Command::new("modprobe").args([
        "-d",
        root.to_str().unwrap(),
        "-S",
        RELEASE,
        "-a",
        "--show-depends",
        name,
    ]));
    let mut names: Vec<String> = Vec::new();
    for line in shown.lines().filter(|line| line.starts_with("insmod ")) {
        let name = name_of(line.split_whitespace().nth(1).unwrap()).unwrap();
        // What is loaded already is shown again, and not loaded again.
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[test]
fn the_indexes_are_those_of_depmod() {
    let root = tempfile::tempdir().unwrap();
    kernel(root.path());
    for (name, ours) in tree(root.path()).indexes().unwrap() {
        let theirs = fs::read(root.path().join(directory()).join(name)).unwrap();
        if name.ends_with(".bin") {
            assert_eq!(index::read(&ours).unwrap(), index::read(&theirs).unwrap(), "{name}");
            assert_eq!(ours, theirs, "{name}");
        } else {
            let lines = |bytes: &[u8]| -> Vec<String> {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                let mut lines: Vec<String> =
                    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(lines(&ours), lines(&theirs), "{name}");
        }
    }
}

#[test]
fn drivers_and_their_order_are_those_of_modprobe() {
    let root = tempfile::tempdir().unwrap();
    kernel(root.path());
    let tree = tree(root.path());
    for name in [
        "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00",
        "virtio:d00000002v00001AF4",
        "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
        "scsi:t-0x00",
        "fs-ext4",
        "ext3",
        "virtio-blk",
        "virtio_blk",
        "crypto-crc32c",
        "char-major-21-5",
        "symbol:scsi_add_host",
    ] {
        let theirs = modprobe(root.path(), name);
        assert!(!theirs.is_empty(), "{name}");
        let symbols =
            tree.symbols.iter().filter(|(symbol, _)| symbol == name).map(|(_, module)| module.clone());
        let names: Vec<String> = tree.drivers_for(name).into_iter().chain(symbols).collect();
        assert_eq!(tree.closure(&names).order, theirs, "{name}");
    }
    assert_eq!(tree.drivers_for("pci:v0000144Dd0000A80Asv0sd0bc01sc08i02"), ["nvme"]);
    assert!(tree.is_builtin("nvme") && tree.is_builtin("nvme-core"));
    assert!(tree.closure(["fs-xfs", "nvme"]).order.is_empty());
    assert_eq!(tree.closure(["nothing"]).missing, ["nothing"]);
    assert!(tree.drivers_for("pci:v00001234d00000000sv0sd0bc03sc00i00").is_empty());
}

#[test]
fn without_indexes_the_modules_themselves_are_asked() {
    let root = tempfile::tempdir().unwrap();
    kernel(root.path());
    let indexed = tree(root.path());
    let place = root.path().join(directory());
    for name in ["modules.dep", "modules.alias", "modules.softdep"] {
        fs::remove_file(place.join(name)).unwrap();
    }
    run(Command::new("sh").current_dir(&place).args([
        "-ec",
        "xz --check=crc32 kernel/fs/ext4.ko; zstd -q --rm kernel/drivers/block/loop.ko; gzip kernel/drivers/ata/ahci.ko",
    ]));
    let asked = tree(root.path());
    assert_eq!(asked.modules().count(), MODULES.len());
    for module in asked.modules() {
        let alias = |tree: &ModuleTree| -> Vec<String> {
            let mut found: Vec<String> = tree
                .aliases
                .iter()
                .filter(|(_, name)| *name == module.name)
                .map(|(pattern, _)| pattern.clone())
                .collect();
            found.sort();
            found
        };
        assert_eq!(alias(&asked), alias(&indexed), "{}", module.name);
        assert_eq!(asked.softdep(&module.name), indexed.softdep(&module.name), "{}", module.name);
    }
    assert_eq!(asked.module("ext4").unwrap().path, "kernel/fs/ext4.ko.xz");
}

#[test]
fn modprobe_reads_the_indexes_of_an_initramfs_that_got_a_module() {
    let root = tempfile::tempdir().unwrap();
    kernel(root.path());
    let tree = tree(root.path());
    // The initramfs holds some modules, one under another name, and gets virtio_blk.
    let image = tempfile::tempdir().unwrap();
    let place = image.path().join(directory());
    let mut paths = BTreeMap::new();
    for name in ["virtio", "virtio_ring", "virtio_blk", "ext4", "crc32c_generic"] {
        let from = &tree.module(name).unwrap().path;
        let to = if name == "ext4" { "kernel/fs/ext4/ext4.ko" } else { from };
        fs::create_dir_all(place.join(to).parent().unwrap()).unwrap();
        fs::copy(root.path().join(directory()).join(from), place.join(to)).unwrap();
        paths.insert(name.to_owned(), to.to_owned());
    }
    let (union, unknown) = tree.with_paths(&paths);
    assert!(unknown.is_empty());
    for (name, bytes) in union.indexes().unwrap() {
        fs::write(place.join(name), bytes).unwrap();
    }
    assert_eq!(modprobe(image.path(), "virtio:d00000002v00001AF4"), ["virtio", "virtio_ring", "virtio_blk"]);
    assert_eq!(modprobe(image.path(), "fs-ext4"), ["crc32c_generic", "ext4"]);
    let shown = Command::new("modprobe")
        .args(["-d", image.path().to_str().unwrap(), "-S", RELEASE, "--show-depends", "ahci"])
        .output()
        .unwrap();
    assert!(!shown.status.success(), "what is not there is not promised");
}

#[test]
fn patterns_are_those_of_fnmatch() {
    // Pattern, text, and what fnmatch(3) of glibc says.
    let patterns = [
        "a*b", "*", "?", "a[b-d]e", "a[!b]", "[]a]", "a[", "a\\*", "a*b*c*d", "", "x-y", "**a", "a[-b]c",
        "[^a]x",
    ];
    let texts = [
        "", "a", "ab", "axxb", "ace", "aze", "ac", "]", "a[", "a*", "abcd", "aXbYcZd", "x_y", "[a_", "a-c",
        "abc", "bx",
    ];
    for pattern in patterns {
        for text in texts {
            let (c_pattern, c_text) = (normal(pattern), text.to_owned());
            let theirs = fnmatch(&c_pattern, &c_text);
            assert_eq!(pattern::matches(pattern, text), theirs, "{pattern:?} {text:?}");
        }
    }
    let hostile = "*a".repeat(200) + "b";
    assert!(!pattern::matches(&hostile, &"a".repeat(2000)));
}

fn fnmatch(pattern: &str, text: &str) -> bool {
    let pattern = std::ffi::CString::new(pattern).unwrap();
    let text = std::ffi::CString::new(text).unwrap();
    // SAFETY: both are strings that end in a zero byte and outlive the call.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}

#[test]
fn damaged_objects_and_indexes_are_errors_and_never_more() {
    let root = tempfile::tempdir().unwrap();
    kernel(root.path());
    let place = root.path().join(directory());
    let object = fs::read(place.join("kernel/fs/ext4.ko")).unwrap();
    let index = fs::read(place.join("modules.alias.bin")).unwrap();
    assert!(information(&object).unwrap().contains(&("alias".into(), "fs-ext4".into())));
    let mut state = 1u64;
    let mut random = move |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    let (mut fine, mut bad) = (0, 0);
    for _ in 0..20_000 {
        for (bytes, is_index) in [(&object, false), (&index, true)] {
            let mut bytes = bytes.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            if random(4) == 0 {
                bytes.truncate(random(bytes.len()));
            }
            let answer = if is_index { index::read(&bytes).map(drop) } else { information(&bytes).map(drop) };
            match answer {
                Ok(()) => fine += 1,
                Err(_) => bad += 1,
            }
        }
    }
    assert!(fine > 1000 && bad > 1000, "{fine} {bad}");
}
