// SPDX-License-Identifier: Apache-2.0
//! Which server, how it is recognized, and as whom: for the commands that ask one.

use std::path::PathBuf;

use clap::Args;
use unmoor_images::{Error, ErrorKind, Result};
use unmoor_pxe_boot::admin_client::AdminClient;
use unmoor_pxe_boot::api::{Machine, Selector};
use unmoor_pxe_boot::client::{Options, Pin, Trust};

/// Where a server is looked for that is on this host.
const HERE: &str = "https://localhost";

/// A server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server options")]
pub(crate) struct ServerOptions {
    /// The server, https://HOST or https://HOST:PORT; otherwise UNMOOR_SERVER; with --state https://localhost
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// A file with the server's CA (PEM); otherwise UNMOOR_CA
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// SHA-256 of the server's CA, in hex; the CA itself is fetched
    #[arg(long, value_name = "HEX")]
    pin: Option<String>,
    /// Where the CA that the pin means is fetched, instead of http://SERVER/ca.pem
    #[arg(long, value_name = "URL", requires = "pin")]
    ca_url: Option<String>,
    /// A file with the admin token; otherwise UNMOOR_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The server's state directory, on its own host: CA and token are found there
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl ServerOptions {
    /// Prepares to talk to it.
    pub(crate) fn connect(&self) -> Result<AdminClient> {
        let usage =
            |because: &'static str| Error::new(ErrorKind::Usage, "connecting to the server").because(because);
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let in_state = |name: &str| self.state.as_ref().map(|state| state.join(name));
        let server = self
            .server
            .clone()
            .or_else(|| given("UNMOOR_SERVER").map(|server| server.to_string_lossy().into_owned()))
            .or_else(|| self.state.as_ref().map(|_| HERE.to_owned()))
            .ok_or_else(|| usage("give --server or UNMOOR_SERVER"))?;
        let trust = match &self.pin {
            Some(pin) => Trust::Pin { pin: Pin::parse(pin)?, url: self.ca_url.clone() },
            None => Trust::File(
                self.ca
                    .clone()
                    .or_else(|| in_state("ca.pem"))
                    .or_else(|| given("UNMOOR_CA").map(PathBuf::from))
                    .ok_or_else(|| usage("give --ca, --pin or UNMOOR_CA"))?,
            ),
        };
        let token = self
            .token_file
            .clone()
            .or_else(|| in_state("admin.token"))
            .or_else(|| given("UNMOOR_TOKEN_FILE").map(PathBuf::from))
            .ok_or_else(|| usage("give --token-file or UNMOOR_TOKEN_FILE"))?;
        AdminClient::new(&Options { server, trust }, &AdminClient::token(&token)?)
    }
}

/// What `--machine` says: `3`, `52:54:00:12:34:56`, `name=web01`, `uuid=...`, `serial=...`, or a name.
pub(crate) fn selector(text: &str) -> std::result::Result<Selector, String> {
    let text = text.trim();
    let lower = Some(text.to_lowercase().replace('-', ":")).filter(|text| is_mac(text));
    let none = Selector::default();
    match text.split_once('=') {
        _ if text.is_empty() => Err("it is empty".to_owned()),
        Some((_, "")) => Err("nothing stands behind the =".to_owned()),
        Some(("name", name)) => Ok(Selector { name: Some(name.to_owned()), ..none }),
        Some(("uuid", uuid)) => Ok(Selector { uuid: Some(uuid.to_lowercase()), ..none }),
        Some(("serial", serial)) => Ok(Selector { serial: Some(serial.to_owned()), ..none }),
        Some(("mac", mac)) => Ok(Selector { mac: Some(mac.to_lowercase().replace('-', ":")), ..none }),
        Some(_) => Err("write MAC, name=NAME, uuid=UUID, serial=SERIAL, or its number".to_owned()),
        None if lower.is_some() => Ok(Selector { mac: lower, ..none }),
        None => Ok(match text.parse() {
            Ok(id) => Selector { id: Some(id), ..none },
            Err(_) => Selector { name: Some(text.to_owned()), ..none },
        }),
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()))
}

/// The one machine that a selector means.
pub(crate) fn find(client: &AdminClient, wanted: &Selector) -> Result<Machine> {
    if let Some(id) = wanted.id {
        return client.machine(id);
    }
    let mut fitting = client.machines()?;
    fitting.retain(|machine| {
        let facts = machine.facts.as_ref();
        let same = |known: Option<&String>, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| known.is_some_and(|known| known.eq_ignore_ascii_case(wanted)))
        };
        same(Some(&machine.name), &wanted.name)
            && wanted.mac.as_ref().is_none_or(|mac| machine.macs.contains(mac))
            && same(facts.and_then(|facts| facts.uuid.as_ref()), &wanted.uuid)
            && same(facts.and_then(|facts| facts.serial.as_ref()), &wanted.serial)
    });
    let failed =
        |because: String| Err(Error::new(ErrorKind::Usage, "looking for the machine").because(because));
    match fitting.len() {
        1 => fitting.pop().map_or_else(|| failed("there is none".to_owned()), Ok),
        0 => failed("the server knows none like that".to_owned()),
        several => failed(format!("{several} machines are like that: give its number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_what_is_typed() {
        let mac = selector("52-54-00-AB-cd-01").map(|selector| selector.mac);
        assert_eq!(mac, Ok(Some("52:54:00:ab:cd:01".to_owned())));
        assert_eq!(selector("17").map(|selector| selector.id), Ok(Some(17)));
        assert_eq!(selector("web01").map(|selector| selector.name), Ok(Some("web01".to_owned())));
        assert_eq!(selector("serial=XY").map(|selector| selector.serial), Ok(Some("XY".to_owned())));
        for wrong in ["", "name=", "model=x"] {
            assert!(selector(wrong).is_err(), "{wrong}");
        }
    }
}
