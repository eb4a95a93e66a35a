// SPDX-License-Identifier: Apache-2.0
//! What commands that capture running hosts have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use unmoor_capture::live::{Method, Options};
use unmoor_images::manifest::LiveRecord;

use crate::output::size::show_size;

/// `--live` and what belongs to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct LiveOptions {
    /// Capture disks that are in use as they are at one instant: filesystems are frozen together for a moment at the end
    #[arg(long, help_heading = "Live options")]
    live: bool,
    /// How to know what was written while the disk was read; the best that the kernel can, otherwise
    #[arg(long, value_enum, value_name = "HOW", requires = "live", help_heading = "Live options")]
    consistency: Option<Consistency>,
    #[command(flatten)]
    freeze: FreezeOptions,
}

/// How long writers may wait, and what is called meanwhile.
#[derive(Debug, Clone, Args)]
pub(crate) struct FreezeOptions {
    /// How long writers may have to wait, in milliseconds, if it can be had
    #[arg(long, value_name = "MS", default_value_t = 800, value_parser = clap::value_parser!(u64).range(10..=600_000), help_heading = "Live options")]
    max_freeze: u64,
    /// How long they wait at most, in seconds: then the filesystems are thawed and the capture has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600), help_heading = "Live options")]
    max_freeze_hard: u64,
    /// Folder of programs that are called with `freeze` before and `thaw` after
    #[arg(long, value_name = "DIR", default_value = "/etc/unmoor/freeze.d", help_heading = "Live options")]
    hooks: PathBuf,
    /// Call none
    #[arg(long, help_heading = "Live options")]
    no_hooks: bool,
}

/// `--consistency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Follow the writes by the kernel's tracepoints, or fail
    Track,
    /// Read all once before the freeze, and once more under it: writers wait for as long as that takes
    Converge,
    /// No freeze: as --unsafe-live
    Unsafe,
}

impl LiveOptions {
    /// True if the image may be spread over the time of the capture.
    pub(crate) fn is_unsafe(&self) -> bool {
        self.consistency == Some(Consistency::Unsafe)
    }

    /// None for a capture of what is at rest.
    pub(crate) fn options(&self) -> Option<Options> {
        let method = match self.consistency {
            None => Method::Best,
            Some(Consistency::Track) => Method::Track,
            Some(Consistency::Converge) => Method::Converge,
            Some(Consistency::Unsafe) => return None,
        };
        self.live.then(|| self.freeze.options(method))
    }
}

impl FreezeOptions {
    pub(crate) fn options(&self, method: Method) -> Options {
        let max_freeze_hard = Duration::from_secs(self.max_freeze_hard);
        Options {
            method,
            max_freeze: Duration::from_millis(self.max_freeze).min(max_freeze_hard),
            max_freeze_hard,
            hooks: (!self.no_hooks).then(|| self.hooks.clone()),
            ..Options::default()
        }
    }
}

/// How a live capture went.
pub(crate) fn line(live: &LiveRecord) -> String {
    let hooks = match live.hooks.as_slice() {
        [] => String::new(),
        hooks => format!("; {} at rest", hooks.join(", ")),
    };
    format!(
        "as of {}: {} passes, {} under the freeze, writers waited {} ms{hooks}",
        live.instant,
        live.passes,
        show_size(live.last_pass_bytes),
        live.frozen_milliseconds,
    )
}
