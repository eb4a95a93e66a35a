// SPDX-License-Identifier: Apache-2.0
//! The server in one process: API, boot files by HTTP and TFTP, DHCP.
//!
//! - [`config`] is the file, [`plan`] what it comes to on this host.
//! - [`files`] gathers what machines load.
//! - [`run`] starts everything, and ends it together.

pub(crate) mod config;
pub(crate) mod files;
mod notify;
pub(crate) mod plan;
mod voice;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_pxe_boot::boot::{self, Settings, Starter, names};
use unmoor_pxe_boot::server::{Options, Server};
use unmoor_pxe_boot::{dhcp, tftp, web};

use crate::appliance::raise_open_files;
use crate::cli::store::StoreOptions;
use crate::output::Terminal;
use config::{Config, Mode};
use plan::Plan;
use voice::Voice;

/// The port at which firmware asks for files.
const TFTP: u16 = 69;
const TICK: Duration = Duration::from_millis(250);

/// Serves until it is told to stop, or one of the servers fails.
pub(crate) fn run(config: &Config, terminal: &Terminal) -> Result<()> {
    let plan = Plan::of(config)?;
    // What cannot be raised serves fewer machines, and no worse.
    let _ = raise_open_files();
    plan.make_state()?;
    let shelf = files::shelf(config, &plan, terminal)?;
    let store = StoreOptions::of(config.store.password_file.clone(), config.store.key_file.clone())
        .open(&config.store.url.0)?;
    let server = Server::open(Options {
        state: config.state.clone(),
        listen: config.https.listen,
        names: plan.names.clone(),
        certificate: config.https.certificate.clone().zip(config.https.key.clone()),
        store: Arc::new(store),
        machines: config.machines(),
        groups: config.groups(),
        rate_limit: config.limits.rate.as_ref().map_or(0, |rate| rate.0),
        web: Some(Arc::new(pages)),
    })?;
    let http = boot::http::Server::bind(config.http.listen, boot::http::Limits::default())?;
    let chosen = shelf.uefi_loader(config.boot.loader)?;
    let beside = config.dhcp.get_ref().mode == Mode::Proxy;
    let uefi = if beside { shelf.proxy_loader(chosen)? } else { chosen };
    let uefi_http = shelf.http_loader(chosen);
    let mut warnings = Vec::new();
    if plan.boots(config) {
        if chosen.is_some() && uefi != chosen {
            warnings.push(
                "UEFI machines get iPXE, if anything, and need Secure Boot off: beside another DHCP server this GRUB would look for its \
                 menu there (Debian 13's does not)"
                    .to_owned(),
            );
        }
        if chosen.is_some() && uefi_http.is_none() {
            warnings.push(
                "UEFI machines that start by HTTP are not served: there is no iPXE for UEFI".to_owned(),
            );
        }
        if chosen.is_none() {
            warnings.push(
                "UEFI machines are not served: there is neither shim with GRUB nor iPXE for UEFI".to_owned(),
            );
        }
        if !shelf.has(names::UNDIONLY) {
            warnings.push(format!("BIOS machines are not served: {} is not there", names::UNDIONLY));
        }
    }
    let settings = Settings {
        address: plan.address,
        http_port: http.address().port(),
        server: plan.url(server.address().port()),
        pin: server.pin(),
        ca_pem: server.ca_pem().to_owned(),
        uefi,
        uefi_http,
        options: config::words(&config.rescue.options),
    };
    let (sender, complaints) = mpsc::sync_channel(256);
    let warn = Box::new(move |text| {
        let _ = sender.try_send(text);
    });
    let starter = Arc::new(Starter::new(Arc::clone(&server) as _, shelf, settings, warn));
    let listen = || tftp::Server::bind((plan.address, TFTP).into(), tftp::Limits::default());
    let tftp = config.tftp.enabled.then(listen).transpose()?;
    let mut dhcp = match plan.role(config)? {
        Some(role) => {
            let menu = Box::new(Arc::clone(&starter));
            let responder = dhcp::Responder { address: plan.address, role, menu };
            let settings = dhcp::Settings { interface: config.network.interface.clone() };
            Some(dhcp::Server::bind(&settings, responder)?)
        }
        None => None,
    };
    say(config, &plan, &server, http.address(), terminal)?;
    let stop = AtomicBool::new(false);
    let voice = Voice { terminal, stop: &stop };
    for warning in warnings {
        voice.warn(warning);
    }
    notify::ready();
    let stopped = || voice.cancelled();
    let outcome = std::thread::scope(|scope| {
        let (voice, stop, stopped) = (&voice, &stop, &stopped);
        let mut parts = vec![
            ("HTTPS", scope.spawn(move || ending(stop, || server.serve(stopped, voice)))),
            (
                "HTTP",
                scope.spawn({
                    let starter = Arc::clone(&starter);
                    let http = &http;
                    move || ending(stop, || http.serve(starter, voice))
                }),
            ),
            ("the log", scope.spawn(move || ending(stop, || told(&complaints, voice)))),
        ];
        if let Some(tftp) = &tftp {
            let starter = Arc::clone(&starter);
            parts.push(("TFTP", scope.spawn(move || ending(stop, || tftp.serve(&*starter, voice)))));
        }
        if let Some(dhcp) = &mut dhcp {
            parts.push(("DHCP", scope.spawn(move || ending(stop, || dhcp.serve(voice)))));
        }
        let mut outcome = Ok(());
        for (name, part) in parts {
            let ended = part.join().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, format!("serving {name}")).because("its thread has failed"))
            });
            outcome = outcome.and(ended);
        }
        outcome
    });
    notify::stopping();
    match outcome {
        // Being stopped is how it ends.
        Err(error) if error.kind() == ErrorKind::Cancelled && terminal.cancelled() => Ok(()),
        other => other,
    }
}

