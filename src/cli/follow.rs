// SPDX-License-Identifier: Apache-2.0
//! `unmoor follow`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use unmoor_capture::disk::OpenOptions;
use unmoor_capture::live::Method;
use unmoor_capture::{Request, Target};
use unmoor_images::formats::Compression;
use unmoor_images::store::{Policy, Since};
use unmoor_images::{Error, ErrorKind, Result, layout};

use super::live::FreezeOptions;
use super::store::StoreOptions;
use crate::follow::config::{Config, EXAMPLE, Every};
use crate::follow::{self, Plan, control};
use crate::output::size::parse_size;
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor follow /dev/sda s3://backup/hosts/web01 --every 60s
      An image a minute, each of which reads what was written since the last

  unmoor follow --example > /etc/unmoor/follow.toml
  unmoor follow --config /etc/unmoor/follow.toml

  unmoor follow --now
      One more image at once, by the unmoor that follows already; waits until it is complete";

/// Keep a store's image of this running host no older than so long
///
/// The first image reads the whole disk; after that, what is written is followed by the kernel's tracepoints, and each image reads only
/// that. It is not known over a restart of this command or of the host: then all is read once more, and what the store has is not
/// stored again. It runs until it is interrupted (SIGINT or SIGTERM).
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The disks of this host, and then a machine of an image store: dir:PATH/NAME or s3://BUCKET/NAME
    #[arg(value_name = "SOURCE... STORE", num_args = 2.., required_unless_present_any = ["config", "example", "now", "status"])]
    places: Vec<PathBuf>,
    /// A configuration (TOML) instead of arguments
    #[arg(long, value_name = "FILE", conflicts_with = "places")]
    config: Option<PathBuf>,
    /// Print a configuration with comments
    #[arg(long)]
    example: bool,
    /// How often: 10s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "60s")]
    every: Every,
    /// Have the unmoor that follows make an image at once
    #[arg(long, conflicts_with_all = ["places", "config"])]
    now: bool,
    /// Ask the unmoor that follows how it is
    #[arg(long, conflicts_with_all = ["places", "config", "now"])]
    status: bool,
    /// The socket through which it is asked
    #[arg(long, value_name = "SOCKET", default_value = control::SOCKET)]
    control: PathBuf,
    /// Write figures for Prometheus' textfile collector to this file
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Read at most so many bytes a second before the freeze: 50M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    limit: Option<u64>,
    /// Read only when nobody else uses the disks
    #[arg(long)]
    idle: bool,
    /// Keep so many of the latest images, and remove older ones
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    #[command(flatten)]
    freeze: FreezeOptions,
    #[command(flatten)]
    store: StoreOptions,
}

/// Follows until it is told to stop.
pub(crate) fn run(arguments: &Arguments, terminal: &Terminal) -> Result<Outcome> {
    if arguments.example {
        terminal.print(EXAMPLE.trim_end())?;
        return Ok(Outcome::Done);
    }
    if arguments.now || arguments.status {
        terminal.one_document();
        let answer = control::ask(&arguments.control, if arguments.now { "now" } else { "status" })?;
        if let Some(because) = answer.get("error").and_then(serde_json::Value::as_str) {
            return Err(Error::new(ErrorKind::Mismatch, "asking for an image").because(because.to_owned()));
        }
        terminal.print(&if terminal.json() { answer.to_string() } else { control::words(&answer) })?;
        return Ok(Outcome::Done);
    }
    let plan = arguments.plan()?;
    follow::run(plan, terminal)?;
    Ok(Outcome::Done)
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config {
                sources: self.places.iter().rev().skip(1).rev().cloned().collect(),
                target: self.places.last().map(|target| target.display().to_string()).unwrap_or_default(),
                every: self.every,
                metrics: self.metrics.clone(),
                limit: self.limit.map(crate::follow::config::Bytes),
                idle: self.idle,
                control: self.control.clone(),
                keep: Policy { last: self.keep_last, ..Policy::default() }.into(),
                ..Config::default()
            },
        };
        let freeze = match &self.config {
            Some(_) => config.freeze(),
            None => self.freeze.options(Method::Best),
        };
        let target = Target::parse(config.target.as_ref(), None)?;
        let Target::Store { location, machine } = &target else {
            return Err(Error::new(ErrorKind::Usage, "following disks")
                .because("the last argument is no store: dir:PATH/NAME or s3://BUCKET/NAME"));
        };
        let options = match &self.config {
            Some(_) => StoreOptions::of(config.password_file.clone(), config.store_key.clone()),
            None => self.store.clone(),
        };
        let store = options.open_for(location, machine)?;
        let options =
            unmoor_capture::live::Options { rate_limit: config.limit.map(|limit| limit.0), ..freeze };
        let request = Request {
            sources: config.sources.clone(),
            target: target.clone(),
            store: Some(Arc::new(store.clone())),
            since: Since::Latest,
            compression: Compression::Auto,
            cluster_size: None,
            layout: layout::Options::default(),
            open: OpenOptions::default(),
            unsafe_live: false,
            live: Some(options.clone()),
            force: false,
            threads: 0,
            tool: concat!("unmoor ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        Ok(Plan { machine: machine.clone(), config, request, options, store })
    }
}
