// SPDX-License-Identifier: Apache-2.0
//! Trees of Debian packages, made by mmdebstrap.

use crate::lab;
use crate::run::{Failure, Result, While, as_root, output, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A guest's packages.
pub(crate) struct Tree {
    /// Its name in the lab.
    name: &'static str,
    /// Debian's name of the release.
    pub(crate) suite: &'static str,
    /// What is installed beside the essential packages.
    pub(crate) packages: &'static str,
}

pub(crate) const BOOKWORM: Tree = Tree {
    name: "bookworm",
    suite: "bookworm",
    packages: "linux-image-amd64,systemd-sysv,udev,dbus,grub-pc,ifupdown,isc-dhcp-client,iproute2,iputils-ping,\
        e2fsprogs,btrfs-progs,attr,acl,kmod,openssh-server,cron,logrotate,less,zstd,ca-certificates",
};

pub(crate) const TRIXIE: Tree = Tree {
    name: "trixie",
    suite: "trixie",
    packages: "linux-image-amd64,systemd-sysv,udev,dbus,grub-efi-amd64,iproute2,iputils-ping,e2fsprogs,xfsprogs,\
        lvm2,dosfstools,attr,acl,kmod,openssh-server,cron,logrotate,less,zstd,ca-certificates",
};

/// With dracut, NetworkManager, Secure Boot's signed loaders and systemd-boot; what makes and signs a unified kernel image.
pub(crate) const TRIXIE_DRACUT: Tree = Tree {
    name: "trixie-dracut",
    suite: "trixie",
    packages: "linux-image-amd64,dracut,systemd-sysv,udev,dbus,network-manager,grub-efi-amd64,grub-efi-amd64-signed,\
        shim-signed,systemd-boot,iproute2,iputils-ping,e2fsprogs,xfsprogs,btrfs-progs,lvm2,dosfstools,kmod,openssh-server,\
        cron,less,zstd,binutils,sbsigntool,openssl",
};

/// With all programs that compress an initramfs.
pub(crate) const BULLSEYE: Tree = Tree {
    name: "bullseye",
    suite: "bullseye",
    packages: "linux-image-amd64,systemd-sysv,udev,dbus,grub-pc,ifupdown,isc-dhcp-client,iproute2,iputils-ping,e2fsprogs,\
        kmod,openssh-server,cron,less,gzip,xz-utils,zstd,lz4,cpio",
};

/// Documents and translations are a third of the files and nothing boots from them.
const LEFT_OUT: [&str; 4] = ["doc", "info", "locale", "man"];

impl Tree {
    /// The tree as a tar archive, built where it is not cached.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        let name = format!("tree-{}", self.name);
        let directory = lab::cached(&name, &[self.suite, self.packages], |directory| {
            run(mmdebstrap(self.packages).arg(self.suite).arg(directory.join("tree.tar")).arg(mirror()))
        })?;
        Ok(directory.join("tree.tar"))
    }
}

/// Files of packages.
pub(crate) struct Packages {
    /// What they are called in the lab.
    pub(crate) name: &'static str,
    pub(crate) suite: &'static str,
    /// Their names; `linux-image-amd64` stands for the kernel's package that it names.
    pub(crate) names: &'static [&'static str],
}

/// The boot loader for the other firmware, which the administrator of a guest that changed its firmware has to install.
pub(crate) const BOOKWORM_UEFI: Packages =
    Packages { name: "bookworm", suite: "bookworm", names: &["grub-efi-amd64", "grub-efi-amd64-bin"] };
pub(crate) const TRIXIE_BIOS: Packages =
    Packages { name: "trixie", suite: "trixie", names: &["grub-pc", "grub-pc-bin"] };

impl Packages {
    /// The files in a tar archive, downloaded where they are not cached.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        self.built().map(|directory| directory.join("packages.tar"))
    }

    /// The files in a folder of their own.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        self.built().map(|directory| directory.join("packages"))
    }

    fn built(&self) -> Result<PathBuf> {
        let names = self.names.join(" ");
        lab::cached(&format!("packages-{}", self.name), &[self.suite, &names], |directory| {
            let (apt, packages) = (directory.join("apt"), directory.join("packages"));
            self.download(&apt, &packages)?;
            let mut tar = Command::new("tar");
            run(tar.arg("-C").arg(&packages).arg("-cf").arg(directory.join("packages.tar")).arg("."))?;
            fs::remove_dir_all(&apt).while_doing(format_args!("removing {}", apt.display()))
        })
    }

    /// Fills the directory `packages` with the files, by an apt that knows nothing of this machine and keeps its own in `apt`.
    fn download(&self, apt: &Path, packages: &Path) -> Result {
        let of_apt = |name: &str| apt.join(name);
        for name in [of_apt("state/lists/partial"), of_apt("cache/archives/partial"), packages.to_owned()] {
            fs::create_dir_all(&name).while_doing(format_args!("creating {}", name.display()))?;
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("deb [signed-by={keyring}] {} {} main\n", mirror(), self.suite);
        fs::write(of_apt("sources.list"), source).while_doing("writing sources.list")?;
        fs::write(of_apt("status"), "").while_doing("writing apt's status")?;
        let apt = |program: &str| {
            let mut command = Command::new(program);
            command.current_dir(packages);
            for option in ["APT::Architecture=amd64", "APT::Architectures=amd64", "APT::Sandbox::User="] {
                command.args(["-o", option]);
            }
            for (option, name) in [
                ("Dir::State", "state"),
                ("Dir::State::status", "status"),
                ("Dir::Cache", "cache"),
                ("Dir::Etc::sourcelist", "sources.list"),
                ("Dir::Etc::sourceparts", "none"),
            ] {
                command.args(["-o", &format!("{option}={}", of_apt(name).display())]);
            }
            command
        };
        let languages = ["-o", "Acquire::Languages=none"];
        run(apt("apt-get").args(languages).args(["--quiet=2", "update"]))?;
        let mut names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        for name in names.iter_mut().filter(|name| *name == "linux-image-amd64") {
            let depends = output(apt("apt-cache").args(["depends", name]))?;
            let kernel = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
            let kernel = kernel.ok_or_else(|| Failure::new(format!("{name} names no kernel: {depends}")))?;
            *name = format!("linux-image-{kernel}");
        }
        run(apt("apt-get").args(["--quiet=2", "download"]).args(names))
    }
}

/// mmdebstrap with the options that all trees share; suite, target and mirror are left to be added.
pub(crate) fn mmdebstrap(packages: &str) -> Command {
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
