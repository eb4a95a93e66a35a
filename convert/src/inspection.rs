// SPDX-License-Identifier: Apache-2.0
//! Facts of a guest, as [`crate::inspect`] finds them. Everything is as the guest has it; nothing is a decision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unmoor_images::manifest::Firmware;

/// A guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The operating system.
    pub system: System,
    /// How it starts: an ESP with a loader for it, or boot code of a BIOS.
    pub firmware: Firmware,
    /// What the root filesystem stands on, from the disk up.
    pub root: Vec<Layer>,
    /// Kernels, newest first.
    pub kernels: Vec<Kernel>,
    /// How it is booted.
    pub boot: Boot,
    /// /etc/fstab.
    pub fstab: Vec<FstabLine>,
    /// /etc/crypttab.
    pub crypttab: Vec<CrypttabLine>,
    /// What resumes from where: "resume=" of command lines, initramfs-tools' conf.d/resume.
    pub resume: Vec<Resume>,
    /// LVM's configuration.
    pub lvm: Lvm,
    /// mdadm.conf's ARRAY lines, as they stand.
    pub md_arrays: Vec<String>,
    /// /etc/multipath.conf, bindings or wwids name devices.
    pub multipath: bool,
    /// Networks.
    pub network: Network,
    /// Guest tools of hypervisors.
    pub tools: Vec<GuestTool>,
    /// Serial consoles: of command lines and of enabled gettys.
    pub consoles: Vec<String>,
    /// Files that make this machine this one.
    pub identity: IdentityFiles,
    /// What could not be read or understood, and why.
    pub notes: Vec<String>,
}

/// The operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct System {
    /// ID and ID_LIKE of os-release.
    pub id: Option<String>,
    pub id_like: Vec<String>,
    pub version_id: Option<String>,
    /// PRETTY_NAME.
    pub name: Option<String>,
    /// As `uname -m` says it.
    pub architecture: Option<String>,
    pub hostname: Option<String>,
    pub init: Option<String>,
    /// "enforcing", "permissive", "disabled", where SELinux is configured.
    pub selinux: Option<String>,
    /// "rpm", "dpkg", "pacman", "apk".
    pub package_manager: Option<String>,
}

/// One storey of what root stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Layer {
    Disk { disk: usize },
    Partition { disk: usize, number: u32, partuuid: Option<String> },
    Md { uuid: String, level: Option<i32> },
    Luks { uuid: Option<String>, version: u16, unlock: Unlock },
    LogicalVolume { vg: String, lv: String },
    Filesystem { kind: String, uuid: Option<String>, subvolume: Option<String> },
}

/// What opens a LUKS container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unlock {
    /// Slots that a passphrase, recovery key or key file opens.
    pub passphrase: u32,
    /// Tokens that bind a slot to this machine: "systemd-tpm2", "clevis", "systemd-fido2".
    pub bound: Vec<String>,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// "6.1.0-32-amd64".
    pub release: String,
    /// The image: "/boot/vmlinuz-6.1.0-32-amd64", or a UKI.
    pub image: Option<String>,
    /// Directory of its modules, without links: "/usr/lib/modules/6.1.0-32-amd64".
    pub modules: Option<String>,
    /// Its initramfs files, in the order in which they are loaded.
    pub initramfs: Vec<Initramfs>,
    /// Configuration it was built with: "/boot/config-...".
    pub config: Option<String>,
    /// Some boot entry starts it.
    pub bootable: bool,
    /// It is for something else than a normal boot: "kdump", "rescue", "xen".
    pub special: Option<String>,
}

/// An initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initramfs {
    /// Its file; for one within a UKI, the UKI's.
    pub path: String,
    /// "initramfs-tools", "dracut", "mkinitcpio", "microcode", "uki", "unknown".
    pub made_by: String,
    /// Made for the machine it was made on, as far as that shows (dracut hostonly, MODULES=dep, mkinitcpio autodetect).
    pub host_only: bool,
    /// Compression of its segments, outermost first: "none", "zstd".
    pub compression: Vec<String>,
    /// Why it could not be read, where that is so.
    pub broken: Option<String>,
    /// Length in bytes.
    pub size: u64,
}

/// How a guest is booted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Loaders that are installed.
    pub loaders: Vec<Loader>,
    /// What can be chosen.
    pub entries: Vec<BootEntry>,
    /// EFI system partitions: mount point in the guest and index into [`crate::devices::Devices`].
    pub esps: Vec<Esp>,
    /// Files with kernel arguments for entries that are still to be made: /etc/default/grub, /etc/kernel/cmdline.
    pub argument_files: Vec<String>,
    /// /etc/kernel/entry-token's content, or what stands for it.
    pub entry_token: Option<String>,
}

