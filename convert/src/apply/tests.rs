// SPDX-License-Identifier: Apache-2.0
//! On real filesystems: what is kept, what a loss of power leaves at every step, and what undo brings back.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::plan::{Draft, Severity};
use crate::sys;

const NOW: i64 = 1_795_546_930;

fn run(package: &str, program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output
        .unwrap_or_else(|error| unreachable!("{program} is needed (Debian package {package}): {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A filesystem of its own, mounted while this lives; or a plain directory.
struct Guest {
    at: PathBuf,
    mounted: bool,
    _folder: tempfile::TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(&self.at).status();
        }
    }
}

impl Guest {
    fn new(kind: Option<(&str, &str, &[&str], u64)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("guest");
        fs::create_dir(&at).unwrap();
        let Some((package, mkfs, options, mib)) = kind else {
            return Self { at, mounted: false, _folder: folder };
        };
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(package, mkfs, &[options, &[image.to_str().unwrap()]].concat());
        run("mount", "mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self { at, mounted: true, _folder: folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn set(&self, name: &str, attribute: &str, value: &[u8]) {
        let path = CString::new(self.path(name).to_str().unwrap()).unwrap();
        sys::set_attribute(&path, attribute, value).unwrap();
    }

    fn get(&self, name: &str, attribute: &str) -> Option<Vec<u8>> {
        let path = CString::new(self.path(name).to_str().unwrap()).unwrap();
        sys::attributes(&path)
            .unwrap()
            .into_iter()
            .find(|(known, _)| known == attribute)
            .map(|(_, value)| value)
    }

    fn root(&self) -> Directory {
        Directory::open(&self.at).unwrap()
    }

    /// Everything of every file and link: content, owner, mode, time, attributes, flags.
    fn picture(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut left = vec![self.at.clone()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let found = path.symlink_metadata().unwrap();
                let name = path.strip_prefix(&self.at).unwrap().to_str().unwrap().to_owned();
                let content = if found.is_symlink() {
                    format!("{:?}", fs::read_link(&path).unwrap())
                } else if found.is_dir() {
                    left.push(path.clone());
                    String::new()
                } else if found.is_file() {
                    blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string()
                } else {
                    "other".into()
                };
                let time = if found.is_dir() { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
                let attributes = sys::attributes(&CString::new(path.to_str().unwrap()).unwrap()).unwrap();
                let flags =
                    if found.is_file() { sys::flags(&File::open(&path).unwrap()).unwrap() } else { None };
                all.insert(
                    name,
                    format!(
                        "{:o} {}:{} {time:?} {content} {attributes:?} {flags:?}",
                        found.mode(),
                        found.uid(),
                        found.gid()
                    ),
                );
            }
        }
        all
    }
}

const FILESYSTEMS: [(&str, &str, &[&str], u64); 3] = [
    ("e2fsprogs", "mkfs.ext4", &["-q"], 32),
    ("xfsprogs", "mkfs.xfs", &["-q"], 320),
    ("btrfs-progs", "mkfs.btrfs", &["-q"], 128),
];

/// Plain directories where nothing can be mounted: what needs root is left out there, and that is said.
fn guests() -> Vec<Guest> {
    if !nix::unistd::geteuid().is_root() {
        println!(
            "skipped: ext4, XFS and btrfs need root to be mounted; done on the directory for temporary files alone"
        );
        return vec![Guest::new(None)];
    }
    FILESYSTEMS.into_iter().map(|kind| Guest::new(Some(kind))).collect()
}

/// getfacl: user::rw- user:1000:r-- group::r-- mask::r-- other::--- (include/uapi/linux/posix_acl_xattr.h)
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// cap_net_raw=ep (include/uapi/linux/capability.h, VFS_CAP_REVISION_2)
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn fill(guest: &Guest) {
    for folder in ["etc/systemd", "boot", "var/lib", "home"] {
        fs::create_dir_all(guest.path(folder)).unwrap();
    }
    for (name, content) in [
        ("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n".as_bytes()),
        ("etc/hosts", b"127.0.0.1 localhost\n"),
        ("etc/machine-id", b"0123456789abcdef0123456789abcdef\n"),
        ("boot/initrd.img", &[7; 300_000]),
        ("etc/old.conf", b"old\n"),
    ] {
        fs::write(guest.path(name), content).unwrap();
    }
    symlink("/etc/old.conf", guest.path("etc/link")).unwrap();
    symlink("gone", guest.path("etc/other-link")).unwrap();
    fs::set_permissions(guest.path("etc/machine-id"), fs::Permissions::from_mode(0o444)).unwrap();
    for name in ["etc/fstab", "boot/initrd.img", "etc/link"] {
        run(
            "coreutils",
            "touch",
            &["-h", "-d", "2020-02-02 02:02:02.123456789", guest.path(name).to_str().unwrap()],
        );
    }
    if guest.mounted {
        for name in ["etc", "var/lib"] {
            guest.set(name, "security.selinux", b"system_u:object_r:etc_t:s0\0");
        }
        chown(guest.path("etc/fstab"), Some(12), Some(34)).unwrap();
        fs::set_permissions(guest.path("etc/fstab"), fs::Permissions::from_mode(0o640)).unwrap();
        guest.set("etc/fstab", "system.posix_acl_access", &ACL);
        guest.set("etc/fstab", "security.capability", &CAPABILITY);
        guest.set("etc/fstab", "security.selinux", b"system_u:object_r:fstab_t:s0\0");
        guest.set("etc/fstab", "user.note", b"mine");
        guest.set("boot/initrd.img", "security.selinux", b"system_u:object_r:boot_t:s0\0");
        guest.set("etc/link", "security.selinux", b"system_u:object_r:link_t:s0\0");
        guest.set("etc/hosts", "security.selinux", b"system_u:object_r:net_conf_t:s0\0");
        guest.set("etc/old.conf", "security.selinux", b"system_u:object_r:net_conf_t:s0\0");
        run("e2fsprogs", "chattr", &["+i", guest.path("etc/machine-id").to_str().unwrap()]);
        run("e2fsprogs", "chattr", &["+i", guest.path("boot").to_str().unwrap()]);
    }
}

fn open_up(guest: &Guest) {
    for name in ["etc/machine-id", "boot"] {
        let _ = Command::new("chattr").arg("-i").arg(guest.path(name)).output();
    }
}

fn plan(root: &Directory) -> Plan {
    let mut draft = Draft::new(root);
    draft.write("/etc/fstab", b"UUID=x / ext4 defaults 0 1\n".to_vec(), "fstab", "because").unwrap();
    draft.write("/etc/machine-id", b"new\n".to_vec(), "identity", "because").unwrap();
    draft.append("/boot/initrd.img", vec![9; 5000], "drivers", "because").unwrap();
    draft.remove("/etc/old.conf", "a", "because").unwrap();
    draft.link("/etc/link", "/dev/null", "a", "because").unwrap();
    draft.remove("/etc/other-link", "a", "because").unwrap();
    draft.link("/etc/hosts", "/run/hosts", "a", "because").unwrap();
    draft.directory("/srv/empty", 0o700, "a", "because").unwrap();
    draft.directory("/srv/full", 0o711, "a", "because").unwrap();
    draft.write("/srv/full/file", b"x".to_vec(), "a", "because").unwrap();
    draft.write_mode("/etc/systemd/network/70.link", b"[Match]\n".to_vec(), 0o600, "net", "because").unwrap();
    draft.finish()
}

fn options() -> Options {
    Options { now: NOW, ..Options::default() }
}

#[test]
fn changed_files_keep_owner_mode_and_attributes_and_undo_brings_every_byte_back() {
    for guest in guests() {
        fill(&guest);
        let before = guest.picture();
        let root = guest.root();
        let applied = apply(&plan(&root), &root, &options()).unwrap();
        assert_eq!(applied.changed, 11);
        assert_eq!(applied.undo.as_deref(), Some("/var/lib/unmoor/undo/20261124T190210Z"));

        let after = guest.picture();
        let same_but_content = |name: &str| {
            let strip = |line: &str| {
                let mut words: Vec<String> = line.splitn(6, ' ').map(str::to_owned).collect();
                // mode owner (time time) content attributes
                words.drain(2..5);
                words.join(" ")
            };
            assert_eq!(strip(&before[name]), strip(&after[name]), "{name}");
        };
        for name in ["etc/fstab", "etc/machine-id", "boot/initrd.img"] {
            same_but_content(name);
        }
        assert_eq!(fs::read(guest.path("etc/machine-id")).unwrap(), b"new\n");
        let initramfs = fs::read(guest.path("boot/initrd.img")).unwrap();
        assert!(
            initramfs.len() == 305_000
                && initramfs[..300_000] == [7; 300_000]
                && initramfs[300_000..] == [9; 5000]
        );
        assert_eq!(fs::read_link(guest.path("etc/hosts")).unwrap(), Path::new("/run/hosts"));
        assert!(!guest.path("etc/old.conf").exists() && !after.contains_key("etc/other-link"));
        assert!(after["srv/empty"].starts_with("40700 ") && after["srv/full"].starts_with("40711 "));
        assert!(after["etc/systemd/network/70.link"].starts_with("100600 "));
        if guest.mounted {
            // No file is beside it: its directory's, which has that of its own parent.
            let label = |name: &str| guest.get(name, "security.selinux");
            assert_eq!(label("etc/systemd"), None);
            assert_eq!(label("etc/systemd/network/70.link"), None);
            assert_eq!(label("var/lib/unmoor").unwrap(), b"system_u:object_r:etc_t:s0\0");
            assert_eq!(label("etc/link").unwrap(), b"system_u:object_r:link_t:s0\0");
        }

        let undone = undo(&root, &UndoOptions::default()).unwrap();
        assert_eq!(undone.restored.len(), 11);
        assert_eq!(guest.picture(), before);
        assert!(undo(&root, &UndoOptions::default()).unwrap_err().chain().contains("no undo copy"));
        open_up(&guest);
    }
}

#[test]
fn a_new_file_has_the_label_of_its_neighbours() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: SELinux labels need root");
        return;
    }
    let guest = Guest::new(Some(FILESYSTEMS[0]));
    fill(&guest);
    let root = guest.root();
    let mut draft = Draft::new(&root);
    draft.write("/etc/new.conf", b"x".to_vec(), "a", "because").unwrap();
    draft.write("/etc/new.d/x", b"x".to_vec(), "a", "because").unwrap();
    apply(&draft.finish(), &root, &options()).unwrap();
    let label =
        |name: &str| guest.get(name, "security.selinux").map(|label| String::from_utf8(label).unwrap());
    // Two of three files in /etc that have a label have that one.
    assert_eq!(label("etc/new.conf").unwrap(), "system_u:object_r:net_conf_t:s0\0");
    assert_eq!(label("etc/new.d").unwrap(), "system_u:object_r:etc_t:s0\0");
    assert_eq!(label("etc/new.d/x").unwrap(), "system_u:object_r:etc_t:s0\0");
    open_up(&guest);
}

