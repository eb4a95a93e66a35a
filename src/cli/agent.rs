// SPDX-License-Identifier: Apache-2.0
//! `unmoor agent`, and the same in the rescue environment.

use std::path::PathBuf;

use clap::Args;
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_initramfs::init::{End, Parameters};
use unmoor_pxe_boot::client::{Options, Pin, Trust};

use crate::agent::{self, Next, Voice};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor agent --server https://10.0.0.5 --pin 3f0c…
      The pin is what the server shows: the SHA-256 of its CA

  unmoor agent --server https://backup.lan:8443 --ca ca.pem";

/// Do what a server says: inspect, capture, restore
///
/// The rescue environment runs it by itself, with unmoor.server= and unmoor.pin= on the kernel's command line. It makes a key when it
/// starts, and shows its code; captures, restores and wipes wait until somebody has approved that code on the server.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The server
    #[arg(long, value_name = "URL")]
    server: String,
    /// SHA-256 of the server's CA, in hex; the CA itself is fetched
    #[arg(long, value_name = "HEX", required_unless_present = "ca", conflicts_with = "ca")]
    pin: Option<String>,
    /// Where the CA that the pin means is fetched, instead of http://SERVER/ca.pem
    #[arg(long, value_name = "URL", requires = "pin")]
    ca_url: Option<String>,
    /// A file with the server's CA (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Runs until it is stopped.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let trust = match (&arguments.pin, &arguments.ca) {
        (Some(pin), _) => Trust::Pin { pin: Pin::parse(pin)?, url: arguments.ca_url.clone() },
        (None, Some(path)) => Trust::File(path.clone()),
        (None, None) => {
            return Err(
                Error::new(ErrorKind::Usage, "connecting to the server").because("give --pin or --ca")
            );
        }
    };
    let options = Options { server: arguments.server.clone(), trust };
    let say = |text: &str| terminal.note(text.to_owned());
    let stopped = || terminal.cancelled();
    match agent::run(&options, &Voice { say: &say, stopped: &stopped }) {
        // Being stopped is how it ends.
        Err(error) if error.kind() == ErrorKind::Cancelled && terminal.cancelled() => Ok(Outcome::Done),
        other => other.map(|_| Outcome::Done),
    }
}

/// What the kernel's command line says of a server.
pub(crate) fn options(parameters: &Parameters) -> Option<Result<Options>> {
    let server = parameters.value("server").filter(|server| !server.is_empty())?.to_owned();
    let pin = parameters.value("pin").unwrap_or_default();
    let url = parameters.value("ca_url").map(str::to_owned);
    Some(Pin::parse(pin).map(|pin| Options { server, trust: Trust::Pin { pin, url } }))
}

/// The agent as a part of PID 1: it ends with the machine.
pub(crate) fn in_rescue(options: &Options, say: &(dyn Fn(&str) + Sync)) -> Result<End> {
    let next = agent::run(options, &Voice { say, stopped: &|| false })?;
    Ok(match next {
        Next::Reboot => End::Reboot,
        Next::PowerOff => End::PowerOff,
        Next::Stay => End::Stay,
    })
}
