// SPDX-License-Identifier: Apache-2.0
//! Journals that wait for a replay, as a machine leaves them that loses power: the image is copied while it is mounted.

use super::super::groups::Geometry;
use super::super::journal::Journal;
use super::super::overlay::Overlay;
use super::super::superblock::Superblock;
use super::*;
use crate::filesystem::Condition;

/// A filesystem that was in use when its image was copied. `None` where it cannot be mounted here.
pub(super) fn crashed(size: u64, mke2fs: &[&str], options: &str, orphans: bool) -> Option<Lab> {
    let lab = Lab::new(
        size,
        &[&["-J", "size=16"], mke2fs, &["-E", "lazy_itable_init=0,lazy_journal_init=0"]].concat(),
    );
    // A commit of everything so far, which leaves the blocks in the log. (syncfs would also write them to their places.)
    let mounted = lab.mount(&format!("commit=600,{options}"))?;
    let commit = || File::create(mounted.0.join("marker")).unwrap().sync_all().unwrap();
    age(&mounted.0, 120);
    run_ok(&mounted.0, "sync", &["-f", "."]);
    // Blocks change their use from one transaction to the next: directories become data (revoked), data free.
    for round in 0..6 {
        let dir = mounted.0.join(format!("round{round}"));
        fs::create_dir_all(&dir).unwrap();
        for number in 0..150 {
            fs::write(dir.join(format!("{number}-{}", "m".repeat(150))), [0xc0, 0x3b, 0x39, 0x98, 0, 1, 2])
                .unwrap();
        }
        commit();
        if round % 2 == 0 {
            fs::remove_dir_all(&dir).unwrap();
            fs::write(mounted.0.join(format!("reuse{round}")), pattern("reuse", 300_000)).unwrap();
        }
    }
    // An orphan: deleted, but still open.
    let orphan = orphans.then(|| {
        let path = mounted.0.join("orphan");
        let file = File::create(&path).unwrap();
        file.write_all_at(&pattern("orphan", 200_000), 0).unwrap();
        fs::remove_file(path).unwrap();
        file
    });
    commit();
    let copy = Lab(folder());
    fs::copy(lab.image(), copy.image()).unwrap();
    drop(orphan);
    Some(copy)
}

/// A copy on which e2fsck has replayed the journal, released orphans, and done nothing else.
pub(super) fn replayed(lab: &Lab) -> Lab {
    let copy = Lab(folder());
    fs::copy(lab.image(), copy.image()).unwrap();
    let output = run(copy.dir(), "e2fsck", &["-y", "-E", "journal_only", "fs.img"]);
    assert!(output.status.code().is_some_and(|code| code <= 1), "{output:?}");
    copy
}

/// Our replay in memory, byte by byte against e2fsck's. Returns how many blocks it changes, and
/// how many of them were escaped.
fn compare_replays(name: &str, lab: &Lab, replayed: &Lab) -> (usize, usize) {
    let source = lab.source();
    let geometry = Geometry::new(Superblock::read(&source).unwrap().unwrap(), source.size()).unwrap();
    let patches = Journal::open(&source, &geometry).unwrap().replay().unwrap();
    let block_size = geometry.sb.block_size;
    let escaped = patches.iter().filter(|patch| patch.escaped).count();
    let ours = Overlay::new(&source, block_size, patches);
    let theirs = replayed.source();
    let journal = super::super::inode::runs(&source, &geometry, geometry.sb.journal_inode).unwrap();
    // e2fsck also resets the flag and counters in the superblock, and empties the log.
    let expected = [1024 / u64::from(block_size), journal[0].physical];
    let mut differing = Vec::new();
    let (mut a, mut b) = (vec![0; block_size as usize], vec![0; block_size as usize]);
    for block in 0..source.size() / u64::from(block_size) {
        ours.read_at(&mut a, block * u64::from(block_size)).unwrap();
        theirs.read_at(&mut b, block * u64::from(block_size)).unwrap();
        if a != b && !expected.contains(&block) {
            differing.push(block);
        }
    }
    assert_eq!(differing, [0; 0], "{name}: blocks differ from e2fsck's replay");
    // Reads that begin and end within blocks agree with those of whole blocks.
    let mut whole = vec![0; source.size() as usize];
    ours.read_at(&mut whole, 0).unwrap();
    for offset in (1..whole.len() - 70_001).step_by(69_997) {
        let mut part = vec![0; 70_001];
        ours.read_at(&mut part, offset as u64).unwrap();
        assert!(part == whole[offset..offset + part.len()], "{name}: at {offset}");
    }
    (ours.len(), escaped)
}

