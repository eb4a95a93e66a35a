// SPDX-License-Identifier: Apache-2.0
//! `unmoor images import`.

use std::path::PathBuf;

use clap::Args;
use unmoor_capture::disk::{OnReadError, OpenOptions};
use unmoor_capture::{ImportRequest, import};
use unmoor_images::store::{ImageName, Location, Since};
use unmoor_images::{Error, ErrorKind, Result, layout};

use crate::cli::capture;
use crate::cli::store::StoreOptions;
use crate::cli::values::{Effort, FormatName, HibernatedChoice, compression};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor images import web01.qcow2 dir:/srv/images/web01
      With web01.unmoor.json beside it, if it is there: facts and maps are kept,
      hashes compared

  unmoor images import disk0.vmdk disk1.vmdk dir:/srv/images/db01
      Two disks of one machine

  unmoor images import /home/partimag/web01 dir:/srv/images/web01
      An image directory of Clonezilla

  unmoor images import sda1.ext4-ptcl-img.gz.aa dir:/srv/images/data
      An image of partclone, with all its parts";

/// Take images of others into a store
///
/// Disk images (raw, qcow2, VMDK, VHDX, VHD, VDI), images that unmoor wrote, image directories of Clonezilla, and images of
/// partclone. What no filesystem uses is not stored, as in a capture.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Import {
    /// Disk images of one machine; NAME.unmoor.json; a directory of Clonezilla; an image of partclone
    #[arg(required = true, num_args = 1.., value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// A machine of an image store: STORE/NAME
    #[arg(required = true, value_name = "TARGET")]
    target: String,
    /// Keep every byte, used or not
    #[arg(long)]
    all: bool,
    /// Take the images as they are now, whatever their manifest says
    #[arg(long)]
    ignore_manifest: bool,
    /// Take the images as this format instead of detecting it
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatName>,
    /// What to do with a system that is suspended to disk; it is refused otherwise
    #[arg(long, value_enum, value_name = "WHAT")]
    hibernated: Option<HibernatedChoice>,
    /// Let an image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    /// How hard to compress
    #[arg(long, value_enum, default_value = "default", value_name = "EFFORT")]
    compress: Effort,
    /// Worker threads; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Look first at what this image of the store has, NAME or NAME@TIME; at the machine's latest otherwise
    #[arg(long, value_name = "IMAGE", help_heading = "Store options")]
    since: Option<String>,
    #[command(flatten)]
    store: StoreOptions,
}

impl Import {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<Outcome> {
        let usage = |because| Err(Error::new(ErrorKind::Usage, "importing").because(because));
        if !Location::is_one(&self.target) {
            return usage("the last argument is the target in a store: dir:PATH/NAME or s3://BUCKET/NAME");
        }
        let (location, name) = Location::parse_image(&self.target)?;
        if name.time.is_some() {
            return usage("the time of an image is that of its capture: leave out @TIME");
        }
        let since = match &self.since {
            None => Since::Latest,
            Some(name) => Since::Image(ImageName::parse(name)?),
        };
        let request = ImportRequest {
            sources: self.sources.clone(),
            store: self.store.open_for(&location, &name.machine)?,
            location,
            machine: name.machine,
            since,
            compression: compression(self.compress),
            layout: layout::Options {
                all: self.all,
                hibernated: self.hibernated.map(Into::into).unwrap_or_default(),
            },
            open: OpenOptions {
                allow_backing: self.allow_backing,
                format: self.format.map(Into::into),
                on_read_error: OnReadError::Fail,
            },
            ignore_manifest: self.ignore_manifest,
            threads: self.threads,
            tool: concat!("unmoor ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        capture::print(&import(&request, terminal)?, terminal)?;
        Ok(Outcome::Done)
    }
}