/// A boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loader {
    /// What it is.
    pub kind: LoaderKind,
    /// Firmware that it is for.
    pub firmware: Firmware,
    /// Its configuration: "/boot/grub/grub.cfg".
    pub config: Option<String>,
    /// Its EFI binaries, by path in the guest.
    pub binaries: Vec<String>,
    /// shim before it.
    pub shim: bool,
}

/// Kinds of boot loaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum LoaderKind {
    Grub2,
    GrubLegacy,
    SystemdBoot,
    Uki,
    Extlinux,
    Lilo,
    Unknown,
}

/// One bootable choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEntry {
    /// Where it is spelled: file, and first and last line (from 1), or no lines for a file of its own.
    pub file: String,
    /// First and last line, from 1.
    pub lines: Option<(usize, usize)>,
    /// How: "grub", "bls", "systemd-boot", "uki", "extlinux".
    pub style: String,
    /// For people.
    pub title: String,
    /// Kernel image, by path in the guest.
    pub kernel: Option<String>,
    /// Initramfs files, by path in the guest.
    pub initramfs: Vec<String>,
    /// Kernel arguments with variables expanded.
    pub arguments: Vec<String>,
    /// The one that is started when nobody chooses.
    pub default: bool,
}

/// An EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Esp {
    /// Where the guest mounts it: "/boot/efi"; `None` where it does not.
    pub mountpoint: Option<String>,
    /// Index into [`crate::devices::Devices::devices`].
    pub device: usize,
    /// \EFI\BOOT\BOOTX64.EFI is there.
    pub fallback: bool,
}

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FstabLine {
    /// Its number in the file, from 1.
    pub line: usize,
    pub spec: String,
    pub mountpoint: String,
    pub kind: String,
    pub options: String,
    /// What it means, as index into [`crate::devices::Devices::devices`].
    pub device: Option<usize>,
}

/// A line of crypttab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CrypttabLine {
    pub line: usize,
    pub name: String,
    pub spec: String,
    pub key: String,
    pub options: String,
    pub device: Option<usize>,
}

/// A reference to the swap area to resume from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Resume {
    pub file: String,
    pub spec: String,
    pub device: Option<usize>,
}

/// LVM's configuration in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Lvm {
    /// /etc/lvm/devices/system.devices is there (and used, as far as lvm.conf says).
    pub devices_file: bool,
    /// Filter lines of lvm.conf that name devices, with their numbers.
    pub filters: Vec<(usize, String)>,
    pub lvmlockd: bool,
}

/// Networks of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Interfaces that some configuration names or matches, with hardware behind them as far as can be told.
    pub interfaces: Vec<Interface>,
    /// udev's 70-persistent-net.rules and systemd's .link files: file, hardware address, name.
    pub pinned_names: Vec<PinnedName>,
    /// "net.ifnames=0" or "biosdevname=0" stands in kernel arguments.
    pub kernel_names: bool,
}

/// An interface in the guest's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Interface {
    /// Its name: "ens3". `None` where the configuration matches by hardware address alone.
    pub name: Option<String>,
    /// Its hardware address, from the configuration or from the manifest's facts of the machine.
    pub mac: Option<String>,
    /// Addresses with prefix: "192.0.2.7/24"; "dhcp", "dhcp6".
    pub addresses: Vec<String>,
    pub gateways: Vec<String>,
    /// How it is configured, and where it stands.
    pub configured_by: Vec<ConfiguredBy>,
    /// Bond, bridge or VLAN; no hardware of its own.
    pub virtual_kind: Option<String>,
}

/// Where an interface is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ConfiguredBy {
    pub stack: Stack,
    pub file: String,
    /// What the file matches by: "name", "mac", "path", "driver".
    pub matches: BTreeMap<String, String>,
}

/// Network stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Stack {
    Ifupdown,
    NetworkManager,
    Networkd,
    Netplan,
    Ifcfg,
    Wicked,
}

/// A name that is bound to an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct PinnedName {
    pub file: String,
    pub mac: Option<String>,
    pub path: Option<String>,
    pub name: String,
}

/// Guest tools of a hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct GuestTool {
    /// "vmware", "virtualbox", "xen", "hyperv", "kvm", "parallels".
    pub hypervisor: String,
    /// "open-vm-tools".
    pub name: String,
    /// Enabled systemd units and init scripts, by path.
    pub units: Vec<String>,
}

/// Files that make a machine this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct IdentityFiles {
    pub machine_id: Option<String>,
    /// Present among: ssh host keys, D-Bus id, random seeds, DHCP leases and ids, iSCSI initiator name, NVMe host NQN.
    pub files: Vec<String>,
}
