// SPDX-License-Identifier: Apache-2.0
//! A plan: edits as values, in order, which can be printed, linted, saved and carried out.
//!
//! ```text
//!   Draft (the guest's files + what is planned so far; itself Files) --finish--> Plan { edits, disk, findings, capabilities }
//! ```
//!
//! Rules write to a [`Draft`], so that a rule sees what those before it changed, and a file changed by three rules is one
//! edit with three reasons.
//!
//! A plan is saved as JSON ([`Plan::to_json`], [`Plan::load`]) and shown to people by [`Plan::show`].

mod diff;
mod draft;
mod identity;
mod saved;
mod show;
#[cfg(test)]
mod tests;
mod view;

use serde::{Deserialize, Serialize};

pub use draft::Draft;
pub use identity::{Identified, IdentityEdit};
pub(crate) use saved::check_path;
pub(crate) use show::size;

/// Bytes of a file or disk. In JSON: text where it is UTF-8, else base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// UTF-8.
    Text(String),
    /// Anything.
    Base64(#[serde(with = "base64_bytes")] Vec<u8>),
}

impl Content {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Base64(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Base64(error.into_bytes()), Self::Text)
    }
}

/// Why something is to be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The rule's name: "fstab", "inject-drivers". Names are stable: scripts may match them.
    pub rule: String,
    /// For people: "/dev/sda1 is another disk's name on the new machine".
    pub why: String,
}

/// One complete change of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Why, in the order in which the reasons came.
    pub reasons: Vec<Reason>,
    /// Absolute path in the guest, without links in its parents.
    pub path: String,
    /// What.
    pub change: Change,
}

/// What becomes of a file. `was` is what is changed, so that a plan is never applied to another state than it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Change {
    /// The whole content; a new file gets `mode` and root's ownership, an existing one keeps all that is its own.
    Write {
        content: Content,
        mode: u32,
        was: Was,
    },
    /// Bytes behind the end (of an initramfs).
    Append {
        content: Content,
        was: Was,
    },
    /// A symbolic link.
    Link {
        target: String,
        was: Was,
    },
    Remove {
        was: Was,
    },
    /// A directory, where there is none yet; owned by root.
    Directory {
        mode: u32,
    },
}

impl Change {
    /// What it was planned for.
    pub fn was(&self) -> Was {
        match self {
            Self::Write { was, .. }
            | Self::Append { was, .. }
            | Self::Link { was, .. }
            | Self::Remove { was } => was.clone(),
            Self::Directory { .. } => Was::Absent,
        }
    }
}

/// The state that a change was planned for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Was {
    Absent,
    /// BLAKE3 of the content in hex, and its length in bytes.
    File {
        hash: String,
        size: u64,
    },
    Link {
        target: String,
    },
}

/// Bytes of a disk outside of mounted filesystems: tables, boot code, new EFI system partitions. Carried out after all files are
/// written and unmounted, in order; writes below 1 MiB come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEdit {
    /// Why.
    pub reasons: Vec<Reason>,
    /// Which disk, from 0.
    pub disk: usize,
    /// For people: what the disk will have: "partition 4: EFI system partition, 100.0 MiB at 3.9 GiB".
    pub summary: Vec<String>,
    /// First byte and bytes.
    pub writes: Vec<(u64, Content)>,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Severity {
    Note,
    Warning,
    /// The guest would not boot, or could not be trusted to: nothing is written.
    Error,
}

/// What the administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The rule that says it.
    pub rule: String,
    /// What.
    pub text: String,
    /// What to do about it: a command, an option.
    pub remedy: Option<String>,
}

/// What the guest can use when the plan is applied; definitions of machines are derived from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Capabilities {
    /// Disk buses that the default kernel can boot from: "virtio", "virtio-scsi", "ahci", "nvme", "ide", "megasas", "pvscsi",
    /// "hyperv", "xen", best first.
    pub disk_buses: Vec<String>,
    /// Network adapter models: "virtio-net-pci", "e1000e", "vmxnet3", best first.
    pub nic_models: Vec<String>,
    pub uefi: bool,
    pub secure_boot: bool,
    /// "ttyS0".
    pub serial: Option<String>,
    /// virtio devices may be modern only (kernel 3.18 or newer).
    pub virtio_modern: bool,
    /// "x86-64-v2".
    pub cpu_baseline: Option<String>,
    /// The new machine's adapters in order, each with the hardware address that the guest knows it by, where one was told; empty
    /// where nothing was told of adapters.
    #[serde(default)]
    pub nic_addresses: Vec<Option<String>>,
}

/// A file that the initramfs of every bootable kernel is to hold too, because udev and LVM there decide first. It goes into the
/// archive that is appended to them; the plan then shows it as part of that edit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InitramfsFile {
    /// Absolute: "/etc/systemd/network/70-unmoor-ens3.link".
    pub path: String,
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
}

/// What would be done, completely.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Plan {
    pub edits: Vec<Edit>,
    pub disk: Vec<DiskEdit>,
    /// For each of `disk`, BLAKE3 in hex of the bytes that its writes replace.
    #[serde(default)]
    pub disk_was: Vec<String>,
    /// Carried out last of all, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentityEdit>,
    pub findings: Vec<Finding>,
    pub capabilities: Capabilities,
}

impl Plan {
    /// Whether some finding forbids it.
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
