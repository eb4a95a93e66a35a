// SPDX-License-Identifier: Apache-2.0
//! What a guest is to fit: the hardware of its new machine, and the choices of the administrator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unmoor_images::manifest::Firmware;

/// What a piece of hardware is for. A guest cannot start without drivers for its [`Disk`](Self::Disk).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Purpose {
    Bus,
    Disk,
    Nic,
    Console,
    Other,
}

/// A piece of hardware that needs a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// As the kernel writes it: "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00".
    pub modalias: String,
    /// What it is for.
    pub purpose: Purpose,
    /// For people: "virtio block device (1af4:1001)".
    pub name: String,
    /// False in a superset such as `physical`, where only some of the parts will be there: a kernel without a driver for it
    /// is told, and is no reason to refuse.
    pub certain: bool,
}

/// A network adapter of the new machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetNic {
    /// Hardware address, lower case with colons, where it is known.
    pub mac: Option<String>,
    /// Its modalias, where it is known.
    pub modalias: Option<String>,
    /// QEMU's or libvirt's name of its model: "virtio-net-pci", "e1000e".
    pub model: Option<String>,
}

/// A machine to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The profile's name, or the machine's.
    pub name: String,
    /// What needs drivers.
    pub parts: Vec<Part>,
    /// Its network adapters in order; empty where they are not known.
    pub nics: Vec<TargetNic>,
    /// Its serial console, where it has one: "ttyS0".
    pub serial: Option<String>,
    /// The hypervisor whose guest tools belong there: "vmware", "hyperv", "xen", "kvm"; `None` on metal.
    pub hypervisor: Option<String>,
    /// Bytes per logical sector of the disk that it boots from, where known.
    pub sector_size: Option<u32>,
}

/// What a clone shares with its original.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The machine moves: it stays who it is.
    #[default]
    Move,
    /// A second machine arises: other machine-id, SSH keys, DHCP ids, UUIDs.
    Clone,
}

/// What is to be done with a signed boot chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// What is signed stays as it is.
    #[default]
    Keep,
    /// The target does not check signatures: what is signed may be replaced.
    Off,
}

/// Everything that decides a plan, beside the guest. Where it is sent to the appliance, the payload is not: it is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The machine to fit.
    pub hardware: Hardware,
    /// How it is to start; `None` keeps what the guest has.
    pub firmware: Option<Firmware>,
    /// Which old interface becomes which adapter, by number in [`Hardware::nics`]; empty: in order.
    pub nics: BTreeMap<String, usize>,
    /// Move or clone.
    pub identity: Identity,
    /// Signatures.
    pub secure_boot: SecureBoot,
    /// A key and certificate (PEM) to sign what is made anew.
    pub sign_key: Option<SignKey>,
    /// Boot loader files that the rescue environment brings, by path below its payload: "x86_64-efi-signed/shimx64.efi.signed".
    #[serde(skip)]
    pub payload: BTreeMap<String, Vec<u8>>,
    /// Random bytes for identities, so that a plan is a function of its inputs.
    pub seed: [u8; 32],
    /// Seconds since 1970, for the names of undo copies and times in archives.
    pub now: i64,
}

/// For Authenticode signatures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignKey {
    /// PKCS#8 or PKCS#1 private key, PEM.
    pub key: String,
    /// X.509 certificate, PEM.
    pub certificate: String,
}
