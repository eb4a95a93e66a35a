// SPDX-License-Identifier: Apache-2.0
//! Trees of Debian packages, made by mmdebstrap.

use crate::lab;
use crate::run::{Result, as_root, run};
use std::path::PathBuf;

/// A guest's packages.
pub(crate) struct Tree {
    /// Debian's name of the release.
    pub(crate) suite: &'static str,
    /// What is installed beside the essential packages.
    pub(crate) packages: &'static str,
}

pub(crate) const BOOKWORM: Tree = Tree {
    suite: "bookworm",
    packages: "linux-image-amd64,systemd-sysv,udev,dbus,grub-pc,ifupdown,isc-dhcp-client,iproute2,iputils-ping,\
        e2fsprogs,btrfs-progs,attr,acl,kmod,openssh-server,cron,logrotate,less,zstd,ca-certificates",
};

pub(crate) const TRIXIE: Tree = Tree {
    suite: "trixie",
    packages: "linux-image-amd64,systemd-sysv,udev,dbus,grub-efi-amd64,iproute2,iputils-ping,e2fsprogs,xfsprogs,\
        lvm2,dosfstools,attr,acl,kmod,openssh-server,cron,logrotate,less,zstd,ca-certificates",
};

/// Documents and translations are a third of the files and nothing boots from them.
const LEFT_OUT: [&str; 4] = ["doc", "info", "locale", "man"];

impl Tree {
    /// The tree as a tar archive, built where it is not cached.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        let name = format!("tree-{}", self.suite);
        let directory = lab::cached(&name, &[self.suite, self.packages], |directory| {
            run(mmdebstrap(self.packages).arg(self.suite).arg(directory.join("tree.tar")).arg(mirror()))
        })?;
        Ok(directory.join("tree.tar"))
    }
}

/// mmdebstrap with the options that all trees share; suite, target and mirror are left to be added.
pub(crate) fn mmdebstrap(packages: &str) -> std::process::Command {
    let mut command = as_root("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase"]);
    for directory in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{directory}/*"));
    }
    command.arg(format!("--include={packages}"));
    command
}

/// Where packages come from: `$UNMOOR_DEBIAN_MIRROR`, or Debian's own address.
pub(crate) fn mirror() -> String {
    std::env::var("UNMOOR_DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".to_owned())
}
