// SPDX-License-Identifier: Apache-2.0

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use super::*;

#[test]
fn mountinfo_is_read_with_escapes_optional_fields_and_anonymous_devices() {
    let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n\
        28 1 8:1 / /mnt/a\\040b ro - xfs /dev/sda1 rw\n\
        29 1 8:2 / /ro rw - ext4 /dev/sda2 ro,norecovery\n\
        30 1 0:40 /@ /home rw - btrfs /dev/sdb1 rw,space_cache\n\
        nonsense\n";
    let number = |major, minor| libc::makedev(major, minor);
    let groups = [HashSet::from([number(8, 17), number(8, 33)])];
    let mounts =
        mounts::parse(text, &groups, &|path| (path == Path::new("/dev/sdb1")).then(|| number(8, 17)));
    let got: Vec<_> = mounts.iter().map(|mount| (mount.at.to_str().unwrap(), mount.writable)).collect();
    assert_eq!(got, [("/", true), ("/mnt/a b", true), ("/ro", false), ("/home", true)]);
    assert_eq!(mounts[3].devices, groups[0], "all devices of a btrfs are in use");
}

#[test]
fn a_qemu_writer_is_seen_and_then_kept_out() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let claimed = claim(image.path()).unwrap();
    assert_eq!(claimed.users, []);
    // What QEMU does when it opens an image read-write: it looks whether somebody does not share writing.
    let other = File::open(image.path()).unwrap();
    let mut lock =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 201, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    assert_eq!(i32::from(lock.l_type), libc::F_RDLCK, "a capture does not share writing");
    drop(claimed);

    let lock = libc::flock { l_type: libc::F_RDLCK as i16, l_whence: 0, l_start: 101, l_len: 1, l_pid: 0 };
    nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let users = claim(image.path()).unwrap().users;
    assert_eq!(users, [User::Qemu { image: image.path().to_owned() }]);
}

/// A loop device over a file, and perhaps a mount of it; both end with the test.
struct Attached {
    device: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Attached {
    fn new(file: &Path, options: &[&str]) -> Option<Self> {
        let output =
            Command::new("losetup").args(options).args(["--find", "--show"]).arg(file).output().ok()?;
        let device = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self { device: device.trim().into(), mounted: None })
    }

    fn mount(&mut self, options: &str) -> PathBuf {
        let folder = tempfile::tempdir().unwrap();
        let status =
            Command::new("mount").args(["-o", options]).arg(&self.device).arg(folder.path()).status();
        assert!(status.unwrap().success());
        let path = folder.path().to_owned();
        self.mounted = Some(folder);
        path
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(folder) = &self.mounted {
            let _ = Command::new("umount").arg(folder.path()).status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

fn ext4() -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(16 << 20).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(image.path()).status();
    assert!(made.is_ok_and(|status| status.success()), "this test needs mke2fs (package e2fsprogs)");
    image
}

#[test]
fn a_mounted_filesystem_is_found_through_image_and_loop_device() {
    let image = ext4();
    let (Some(mut first), Some(twin)) =
        (Attached::new(image.path(), &[]), Attached::new(image.path(), &["-r"]))
    else {
        println!("skipped: needs root to set up loop devices");
        return;
    };
    // Nobody uses it yet. The claim keeps it from being mounted.
    for path in [image.path(), &first.device, &twin.device] {
        let claimed = claim(path).unwrap();
        assert_eq!(claimed.users, [], "{}", path.display());
        assert!(claimed.held() >= 1);
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("mount").arg(&first.device).arg(folder.path()).output().unwrap().status;
        assert!(!status.success(), "{} was mounted under a claim", first.device.display());
    }
    let at = first.mount("rw");
    let expected = User::Mounted { device: first.device.clone(), at, filesystem: "ext4".into() };
    for path in [image.path(), &first.device, &twin.device] {
        let users = claim(path).unwrap().users;
        assert_eq!(users, std::slice::from_ref(&expected), "{}", path.display());
        assert!(users[0].explain().contains("mounted read-write at"));
    }
    let status = Command::new("umount").arg(first.mounted.take().unwrap().path()).status().unwrap();
    assert!(status.success());
    first.mount("ro");
    assert_eq!(claim(&first.device).unwrap().users, [], "read-only is fine");
}

#[test]
fn an_exclusive_claim_by_a_stranger_is_a_user() {
    let image = ext4();
    let Some(attached) = Attached::new(image.path(), &[]) else {
        println!("skipped: needs root to set up loop devices");
        return;
    };
    let _stranger = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&attached.device).unwrap();
    let users = claim(image.path()).unwrap().users;
    assert_eq!(users, [User::Claimed { device: attached.device.clone() }]);
}
