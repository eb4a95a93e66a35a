// SPDX-License-Identifier: Apache-2.0
//! What a machine that asks to be booted is to start.

use std::net::IpAddr;

use unmoor_images::Result;

use crate::dhcp::Architecture;

/// A machine that asks, by DHCP or for its menu by HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// The address of the adapter that it boots from, `52:54:00:12:34:56`.
    pub mac: Option<String>,
    /// SMBIOS' UUID, lower case.
    pub uuid: Option<String>,
    /// SMBIOS' serial number; only a menu's request has it.
    pub serial: Option<String>,
    /// Processor and firmware.
    pub architecture: Option<Architecture>,
    /// Where it asks from, once it has an address.
    pub address: Option<IpAddr>,
}

/// What it is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The rescue environment, with these words more on its kernel's command line.
    Rescue {
        /// Never a secret: whoever is on the network reads them.
        options: Vec<String>,
    },
    /// Its own disk.
    Disk,
    /// Nothing from here: it is not answered.
    Ignore,
}

/// Who decides. Asking is told to administrators: an unknown machine appears as one that boots.
pub trait Choices: Send + Sync {
    /// What `asker` is to start. Asked several times for one start: by DHCP once or twice, then for the menu.
    ///
    /// # Errors
    ///
    /// As the state's.
    fn choose(&self, asker: &Asker) -> Result<Choice>;
}
