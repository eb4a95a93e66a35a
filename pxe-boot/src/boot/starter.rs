// SPDX-License-Identifier: Apache-2.0
//! Who is told to load what: DHCP's boot files, TFTP's files, and menus.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use unmoor_images::Result;

use super::choice::{Asker, Choice, Choices};
use super::question::Question;
use super::script;
use super::shelf::{Shelf, UefiLoader, names};
use crate::dhcp::{Architecture, Boot, Client, Loader, Menu};
use crate::tftp::{Files, Opened};

/// What is said to machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they reach this server.
    pub address: Ipv4Addr,
    /// The port of plain HTTP.
    pub http_port: u16,
    /// The server's URL, for agents: `https://10.0.0.5`.
    pub server: String,
    /// SHA-256 of its CA, hex.
    pub pin: String,
    /// The CA, PEM.
    pub ca_pem: String,
    /// What UEFI machines load first; none of them is answered where there is none.
    pub uefi: Option<UefiLoader>,
    /// The same for those that come by HTTP Boot: see [`Shelf::http_loader`].
    pub uefi_http: Option<UefiLoader>,
    /// Words for every rescue environment's kernel; see [`script::check_option`](super::check_option).
    pub options: Vec<String>,
}

/// Answers machines that start.
pub struct Starter {
    choices: Arc<dyn Choices>,
    shelf: Shelf,
    settings: Settings,
    warn: Box<dyn Fn(String) + Send + Sync>,
}

impl Starter {
    /// `warn` hears why a machine was not answered.
    pub fn new(
        choices: Arc<dyn Choices>,
        shelf: Shelf,
        settings: Settings,
        warn: Box<dyn Fn(String) + Send + Sync>,
    ) -> Self {
        Self { choices, shelf, settings, warn }
    }

    /// What it says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The menu of iPXE.
    pub(super) fn ipxe(&self, asker: &Asker) -> Result<String> {
        let bios = asker.architecture == Some(Architecture::Bios);
        script::ipxe(&self.settings, &self.choices.choose(asker)?, bios)
    }

    /// The menu of GRUB.
    pub(super) fn grub(&self, asker: &Asker) -> Result<String> {
        script::grub(&self.settings, &self.choices.choose(asker)?)
    }

    /// What GRUB reads first.
    pub(super) fn grub_first(&self) -> String {
        script::grub_first(&self.settings)
    }

    /// The loader that a machine's firmware can run; none where there is none here.
    fn first(&self, architecture: Architecture, uefi: Option<UefiLoader>) -> Option<&'static str> {
        match architecture {
            Architecture::Bios => Some(names::UNDIONLY).filter(|name| self.shelf.has(name)),
            Architecture::UefiX64 => uefi.map(UefiLoader::file),
            Architecture::UefiX86 | Architecture::UefiArm64 | Architecture::Other(_) => None,
        }
    }

    /// The URL of iPXE's menu. What only iPXE knows it fills in itself.
    fn menu_url(&self, client: &Client) -> String {
        #[allow(clippy::literal_string_with_formatting_args, reason = "iPXE's, which it replaces")]
        let uuid = client.uuid.as_deref().unwrap_or("${uuid}");
        format!(
            "{}ipxe?mac={}&uuid={uuid}&serial=${{serial:uristring}}&arch=${{platform}}-${{buildarch}}",
            self.url(),
            client.mac()
        )
    }

    fn url(&self) -> String {
        format!("http://{}/boot/", script::host(self.settings.address, self.settings.http_port))
    }
}

impl Menu for Starter {
    fn boot(&self, client: &Client) -> Option<Boot> {
        let architecture = client.architecture?;
        let file = match client.loader {
            Loader::Ipxe => self.menu_url(client),
            Loader::Pxe => self.first(architecture, self.settings.uefi)?.to_owned(),
            Loader::Http => self.url() + self.first(architecture, self.settings.uefi_http)?,
            Loader::None => return None,
        };
        let asker = Asker {
            mac: Some(client.mac()),
            uuid: client.uuid.clone(),
            serial: None,
            architecture: client.architecture,
            address: None,
        };
        let wanted = match self.choices.choose(&asker) {
            Ok(Choice::Rescue { .. }) => true,
            // UEFI goes on with its next entry at once; a BIOS may start no disk after the network, so it is told to.
            Ok(Choice::Disk) => architecture == Architecture::Bios,
            Ok(Choice::Ignore) => false,
            Err(error) => {
                (self.warn)(format!("{client}: {}", error.chain()));
                false
            }
        };
        wanted.then_some(Boot { server: self.settings.address, file })
    }
}

/// One set of answers for all servers.
impl Menu for Arc<Starter> {
    fn boot(&self, client: &Client) -> Option<Boot> {
        (**self).boot(client)
    }
}

/// Where GRUB's images for networks look: `$prefix/x86_64-efi/grub.cfg`, then `$prefix/grub.cfg`, the prefix being `/grub`.
pub(super) fn is_grub_first(name: &str) -> bool {
    name == "grub/grub.cfg"
}

impl Files for Starter {
    fn open(&self, name: &str, client: IpAddr) -> Result<Option<Opened>> {
        // Some firmware writes paths as DOS does, and shim doubles slashes.
        let name = name.replace('\\', "/");
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let name = parts.join("/");
        if is_grub_first(&name) {
            return Ok(Some(Opened::Memory(self.grub_first().into_bytes())));
        }
        if let Some(question) = Question::of_name(&name) {
            return Ok(Some(Opened::Memory(self.grub(&question.asker(client))?.into_bytes())));
        }
        self.shelf.read(name.strip_prefix("boot/").unwrap_or(&name))
    }
}