/// The web page, for whoever has the administrators' token.
fn pages(server: &Arc<Server>) -> unmoor_pxe_boot::Router {
    let checking = Arc::clone(server);
    web::router(Arc::clone(server) as _, Arc::new(move |token| checking.is_admin_token(token)))
}

/// Runs a part of the server; when it ends, however it does, all others end too.
fn ending(stop: &AtomicBool, part: impl FnOnce() -> Result<()>) -> Result<()> {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let _ends = Ends(stop);
    part()
}

/// Passes on what comes from where no monitor reaches.
fn told(complaints: &mpsc::Receiver<String>, voice: &Voice<'_>) -> Result<()> {
    while !voice.cancelled() {
        if let Ok(text) = complaints.recv_timeout(TICK) {
            voice.warn(text);
        }
    }
    Ok(())
}

/// What it listens on, and how it is reached.
fn say(config: &Config, plan: &Plan, server: &Server, http: SocketAddr, terminal: &Terminal) -> Result<()> {
    let url = plan.url(server.address().port());
    let token = config.state.join("admin.token");
    if terminal.json() {
        let line = json!({
            "event": "serving", "url": url, "https": server.address(), "http": http,
            "tftp": config.tftp.enabled.then(|| SocketAddr::from((plan.address, TFTP))),
            "dhcp": plan.dhcp(config), "pin": server.pin(), "admin_token_file": token,
        });
        return terminal.print(&line.to_string());
    }
    terminal.print(&format!("{url}  API, on {}", server.address()))?;
    terminal.print(&format!("http://{http}  boot files"))?;
    if config.tftp.enabled {
        terminal.print(&format!("tftp://{}  boot loaders", plan.address))?;
    }
    terminal.print(&format!("DHCP: {}", plan.dhcp(config)))?;
    terminal.print(&format!("pin: {}", server.pin()))?;
    terminal.print(&format!("admin token: in {}", token.display()))
}
