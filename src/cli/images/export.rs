// SPDX-License-Identifier: Apache-2.0
//! `unmoor images export`.

use std::path::PathBuf;

use clap::Args;
use unmoor_capture::{ExportRequest, Target, export};
use unmoor_images::{Error, ErrorKind, Result};

use crate::cli::capture;
use crate::cli::store::StoreOptions;
use crate::cli::values::{Effort, ImageOptions};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor images export dir:/srv/images/web01 web01.qcow2
      The latest image of web01, with its manifest: as a capture to this file

  unmoor images export dir:/srv/images/db01@20261124T215000Z db01.vmdk
      Two disks of one machine: db01.vmdk, db01.disk1.vmdk, db01.unmoor.json

  unmoor images export dir:/srv/images/web01 - | ssh host 'cat > web01.raw'
      A raw stream";

/// Write a stored image to disk image files
///
/// The files hold the same bytes as the store, holes where nothing is used, and beside them lies the manifest that a
/// capture to files would have written: `unmoor verify` and `unmoor restore` take them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Export {
    /// STORE/NAME or STORE/NAME@TIME
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// FILE.qcow2, .raw, .vmdk or .vhdx; or - for a stream of one disk, raw or --format vmdk
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// This disk alone; the first is 0
    #[arg(long, value_name = "NUMBER")]
    disk: Option<usize>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Worker threads; 0 chooses by the number of processors
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    output: ImageOptions,
}

impl Export {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<Outcome> {
        let format = match Target::parse(&self.target, self.output.format.map(Into::into))? {
            Target::Files { format, .. } => format,
            Target::Stream(format) => {
                terminal.stdout_is_data();
                format
            }
            Target::Store { .. } | Target::Server { .. } => {
                return Err(Error::new(ErrorKind::Usage, "exporting an image")
                    .because("the target is in a store: an export makes files"));
            }
        };
        if !format.compresses() && !matches!(self.output.compress, Effort::None | Effort::Default) {
            return Err(Error::new(ErrorKind::Usage, "choosing a compression")
                .because("raw and VHDX images are not compressed: use FILE.qcow2"));
        }
        let image = self.store.open_image(&self.image, terminal)?;
        let request = ExportRequest {
            path: self.target.clone(),
            format,
            disk: self.disk,
            compression: self.output.compression(),
            cluster_size: self.output.cluster_size,
            force: self.force,
            threads: self.threads,
        };
        let report = export(image, &request, terminal)?;
        capture::print(&report, terminal)?;
        Ok(Outcome::Done)
    }
}