#[test]
fn a_loss_of_power_at_any_step_leaves_files_old_or_new_and_undo_brings_all_back() {
    for guest in guests() {
        fill(&guest);
        let before = guest.picture();
        let root = guest.root();
        apply(&plan(&root), &root, &options()).unwrap();
        let after = guest.picture();
        undo(&root, &UndoOptions::default()).unwrap();
        let content = |picture: &BTreeMap<String, String>, name: &str| {
            picture.get(name).map(|line| line.split(' ').nth(4).unwrap().to_owned())
        };

        let mut cut_off = 0;
        for step in 0.. {
            let options = Options { fail_at: Some(step), ..options() };
            if apply(&plan(&root), &root, &options).is_ok() {
                undo(&root, &UndoOptions::default()).unwrap();
                break;
            }
            let now = guest.picture();
            for name in before.keys().chain(after.keys()).filter(|name| !name.contains("unmoor")) {
                let is = content(&now, name);
                assert!(
                    is == content(&before, name) || is == content(&after, name),
                    "step {step}: {name}: {is:?}"
                );
            }
            match undo(&root, &UndoOptions::default()) {
                Ok(_) => {
                    assert_eq!(guest.picture(), before, "step {step}");
                    cut_off += 1;
                }
                // Not even the undo copy was complete: nothing of the guest was touched.
                Err(error) => {
                    assert!(error.chain().contains("no undo copy"), "{}", error.chain());
                    let guests: BTreeMap<_, _> =
                        now.into_iter().filter(|(name, _)| !name.starts_with("var/lib/unmoor")).collect();
                    assert_eq!(guests, before, "step {step}");
                }
            }
        }
        assert!(cut_off > 30, "{cut_off} steps");
        open_up(&guest);
    }
}