#[test]
fn a_journal_is_replayed_as_e2fsck_replays_it() {
    let cases: &[(&str, u64, &[&str], &str)] = &[
        ("ext4, version 3 checksums", 60_000, &["-t", "ext4", "-b", "1024"], "nodelalloc"),
        (
            "4 KiB blocks",
            100_000,
            &["-t", "ext4", "-b", "4096", "-g", "2048", "-O", "orphan_file"],
            "nodelalloc",
        ),
        ("orphans", 60_000, &["-t", "ext4", "-b", "1024"], "nodelalloc"),
        ("orphans in a file", 60_000, &["-t", "ext4", "-b", "4096", "-O", "orphan_file"], "nodelalloc"),
        ("not 64bit", 60_000, &["-t", "ext4", "-b", "1024", "-O", "^64bit"], "nodelalloc"),
        (
            "no checksums",
            60_000,
            &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
            "nodelalloc",
        ),
        ("ext3, 2 KiB blocks", 60_000, &["-t", "ext3", "-b", "2048"], "defaults"),
        ("data in the journal", 60_000, &["-t", "ext4", "-b", "1024"], "data=journal"),
        ("data in ext3's journal", 60_000, &["-t", "ext3", "-b", "4096"], "data=journal"),
        ("bigalloc", 100_000, &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"], "nodelalloc"),
        ("a short log that wraps", 60_000, &["-t", "ext4", "-b", "1024", "-J", "size=1"], "nodelalloc"),
    ];
    let (mut changed, mut escaped) = (0, 0);
    for (name, size, args, options) in cases {
        println!("{name}");
        let orphans = name.contains("orphans");
        let Some(lab) = crashed(*size, args, options, orphans) else { return };
        let (facts, mut used) = read(&lab.source()).unwrap().unwrap();
        assert_eq!(used.everything_because, None, "{name}");
        assert!(matches!(facts.condition, Condition::Dirty(_)), "{name}");
        assert!(used.warnings.iter().any(|warning| warning.contains("journal")), "{name}");
        assert!(used.ranges.bytes() < facts.size_bytes, "{name}");
        assert!(facts.features.contains(&"needs_recovery".to_owned()));

        let after = replayed(&lab);
        if !orphans {
            let (more_changed, more_escaped) = compare_replays(name, &lab, &after);
            (changed, escaped) = (changed + more_changed, escaped + more_escaped);
        }
        match lab.try_truth() {
            Some(mut truth) => {
                assert_eq!(missing(&mut used.ranges, &mut truth), None, "{name}: before the replay");
            }
            // A bitmap reached its place before its descriptor did. That is what journals are for.
            None => println!("dumpe2fs cannot read the bitmaps before the replay"),
        }
        assert_eq!(missing(&mut used.ranges, &mut after.truth()), None, "{name}: after the replay");

        let copy = lab.restored(&mut used);
        if !name.contains("short log") {
            // A log that fills up is written to its places in between; what is there then fits together nowhere.
            assert_eq!(copy.check("-fn"), lab.check("-fn"), "{name}");
            assert_eq!(copy.files(), lab.files(), "{name}: before the replay");
        }
        assert_eq!(copy.check("-fy"), lab.check("-fy"), "{name}");
        assert_eq!(copy.files(), lab.files(), "{name}: after the replay");
        assert_eq!(copy.check("-fn").0, Some(0), "{name}");
    }
    assert!(
        changed > 1000 && escaped > 100,
        "only {changed} blocks, {escaped} of them escaped, were replayed"
    );
}

#[test]
fn fast_commits_that_wait_keep_everything() {
    let lab =
        Lab::new(100_000, &["-t", "ext4", "-b", "4096", "-O", "fast_commit", "-E", "lazy_itable_init=0"]);
    let Some(mounted) = lab.mount("commit=600") else { return };
    age(&mounted.0, 20);
    run_ok(&mounted.0, "sync", &["-f", "."]);
    let copy = || {
        let copy = Lab(folder());
        fs::copy(lab.image(), copy.image()).unwrap();
        copy
    };
    let before = copy();
    for number in 0..5 {
        let file = File::create(mounted.0.join(format!("fast{number}"))).unwrap();
        file.write_all_at(&pattern("fast", 100_000), 0).unwrap();
        file.sync_all().unwrap();
    }
    let pending = copy();
    drop(mounted);

    assert_eq!(read(&before.source()).unwrap().unwrap().1.everything_because, None);
    let because = read(&pending.source()).unwrap().unwrap().1.everything_because.unwrap();
    assert!(because.contains("fast commits") && because.contains("mount"), "{because}");
    assert_eq!(read(&lab.source()).unwrap().unwrap().1.everything_because, None, "after unmounting");
}

#[test]
fn a_journal_that_contradicts_the_superblock_keeps_everything() {
    let Some(lab) =
        crashed(60_000, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], "nodelalloc", false)
    else {
        return;
    };
    let file = File::options().write(true).read(true).open(lab.image()).unwrap();
    let mut word = [0; 4];
    file.read_exact_at(&mut word, 1024 + 0x60).unwrap();
    assert_eq!(word[0] & 4, 4);
    word[0] &= !4;
    file.write_all_at(&word, 1024 + 0x60).unwrap();
    let because = read(&lab.source()).unwrap().unwrap().1.everything_because.unwrap();
    assert!(because.contains("its journal has changes"), "{because}");
}
