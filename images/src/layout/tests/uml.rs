// SPDX-License-Identifier: Apache-2.0
//! A Linux kernel of its own for a test: user-mode-linux on this machine's root, read-only. It has device-mapper and md
//! wherever the test runs, and what it does to its devices stays in its files.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest a script may take; it takes seconds, but the machine may be busy.
const LIMIT: Duration = Duration::from_secs(300);

const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin MDADM_NO_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mount -t proc proc /proc
mount -t sysfs sys /sys
for dir in /run /var /tmp; do mount -t tmpfs tmp $dir; done
mkdir -p /run/lock/lvm /run/lvm /run/mdadm /var/tmp
mount -t hostfs -o "$(sed -n 's/.*work=\([^ ]*\).*/\1/p' /proc/cmdline)" none /mnt
cd /mnt
for module in loop dm-mod dm-thin-pool dm-mirror dm-raid dm-snapshot raid0 raid1 raid456 raid10; do
    modprobe -d /mnt $module
done
LVM_CONFIG='devices { use_devicesfile=0 obtain_device_list_from_udev=0 global_filter=["a|/dev/loop|","a|/dev/md|","r|.*|"] }
backup { backup=0 archive=0 } activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { use_lvmpolld=0 locking_dir="/run/lock/lvm" system_id_source="none" }'
vm() { command=$1; shift; lvm "$command" --config "$LVM_CONFIG" "$@"; }
attach() { n=0; for file in "$@"; do losetup /dev/loop$n /mnt/$file; eval "$file=/dev/loop$n"; n=$((n+1)); done; }
(set -ex; . /mnt/script) > /mnt/log 2>&1 && echo finished > /mnt/finished
sync
halt -f
"#;

/// Runs `script` as root of a kernel of its own, in `dir`, where it finds the test's files; answers its log.
///
/// In it, `attach FILE...` makes loop devices named by variables `$FILE`, and `vm` is `lvm` without udev.
pub(crate) fn run(dir: &Path, script: &str) -> String {
    for (tool, package) in [
        ("/usr/bin/linux.uml", "user-mode-linux"),
        ("/usr/sbin/lvm", "lvm2"),
        ("/usr/sbin/thin_check", "thin-provisioning-tools"),
        ("/usr/sbin/mdadm", "mdadm"),
        ("/usr/sbin/modprobe", "kmod"),
        ("/usr/sbin/mkfs.xfs", "xfsprogs"),
    ] {
        assert!(
            Path::new(tool).exists() || Path::new(tool.trim_start_matches("/usr")).exists(),
            "{tool} is missing: install the Debian package {package}"
        );
    }
    std::fs::create_dir_all(dir.join("lib")).unwrap();
    let _ = std::os::unix::fs::symlink("/usr/lib/uml/modules", dir.join("lib/modules"));
    let _ = std::fs::remove_file(dir.join("finished"));
    std::fs::write(dir.join("script"), script).unwrap();
    std::fs::write(dir.join("init"), INIT).unwrap();
    Command::new("chmod").arg("+x").arg(dir.join("init")).status().unwrap();
    let console = std::fs::File::create(dir.join("console")).unwrap();
    let mut kernel = Command::new("/usr/bin/linux.uml")
        .args(["mem=512M", "rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=fd:0,fd:1", "quiet"])
        .arg(format!("init={}", dir.join("init").display()))
        .arg(format!("work={}", dir.display()))
        .env("TMPDIR", dir)
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .unwrap();
    let began = Instant::now();
    while kernel.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            kernel.kill().unwrap();
            kernel.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let read =
        |name| String::from_utf8_lossy(&std::fs::read(dir.join(name)).unwrap_or_default()).into_owned();
    assert!(
        dir.join("finished").exists(),
        "the script failed:\n{}\nconsole:\n{}",
        read("log"),
        read("console")
    );
    read("log")
}