#[test]
fn a_plan_for_another_state_changes_nothing() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("etc/fstab", |at| fs::write(at, "other\n").unwrap()),
        ("etc/link", |at| {
            fs::remove_file(at).unwrap();
            symlink("elsewhere", at).unwrap();
        }),
        ("etc/fstab", |at| {
            fs::remove_file(at).unwrap();
            nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("srv", |at| fs::write(at, "a file").unwrap()),
        ("etc/systemd", |at| {
            fs::remove_dir(at).unwrap();
            symlink("/home", at).unwrap();
        }),
    ];
    for (name, change) in changes {
        let guest = Guest::new(None);
        fill(&guest);
        let root = guest.root();
        let plan = plan(&root);
        change(&guest.path(name));
        let before = guest.picture();
        let error = apply(&plan, &root, &options()).unwrap_err();
        assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused, "{}", error.chain());
        assert_eq!(guest.picture(), before, "{name}");
    }
}

#[test]
fn a_refused_plan_is_not_applied() {
    let guest = Guest::new(None);
    fill(&guest);
    let root = guest.root();
    let mut draft = Draft::new(&root);
    draft.write("/etc/fstab", b"x".to_vec(), "a", "because").unwrap();
    draft.finding(Severity::Error, "lint", "no kernel has a driver for the disk", None);
    let error = apply(&draft.finish(), &root, &options()).unwrap_err();
    assert!(error.chain().contains("no kernel has a driver"), "{}", error.chain());
    assert!(!guest.path("var/lib/unmoor").exists());
}

