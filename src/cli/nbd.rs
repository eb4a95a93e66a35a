// SPDX-License-Identifier: Apache-2.0
//! `unmoor nbd`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use unmoor_images::Result;
use unmoor_images::store::Location;
use unmoor_nbd::image::OpenOptions;
use unmoor_nbd::server::Address;
use unmoor_nbd::{Report, Request, Serving, tls};

use super::store::StoreOptions;
use super::values::FormatName;
use crate::cache;
use crate::output::size::{parse_size, show_size};
use crate::output::{Outcome, Terminal};

/// The port that IANA has reserved for NBD.
const PORT: u16 = 10809;

const EXAMPLES: &str = "\
Examples:
  unmoor nbd web01.qcow2
      Read-only, to clients on this machine: qemu-img, nbdinfo, nbd-client

  unmoor nbd web01.qcow2 --overlay web01.raw --socket /run/web01.sock
      A virtual machine boots from the image before anything is copied; what it
      writes goes into web01.raw:
      qemu-system-x86_64 -drive 'file=nbd+unix:///?socket=/run/web01.sock' ...

  unmoor nbd web01.qcow2 --overlay web01.raw --hydrate
      The same, and the rest is copied in the background until web01.raw is a raw
      disk that needs no image

  unmoor nbd dir:/srv/images/web01 --overlay web01.raw
      Straight from a store

  unmoor nbd db01.qcow2 --listen 0.0.0.0 --tls-cert server.pem --tls-key \\
      server.key --tls-ca clients.pem
      To clients of other machines that have a certificate";

/// Serve an image as NBD: virtual machines use it before it is copied
///
/// The disks of the image's machine are exports 0, 1, ... of a server for the Network Block Device protocol; the first
/// is also the default export. Without an overlay they are read-only. With one, a machine boots from the image at once:
/// what it writes goes into a local sparse file, and the image stays as it is. The server runs until it is
/// interrupted (SIGINT or SIGTERM), and then flushes and ends.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Disk image, the manifest NAME.unmoor.json, or an image of a store, dir:PATH/NAME or dir:PATH/NAME@TIME
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Take writes into this sparse file; FILE.bitmap beside it says what is in it
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Copy the rest into the overlay in the background, until it stands alone
    #[arg(long, requires = "overlay")]
    hydrate: bool,
    /// Name of an export instead of the disk's number; may be given for each disk
    #[arg(long = "export", value_name = "NAME")]
    exports: Vec<String>,
    /// Take the image as this format instead of detecting it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatName>,
    /// Let the image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    /// Memory for pieces of each image, 0 for none
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    cache: u64,
    /// Do not remember in which order a machine reads while it boots, and do not read ahead along it
    #[arg(long)]
    no_boot_order: bool,
    #[command(flatten)]
    listening: Listening,
    #[command(flatten)]
    store: StoreOptions,
}

/// Where, and to whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
struct Listening {
    /// Listen on this address [default: 127.0.0.1:10809]; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_address, conflicts_with = "socket")]
    listen: Option<SocketAddr>,
    /// Listen on a socket of the filesystem instead
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The server's certificate chain (PEM): everything is encrypted
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Take only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Listen to other machines without TLS: whoever reaches the port can read the disks
    #[arg(long)]
    insecure: bool,
    /// Connections at a time
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    max_clients: usize,
}

fn parse_address(text: &str) -> std::result::Result<SocketAddr, String> {
    let address =
        text.parse().or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT)));
    address.map_err(|_| format!("{text:?} is no address: write 127.0.0.1:{PORT}, 0.0.0.0, [::1]:{PORT}"))
}

/// Serves until it is told to stop.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let report =
        unmoor_nbd::serve(&arguments.request()?, terminal, &mut |serving| started(serving, terminal))?;
    ended(&report, terminal)?;
    Ok(Outcome::Done)
}

impl Arguments {
    fn request(&self) -> Result<Request> {
        let listening = &self.listening;
        let tls = listening.tls_cert.clone().zip(listening.tls_key.clone()).map(|(certificates, key)| {
            tls::Files { certificates, key, client_authorities: listening.tls_ca.clone() }
        });
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
        let stored = if Location::is_path(&self.image) {
            let (location, name) = Location::parse_image(&self.image.to_string_lossy())?;
            match self.store.open_for(&location, &name.machine) {
                Ok(store) => Some((store, name)),
                // An overlay that stands alone needs none.
                Err(error) => {
                    let alone = |path: &PathBuf| {
                        unmoor_nbd::overlay::examine(path)
                            .is_ok_and(|header| header.is_some_and(|header| header.complete))
                    };
                    if !self.overlay.as_ref().is_some_and(alone) {
                        return Err(error);
                    }
                    None
                }
            }
        } else {
            None
        };
        Ok(Request {
            image: self.image.clone(),
            stored,
            open: OpenOptions { allow_backing: self.allow_backing, format: self.format.map(Into::into) },
            address: match &listening.socket {
                Some(path) => Address::Unix(path.clone()),
                None => Address::Tcp(listening.listen.unwrap_or(local)),
            },
            tls,
            insecure: listening.insecure,
            names: self.exports.clone(),
            overlay: self.overlay.clone(),
            hydrate: self.hydrate,
            orders: cache::folder().filter(|_| !self.no_boot_order).map(|folder| folder.join("boot-order")),
            cache: self.cache,
            max_clients: listening.max_clients,
        })
    }
}

fn started(serving: &Serving<'_>, terminal: &Terminal) -> Result<()> {
    if terminal.json() {
        let exports: Vec<_> = serving
            .exports
            .iter()
            .map(|(name, size, description)| {
                let uri = serving.listener.uri(name);
                json!({ "name": name, "uri": uri, "size_bytes": size, "description": description })
            })
            .collect();
        let line = json!({ "event": "serving", "uri": serving.listener.uri(""), "exports": exports });
        return terminal.print(&line.to_string());
    }
    // One disk needs no name.
    let only = serving.exports.len() == 1;
    for (name, size, description) in &serving.exports {
        let uri = serving.listener.uri(if only { "" } else { name });
        terminal.print(&format!("{uri}  {} ({description})", show_size(*size)))?;
    }
    Ok(())
}

fn ended(report: &Report, terminal: &Terminal) -> Result<()> {
    let totals = &report.totals;
    if terminal.json() {
        let overlays: Vec<_> = report
            .overlays
            .iter()
            .map(|(path, held, alone)| json!({ "overlay": path, "held_bytes": held, "stands_alone": alone }))
            .collect();
        return terminal.print_result(&json!({
            "clients": totals.clients,
            "read_bytes": totals.read_bytes,
            "written_bytes": totals.written_bytes,
            "overlays": overlays,
            "warnings": terminal.warnings(),
        }));
    }
    terminal.print(&format!(
        "{} connections, {} read, {} written",
        totals.clients,
        show_size(totals.read_bytes),
        show_size(totals.written_bytes)
    ))?;
    for (path, held, alone) in &report.overlays {
        let alone = if *alone { ", stands alone" } else { "" };
        terminal.print(&format!("{}: {} held{alone}", path.display(), show_size(*held)))?;
    }
    Ok(())
}
