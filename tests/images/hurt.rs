// SPDX-License-Identifier: Apache-2.0
//! Which files a damaged pack hurts, held against what debugfs says of the blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Scene, noise, run, tool};
use crate::support::{MIB, disk, mounted, store, text};

/// The largest pack of a store.
fn pack(store: &str) -> (PathBuf, u64) {
    let mut waiting = vec![PathBuf::from(store.strip_prefix("dir:").unwrap()).join("packs")];
    let mut found = (PathBuf::new(), 0);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            if metadata.is_dir() {
                waiting.push(path);
            } else if metadata.len() > found.1 {
                found = (path, metadata.len());
            }
        }
    }
    found
}

/// Changes `count` bytes of a pack, spread over the chunks in its first three quarters: what is in the last one are the image's trees.
fn damage(pack: &(PathBuf, u64), count: u64, seed: u8) {
    let file = File::options().read(true).write(true).open(&pack.0).unwrap();
    for byte in noise(count as usize, seed.into()).iter().enumerate() {
        let at = 64 + pack.1 * 3 / 4 * byte.0 as u64 / count + u64::from(*byte.1) * 512 % (pack.1 / 8);
        let mut old = [0];
        file.read_exact_at(&mut old, at).unwrap();
        file.write_all_at(&[old[0] ^ 0x20], at).unwrap();
    }
}

fn debugfs(disk: &Path, request: &str) -> String {
    let device = format!("{}?offset={MIB}", text(disk));
    tool("e2fsprogs", "debugfs", &["-R", request, &device]).expect(0).stdout
}

/// Paths of the files that have these blocks, by e2fsprogs; and how many of the blocks nothing uses.
fn owners(disk: &Path, blocks: &[u64]) -> (BTreeSet<String>, usize) {
    let (mut inodes, mut paths, mut free) = (BTreeSet::new(), BTreeSet::new(), 0);
    for part in blocks.chunks(200) {
        let list: Vec<String> = part.iter().map(u64::to_string).collect();
        let found = debugfs(disk, &format!("icheck {}", list.join(" ")));
        let number = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        inodes.extend(found.lines().skip(1).filter_map(number));
        for block in part {
            free += usize::from(debugfs(disk, &format!("testb {block}")).contains("not in use"));
        }
    }
    for inode in &inodes {
        let found = debugfs(disk, &format!("ncheck {inode}"));
        paths.extend(found.lines().skip(1).filter_map(|line| Some(line.split_once('\t')?.1.to_owned())));
    }
    (paths, free)
}

fn verified(store: &str) -> Value {
    let stdout = run(&["images", "verify", "--json", "--read-data", store]).expect(1).stdout;
    let mut found: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    found["report"]["hurt"][0].take()
}

#[test]
fn damaged_packs_are_told_by_the_files_that_they_hurt() {
    let scene = Scene::new();
    let disk = disk(&scene, "disk.raw", 64, &["mkfs.ext4", "-q", "-b", "4096", "-L", "data"]);
    {
        let root = mounted(&disk, "rw");
        for number in 0..400u64 {
            let folder = root.path().join(format!("d{}/e{}", number % 7, number % 20));
            fs::create_dir_all(&folder).unwrap();
            let len = (number * 7919 % 150_000) as usize;
            fs::write(folder.join(format!("f{number}")), noise(len, number)).unwrap();
        }
        fs::write(root.path().join("large"), noise(9 << 20, 1)).unwrap();
        fs::hard_link(root.path().join("large"), root.path().join("d3/again")).unwrap();
        (0..60).step_by(3).for_each(|number| {
            fs::remove_file(root.path().join(format!("d{}/e{}/f{number}", number % 7, number % 20))).unwrap();
        });
    }
    let store = store(&scene, "store");
    let image = format!("{store}/m");
    run(&["capture", text(&disk), &image]).expect(0);
    let (mut named, mut unread) = (0, 0);
    for round in 0..3u8 {
        damage(&pack(&store), 4 + 8 * u64::from(round), round);
        let hurt = verified(&store);
        let range = |range: &Value| range["start"].as_u64().unwrap()..range["end"].as_u64().unwrap();
        let ranges: Vec<_> = hurt["disks"][0]["ranges"].as_array().unwrap().iter().map(range).collect();
        let blocks: Vec<u64> = ranges
            .iter()
            .flat_map(|range| range.start.max(MIB)..range.end.min(65 * MIB))
            .step_by(4096)
            .map(|at| (at - MIB) / 4096)
            .collect();
        let (owners, free) = owners(&disk, &blocks);
        let found = &hurt["filesystems"][0];
        assert!(
            found["place"] == "partition 1" && found["label"] == "data" && found["kind"] == "ext4",
            "{hurt}"
        );
        assert_eq!(found["bytes"].as_u64().unwrap(), blocks.len() as u64 * 4096);
        assert!(found["free_bytes"].as_u64().unwrap() <= free as u64 * 4096, "{found} {free}");
        assert!(found["incomplete"].is_null() && found["more"] == 0, "{found}");
        let mut with_content = BTreeSet::new();
        let mut all = BTreeSet::new();
        for file in found["files"].as_array().unwrap() {
            let path = file["path"].as_str().unwrap().to_owned();
            if file["bytes"].as_u64().unwrap() > 0 {
                with_content.insert(path.clone());
            }
            unread += usize::from(!file["unreadable"].is_null());
            all.insert(path);
        }
        assert!(with_content.is_subset(&owners), "round {round}: {with_content:?}\n{owners:?}");
        // Below a directory that cannot be read, nothing can be named.
        let lost = |path: &str| {
            let unread =
                found["files"].as_array().unwrap().iter().filter(|file| !file["unreadable"].is_null());
            unread.map(|file| file["path"].as_str().unwrap()).any(|above| {
                above == "/" || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let missed: Vec<_> = owners.iter().filter(|path| !all.contains(*path) && !lost(path)).collect();
        assert!(missed.is_empty(), "round {round}: {missed:?}");
        named += with_content.len();
        let shown = run(&["images", "verify", "--read-data", &store]).expect(1).stdout;
        assert!(shown.contains("partition 1, ext4 data: "), "{shown}");
        for file in all.iter().take(3) {
            assert!(
                found["files"].as_array().unwrap().len() > 20 || shown.contains(&format!("    {file}: ")),
                "{shown}"
            );
        }
        if found["files"].as_array().unwrap().len() > 20 {
            assert!(
                shown.contains(&format!("    and {} more", found["files"].as_array().unwrap().len() - 20))
            );
        }
    }
    println!("{named} files named, {unread} not readable");
    assert!(named > 20);
    // Nothing is left from which names could come, or only what cannot be read.
    fs::remove_file(pack(&store).0).unwrap();
    let hurt = verified(&store);
    let why = [&hurt["because"], &hurt["files_because"], &hurt["filesystems"][0]["incomplete"]];
    assert!(why.iter().any(|why| why.is_string()), "{hurt}");
}

#[test]
fn damage_of_free_space_and_metadata_is_said_as_such() {
    let scene = Scene::new();
    let disk = disk(&scene, "disk.raw", 64, &["mkfs.ext4", "-q", "-b", "4096"]);
    let store = store(&scene, "store");
    run(&["capture", text(&disk), &format!("{store}/m")]).expect(0);
    damage(&pack(&store), 2, 1);
    let found = run(&["images", "verify", "--read-data", &store]);
    let shown = found.expect(1).stdout;
    assert!(shown.contains("the filesystem's own"), "{shown}");
}