#[test]
fn files_take_turns_where_there_is_no_room_for_all_and_are_refused_where_there_is_none() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root to mount a small filesystem");
        return;
    }
    let guest = Guest::new(Some(("e2fsprogs", "mkfs.ext4", &["-q", "-O", "^has_journal"], 16)));
    for folder in ["boot", "var/lib"] {
        fs::create_dir_all(guest.path(folder)).unwrap();
    }
    for number in 0..4 {
        fs::write(guest.path(&format!("boot/initrd{number}")), vec![number; 2 << 20]).unwrap();
    }
    let root = guest.root();
    let append = |bytes: usize| {
        let mut draft = Draft::new(&root);
        for number in 0..4 {
            draft.append(&format!("/boot/initrd{number}"), vec![9; bytes], "drivers", "because").unwrap();
        }
        draft.finish()
    };
    let before = guest.picture();
    let error = apply(&append(1 << 20), &root, &options()).unwrap_err();
    assert_eq!(error.kind(), unmoor_images::ErrorKind::Refused);
    assert!(error.chain().contains("the filesystem at /"), "{}", error.chain());
    assert_eq!(guest.picture(), before);

    apply(&append(100_000), &root, &options()).unwrap();
    for number in 0..4_u8 {
        let content = fs::read(guest.path(&format!("boot/initrd{number}"))).unwrap();
        assert!(content.len() == (2 << 20) + 100_000 && content[0] == number && content[2 << 20] == 9);
    }
    undo(&root, &UndoOptions::default()).unwrap();
    assert_eq!(guest.picture(), before);
}

