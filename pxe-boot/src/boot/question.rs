// SPDX-License-Identifier: Apache-2.0
//! Who asks for a menu.

use std::net::IpAddr;

use axum::extract::Query;
use axum::http::Uri;
use serde::Deserialize;

use super::choice::Asker;
use crate::dhcp::Architecture;

/// No serial number is longer, in bytes.
const LONGEST: usize = 128;

/// What a menu's request says of its machine.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Question {
    mac: String,
    uuid: String,
    serial: String,
    arch: String,
}

impl Question {
    /// Of a file's name as GRUB asks for it by TFTP: `boot/grub?mac=...`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let uri = format!("/{name}").parse::<Uri>().ok().filter(|uri| uri.path() == "/boot/grub")?;
        Query::<Self>::try_from_uri(&uri).ok().map(|Query(question)| question)
    }

    /// What is well-formed of it: the rest counts as not said.
    pub(super) fn asker(self, from: IpAddr) -> Asker {
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mac = Some(self.mac.replace('-', ":").to_lowercase()).filter(|mac| {
            mac.len() == 17
                && mac.split(':').count() == 6
                && mac.split(':').all(|pair| pair.len() == 2 && hex(pair))
        });
        let uuid = Some(self.uuid.to_lowercase()).filter(|uuid| {
            let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
            lengths == [8, 4, 4, 4, 12] && uuid.split('-').all(hex)
        });
        let serial = Some(self.serial.trim().to_owned()).filter(|serial| {
            !serial.is_empty() && serial.len() <= LONGEST && !serial.chars().any(char::is_control)
        });
        let architecture = match self.arch.as_str() {
            "pcbios-i386" | "pcbios-x86_64" => Some(Architecture::Bios),
            "efi-x86_64" => Some(Architecture::UefiX64),
            "efi-i386" => Some(Architecture::UefiX86),
            "efi-arm64" => Some(Architecture::UefiArm64),
            _ => None,
        };
        Asker { mac, uuid, serial, architecture, address: Some(from) }
    }
}
