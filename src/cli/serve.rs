// SPDX-License-Identifier: Apache-2.0
//! `unmoor serve`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use unmoor_images::Result;
use unmoor_initramfs::rescue::loaders;

use crate::output::{Outcome, Terminal};
use crate::serve::config::{Config, EXAMPLE};
use crate::serve::files::{Rescue, rescue_of};
use crate::serve::plan::Plan;

const EXAMPLES: &str = "\
Examples:
  unmoor serve --example > /etc/unmoor/serve.toml
      A configuration to begin with, with everything explained

  unmoor serve /etc/unmoor/serve.toml --check
      What it would do

  unmoor serve /etc/unmoor/serve.toml";

/// Serve machines that start from the network: DHCP, TFTP, HTTP, jobs and the store
///
/// One process: it tells machines what to load, beside the network's DHCP server or as that server, gives them the rescue environment,
/// and has its agents capture, restore and wipe as jobs say. It runs until it is interrupted (SIGINT or SIGTERM).
/// It needs to bind ports below 1024 and to choose an interface: CAP_NET_BIND_SERVICE and CAP_NET_RAW.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG", required_unless_present = "example")]
    config: Option<PathBuf>,
    /// Print a configuration with comments
    #[arg(long, conflicts_with_all = ["config", "check"])]
    example: bool,
    /// Read the configuration, say what the server would do, and end
    #[arg(long)]
    check: bool,
}

/// Serves until it is told to stop.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    let Some(path) = arguments.config.as_ref().filter(|_| !arguments.example) else {
        terminal.print(EXAMPLE.trim_end())?;
        return Ok(Outcome::Done);
    };
    let config = Config::read(path)?;
    if arguments.check {
        terminal.one_document();
        check(&config, terminal)?;
    } else {
        crate::serve::run(&config, terminal)?;
    }
    Ok(Outcome::Done)
}

/// Looks at all that can be looked at without changing anything.
fn check(config: &Config, terminal: &Terminal) -> Result<()> {
    let plan = Plan::of(config)?;
    let found = loaders::collect(&config.boot.files);
    let files: Vec<&str> = found.as_ref().map(|found| found.keys().copied().collect()).unwrap_or_default();
    if plan.boots(config) {
        found?;
    }
    let rescue = match rescue_of(config)? {
        Rescue::Folder(folder) => {
            let facts = unmoor_initramfs::rescue::Facts::read(&folder)?;
            format!("Linux {} from {}", facts.release, folder.display())
        }
        Rescue::Build(build) => format!("made with {} as /init", build.init.display()),
    };
    let (https, http) = (config.https.listen, config.http.listen);
    let url = plan.url(https.port());
    if terminal.json() {
        let document = json!({
            "url": url, "https": https, "http": http, "tftp": config.tftp.enabled, "dhcp": plan.dhcp(config),
            "names": plan.names, "state": config.state, "store": config.store.url.to_string(),
            "boot_loaders": files, "rescue": rescue,
            "groups": config.groups().iter().map(|group| group.name.clone()).collect::<Vec<_>>(),
            "machines": config.machines().iter().map(|machine| machine.name.clone()).collect::<Vec<_>>(),
            "warnings": terminal.warnings(),
        });
        return terminal.print(&document.to_string());
    }
    let (machines, groups) = (config.machines(), config.groups());
    terminal.print(&format!("agents and people: {url}, listening on {https}"))?;
    terminal.print(&format!("certificate for:   {}", plan.names.join(", ")))?;
    terminal.print(&format!("boot files:        plain HTTP on {http}"))?;
    let tftp = if config.tftp.enabled { format!("on {}", plan.address) } else { "off".to_owned() };
    terminal.print(&format!("TFTP:              {tftp}"))?;
    terminal.print(&format!("DHCP:              {}", plan.dhcp(config)))?;
    terminal.print(&format!("boot loaders:      {}", files.join(", ")))?;
    terminal.print(&format!("rescue:            {rescue}"))?;
    terminal.print(&format!("store:             {}", config.store.url))?;
    terminal.print(&format!("state:             {}", config.state.display()))?;
    terminal.print(&format!("machines:          {} in {} groups", machines.len(), groups.len()))?;
    for group in groups.iter().filter(|group| group.trust_network) {
        terminal.print(&format!(
            "group {}: whoever says that it is one of its machines is believed",
            group.name
        ))?;
    }
    Ok(())
}