#[test]
fn no_inodes_left_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root to mount a small filesystem");
        return;
    }
    let guest = Guest::new(Some(("e2fsprogs", "mkfs.ext4", &["-q", "-N", "32"], 16)));
    fill(&guest);
    let mut number = 0;
    while File::create(guest.path(&format!("home/{number}"))).is_ok() {
        number += 1;
    }
    let root = guest.root();
    let error = apply(&plan(&root), &root, &options()).unwrap_err();
    assert!(error.chain().contains("inodes"), "{}", error.chain());
    open_up(&guest);
}

#[test]
fn what_changed_since_is_brought_back_by_force_only() {
    let guest = Guest::new(None);
    fill(&guest);
    let root = guest.root();
    let before = guest.picture();
    apply(&plan(&root), &root, &options()).unwrap();
    fs::write(guest.path("etc/fstab"), "the administrator's\n").unwrap();
    fs::write(guest.path("boot/initrd.img"), "a new one\n").unwrap();
    let between = guest.picture();
    let error = undo(&root, &UndoOptions::default()).unwrap_err();
    assert!(error.chain().contains("/etc/fstab, /boot/initrd.img changed since"), "{}", error.chain());
    assert_eq!(guest.picture(), between);

    let undone = undo(&root, &UndoOptions { force: true, ..UndoOptions::default() }).unwrap();
    assert_eq!(undone.left, ["/boot/initrd.img"]);
    let mut wanted = before;
    wanted.insert("boot/initrd.img".into(), between["boot/initrd.img"].clone());
    assert_eq!(guest.picture(), wanted);
}

#[test]
fn hard_links_are_told_and_keep_the_old_content() {
    let guest = Guest::new(None);
    fill(&guest);
    fs::hard_link(guest.path("etc/fstab"), guest.path("home/mine")).unwrap();
    let root = guest.root();
    let applied = apply(&plan(&root), &root, &options()).unwrap();
    assert_eq!(applied.notes, ["/etc/fstab had other names, which keep the old content"]);
    assert_eq!(fs::read_to_string(guest.path("home/mine")).unwrap(), "/dev/sda1 / ext4 defaults 0 1\n");
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    let guest = Guest::new(None);
    fill(&guest);
    let root = guest.root();
    apply(&plan(&root), &root, &options()).unwrap();
    let index = guest.path("var/lib/unmoor/undo/20261124T190210Z/index.json");
    let text = fs::read_to_string(&index).unwrap();
    for path in ["/..", "/etc/../../x", "etc/x", "/"] {
        fs::write(&index, text.replace("\"/etc/fstab\"", &format!("{path:?}"))).unwrap();
        assert!(undo(&root, &UndoOptions::default()).is_err(), "{path}");
    }
    fs::write(&index, "{").unwrap();
    assert_eq!(undo(&root, &UndoOptions::default()).unwrap_err().kind(), unmoor_images::ErrorKind::Malformed);
}

#[test]
fn writes_below_one_mebibyte_come_last() {
    let write = |at: u64| (at, Content::Base64(vec![1]));
    let edit =
        |disk, writes| crate::plan::DiskEdit { reasons: Vec::new(), disk, summary: Vec::new(), writes };
    let plan = Plan {
        disk: vec![
            edit(0, vec![write(0), write(5 << 20)]),
            edit(1, vec![write(7)]),
            edit(0, vec![write(512), write(3 << 20)]),
        ],
        ..Plan::default()
    };
    let order: Vec<u64> = disk_writes(&plan, 0).into_iter().map(|(at, _)| at).collect();
    assert_eq!(order, [5 << 20, 3 << 20, 0, 512]);
}
