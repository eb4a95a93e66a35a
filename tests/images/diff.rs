// SPDX-License-Identifier: Apache-2.0
//! `unmoor images diff`, against what the kernel shows of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::common::{Scene, noise, run, tool};
use crate::support::{disk, json, mounted, store, text};

/// A file as the kernel shows it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
    content: Vec<u8>,
}

/// All files below `root`, by path.
fn listing(root: &Path) -> BTreeMap<String, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = match metadata.file_type() {
                kind if kind.is_dir() => {
                    waiting.push(path.clone());
                    Vec::new()
                }
                kind if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
                }
                kind if kind.is_file() => fs::read(&path).unwrap(),
                _ => Vec::new(),
            };
            let seen = Seen {
                kind: metadata.mode() & 0o170_000,
                mode: metadata.mode() & 0o7777,
                owner: (metadata.uid(), metadata.gid()),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
                content,
            };
            found.insert(format!("/{}", text(path.strip_prefix(root).unwrap())), seen);
        }
    }
    found
}

/// Path, and how it differs: what `unmoor images diff` must say.
fn expected(before: &BTreeMap<String, Seen>, after: &BTreeMap<String, Seen>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let change = match (before.get(path), after.get(path)) {
            (Some(_), None) => "removed".to_owned(),
            (None, Some(_)) => "added".to_owned(),
            (Some(old), Some(new)) => {
                let directory = new.kind == 0o040_000;
                let mut what = Vec::new();
                if old.kind != new.kind {
                    what.push("type");
                } else if old.content != new.content {
                    what.push("content");
                }
                let same = what.is_empty() && !directory;
                if old.mode != new.mode {
                    what.push("mode");
                }
                if old.owner != new.owner {
                    what.push("owner");
                }
                if same && old.modified != new.modified {
                    what.push("time");
                } else if same && what.is_empty() && old.changed != new.changed {
                    what.push("attributes");
                }
                if what.is_empty() {
                    continue;
                }
                what.join(" ")
            }
            (None, None) => continue,
        };
        found.insert(path.clone(), change);
    }
    found
}

fn told(document: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in
        document["filesystems"].as_array().unwrap().iter().flat_map(|one| one["files"].as_array().unwrap())
    {
        let change = match &file["what"] {
            Value::Array(what) => what.iter().map(|one| one.as_str().unwrap()).collect::<Vec<_>>().join(" "),
            _ => file["change"].as_str().unwrap().to_owned(),
        };
        found.insert(file["path"].as_str().unwrap().to_owned(), change);
    }
    found
}

fn fill(root: &Path) {
    for number in 0..300 {
        let folder = root.join(format!("etc/d{}", number % 20));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("file{number}")), format!("number {number}\n").repeat(number)).unwrap();
    }
    fs::create_dir_all(root.join("old/inner/deep")).unwrap();
    fs::write(root.join("old/inner/deep/file"), "goes").unwrap();
    fs::write(root.join("large"), noise(9 << 20, 3)).unwrap();
    fs::write(root.join("silent"), "SILENT-MARKER ".repeat(30_000)).unwrap();
    fs::write(root.join("kept-time"), vec![b'a'; 100_000]).unwrap();
    fs::write(root.join("short"), "short").unwrap();
    fs::write(root.join("mode"), "mode").unwrap();
    fs::write(root.join("owner"), "owner").unwrap();
    fs::write(root.join("becomes-a-directory"), "x").unwrap();
    fs::write(root.join("attribute"), "x").unwrap();
    fs::write(root.join("linked"), "x").unwrap();
    symlink("nowhere", root.join("link")).unwrap();
    symlink("same", root.join("same-link")).unwrap();
}

