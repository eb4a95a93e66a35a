// SPDX-License-Identifier: Apache-2.0
//! `unmoor images mount`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Mounted, Scene, hash, noise, run, tool, unmoor};
use crate::support::{disk, mounted, store, text};

const LIMIT: Duration = Duration::from_secs(120);

/// A mount; it ends with the test.
struct Running {
    child: Child,
    at: PathBuf,
}

impl Running {
    fn start(scene: &Scene, image: &str, name: &str) -> Self {
        let at = scene.path(name);
        fs::create_dir(&at).unwrap();
        let child = unmoor()
            .args(["images", "mount", image, text(&at)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Self { child, at };
        let began = Instant::now();
        while !running.at.join("disk0.raw").exists() {
            if running.child.try_wait().unwrap().is_some() || began.elapsed() > LIMIT {
                let _ = running.child.kill();
                let mut said = String::new();
                std::io::Read::read_to_string(&mut running.child.stderr.take().unwrap(), &mut said).unwrap();
                panic!("it did not mount (this needs /dev/fuse, and root): {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// The exit status, once it ends.
    fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn interrupt(&self) {
        tool("procps", "kill", &["-INT", &self.child.id().to_string()]).expect(0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ =
            std::process::Command::new("umount").args(["-l", text(&self.at)]).stderr(Stdio::null()).status();
    }
}

fn is_mounted(at: &Path) -> bool {
    fs::read_to_string("/proc/mounts").unwrap().lines().any(|line| line.split(' ').nth(1) == Some(text(at)))
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("etc/deep")).unwrap();
    fs::write(root.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    fs::write(root.join("etc/deep/noise"), noise(3 << 20, 2)).unwrap();
    std::os::unix::fs::symlink("fstab", root.join("etc/link")).unwrap();
    (0..200)
        .for_each(|number| fs::write(root.join(format!("etc/deep/{number}")), number.to_string()).unwrap());
    std::os::unix::fs::chown(root.join("etc/fstab"), Some(12), Some(34)).unwrap();
}

#[test]
fn a_stored_image_is_a_disk_a_partition_and_files_until_it_is_unmounted() {
    let scene = Scene::new();
    let (store, raw) =
        (store(&scene, "store"), disk(&scene, "disk.raw", 40, &["mke2fs", "-q", "-F", "-t", "ext4"]));
    fill(mounted(&raw, "rw").path());
    let image = format!("{store}/web01");
    run(&["capture", text(&raw), &image]).expect(0);
    let exported = scene.path("exported.raw");
    run(&["images", "export", &image, text(&exported)]).expect(0);
    let mut running = Running::start(&scene, &image, "at");
    let at = running.at.clone();
    assert_eq!(hash(&at.join("disk0.raw")), hash(&exported));
    assert_eq!(fs::metadata(at.join("disk0.p1.raw")).unwrap().len(), 40 << 20);
    assert!(
        fs::write(at.join("new"), "x").is_err()
            && fs::File::options().write(true).open(at.join("disk0.raw")).is_err()
    );
    // The files, by our own readers and by the kernel's, are those of the source.
    let source = mounted(&raw, "ro");
    tool("diffutils", "diff", &["-r", text(source.path()), text(&at.join("disk0.p1"))]).expect(0);
    let metadata = |path: PathBuf| {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.mode(), metadata.uid(), metadata.gid(), metadata.mtime(), metadata.len())
    };
    for name in ["etc/fstab", "etc/link", "etc/deep/noise"] {
        assert_eq!(metadata(source.path().join(name)), metadata(at.join("disk0.p1").join(name)), "{name}");
    }
    {
        let partition = at.join("disk0.p1.raw");
        let inner = Mounted::new(&["-t", "ext4", "-o", "loop,ro,noload", text(&partition)])
            .expect("this test wants root");
        tool("diffutils", "diff", &["-r", text(source.path()), text(inner.path())]).expect(0);
    }
    tool("mount", "umount", &[text(&at)]).expect(0);
    assert_eq!(running.ended(), Some(0));
    assert!(!is_mounted(&at));
}

#[test]
fn an_interrupt_unmounts_also_what_is_in_use() {
    let scene = Scene::new();
    let raw = scene.ext4("disk.raw", 32);
    let qcow2 = scene.path("disk.qcow2");
    run(&["capture", text(&raw), text(&qcow2)]).expect(0);
    let mut running = Running::start(&scene, text(&qcow2), "at");
    assert_eq!(
        fs::read_to_string(running.at.join("disk0/folder/text")).unwrap(),
        "some text\n".repeat(50_000)
    );
    running.interrupt();
    assert_eq!(running.ended(), Some(0));
    assert!(!is_mounted(&running.at));

    let mut busy = Running::start(&scene, text(&qcow2), "busy");
    let open = fs::File::open(busy.at.join("disk0.raw")).unwrap();
    busy.interrupt();
    let began = Instant::now();
    while is_mounted(&busy.at) {
        assert!(began.elapsed() < LIMIT, "it stays mounted");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Who has it open goes on reading.
    let mut bytes = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut bytes, 0).unwrap();
    drop(open);
    assert_eq!(busy.ended(), Some(0));
    run(&["images", "mount", text(&qcow2), text(&raw)]).expect(2).says(&["not a directory"]);
}