fn change(root: &Path) {
    fs::write(root.join("etc/d3/new"), "new").unwrap();
    fs::remove_file(root.join("etc/d4/file4")).unwrap();
    fs::remove_dir_all(root.join("old")).unwrap();
    fs::create_dir_all(root.join("new/inner")).unwrap();
    fs::write(root.join("new/inner/file"), noise(300_000, 9)).unwrap();
    fs::write(root.join("etc/d5/file25"), "other").unwrap();
    let large = fs::OpenOptions::new().write(true).open(root.join("large")).unwrap();
    large.write_all_at(b"in the midst", 5 << 20).unwrap();
    // Same length, and the times are put back.
    let reference = root.join("reference");
    tool("coreutils", "cp", &["-p", text(&root.join("kept-time")), text(&reference)]).expect(0);
    fs::write(root.join("kept-time"), [vec![b'a'; 50_000], vec![b'b'; 50_000]].concat()).unwrap();
    tool("coreutils", "touch", &["-r", text(&reference), text(&root.join("kept-time"))]).expect(0);
    fs::remove_file(reference).unwrap();
    fs::write(root.join("short"), "trohs").unwrap();
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(root.join("owner"), Some(70_000), Some(3)).unwrap();
    fs::remove_file(root.join("becomes-a-directory")).unwrap();
    fs::create_dir(root.join("becomes-a-directory")).unwrap();
    fs::write(root.join("becomes-a-directory/in"), "y").unwrap();
    tool("attr", "setfattr", &["-n", "user.note", "-v", "changed", text(&root.join("attribute"))]).expect(0);
    fs::hard_link(root.join("linked"), root.join("linked-too")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("elsewhere", root.join("link")).unwrap();
    tool("coreutils", "touch", &["-d", "2020-01-01", text(&root.join("etc/d6/file6"))]).expect(0);
    fs::rename(root.join("etc/d7"), root.join("etc/moved")).unwrap();
    fs::set_permissions(root.join("etc/d8"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// Flips a byte of a file's content where it lies on the disk: no time, no map and no checksum of the kernel's tells.
fn flip(disk: &Path) {
    let mut bytes = fs::read(disk).unwrap();
    let marker = b"SILENT-MARKER ";
    let at =
        bytes.windows(marker.len()).enumerate().filter(|(_, window)| window == marker).nth(15_000).unwrap().0;
    bytes[at] = b's';
    fs::File::options().write(true).open(disk).unwrap().write_all_at(&bytes[at..=at], at as u64).unwrap();
}

#[test]
fn files_that_differ_are_those_that_the_kernel_shows_as_different() {
    for (name, mib, make, flips) in [
        ("ext4", 64, &["mke2fs", "-q", "-F", "-t", "ext4", "-I", "256"][..], true),
        ("ext3", 64, &["mke2fs", "-q", "-F", "-t", "ext3", "-b", "1024"], true),
        ("xfs", 320, &["mkfs.xfs", "-q"], true),
        // A flipped byte is an error there: data have checksums.
        ("btrfs", 128, &["mkfs.btrfs", "-q"], false),
    ] {
        let scene = Scene::new();
        let (store, raw) = (store(&scene, "store"), disk(&scene, "disk.raw", mib, make));
        let image = format!("{store}/{name}");
        fill(mounted(&raw, "rw").path());
        let before = listing(mounted(&raw, "ro").path());
        run(&["capture", text(&raw), &image]).expect(0);
        change(mounted(&raw, "rw").path());
        if flips {
            flip(&raw);
        }
        let after = listing(mounted(&raw, "ro").path());
        run(&["capture", text(&raw), &image]).expect(0);
        let want = expected(&before, &after);
        assert!(want.len() > 40 && want.contains_key("/silent") == flips, "{name}: {want:?}");
        let document = json(&["images", "diff", &image]);
        assert_eq!(told(&document), want, "{name}");
        assert_eq!(document["unreadable"], 0);
        let counts = ["added", "removed", "changed"].map(|key| document[key].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>() as usize, want.len());
        let lines = run(&["images", "diff", &image]).expect(0).stdout;
        assert!(lines.contains("~ /large  (content)") && lines.contains("+ /new/\n"), "{lines}");
        // The other way round, added is removed.
        let images = json(&["images", "list", &image]);
        let times: Vec<&str> =
            images["images"].as_array().unwrap().iter().map(|one| one["time"].as_str().unwrap()).collect();
        let back = json(&["images", "diff", &format!("{image}@{}", times[1]), &format!("@{}", times[0])]);
        assert_eq!(told(&back), expected(&after, &before), "{name}");
        let same = run(&["images", "diff", &format!("{image}@{}", times[1]), &format!("@{}", times[1])])
            .expect(0)
            .stdout;
        assert!(same.contains("0 files added, 0 removed, 0 changed; 0 B differ"), "{same}");
    }
}

#[test]
fn what_is_no_file_is_told_as_bytes() {
    let scene = Scene::new();
    let store = store(&scene, "store");
    let raw = disk(&scene, "disk.raw", 40, &["mkfs.vfat", "-F", "32", "-n", "BOOT"]);
    let image = format!("{store}/a");
    let offset = format!("{}@@1M", text(&raw));
    let source = scene.path("grubx64.efi");
    fs::write(&source, noise(100_000, 1)).unwrap();
    tool("mtools", "mmd", &["-i", &offset, "::/EFI"]).expect(0);
    tool("mtools", "mcopy", &["-i", &offset, text(&source), "::/EFI/grubx64.efi"]).expect(0);
    run(&["capture", "--all", text(&raw), &image]).expect(0);
    run(&["images", "diff", &image]).expect(2).says(&["has no image before"]);
    // FAT: by content alone. Before the first partition: 8 KiB of something.
    fs::write(&source, noise(100_000, 2)).unwrap();
    tool("mtools", "mcopy", &["-o", "-i", &offset, text(&source), "::/EFI/grubx64.efi"]).expect(0);
    tool("mtools", "mcopy", &["-i", &offset, text(&source), "::/EFI/New.efi"]).expect(0);
    let file = fs::File::options().write(true).open(&raw).unwrap();
    file.write_all_at(&noise(8192, 4), 40 << 10).unwrap();
    run(&["capture", "--all", text(&raw), &image]).expect(0);
    let document = json(&["images", "diff", &image]);
    let want = [("/EFI/New.efi", "added"), ("/EFI/grubx64.efi", "content")];
    assert_eq!(told(&document), want.map(|(path, what)| (path.to_owned(), what.to_owned())).into());
    let others = document["others"].as_array().unwrap();
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0]["ranges"], serde_json::json!([[40 << 10, 48 << 10]]));
    // Of a filesystem whose files are not read, the bytes.
    let raw = disk(
        &scene,
        "ntfs.raw",
        24,
        &["mkntfs", "-q", "-F", "-Q", "-s", "512", "-p", "0", "-H", "16", "-S", "63"],
    );
    let image = format!("{store}/b");
    run(&["capture", "--all", text(&raw), &image]).expect(0);
    let file = fs::File::options().write(true).open(&raw).unwrap();
    file.write_all_at(&noise(4096, 4), 20 << 20).unwrap();
    run(&["capture", "--all", text(&raw), &image]).expect(0);
    let document = json(&["images", "diff", &image]);
    assert_eq!(document["others"][0]["place"], "partition 1");
    assert_eq!(document["others"][0]["ranges"], serde_json::json!([[20 << 20, (20 << 20) + 4096]]));
}
