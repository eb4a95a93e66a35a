// SPDX-License-Identifier: Apache-2.0
//! `unmoor images mount`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use unmoor_images::store::Location;
use unmoor_images::{BlockSource, Result};
use unmoor_mount::{Options, Top, mount};
use unmoor_nbd::image::{self, OpenOptions};

use crate::cli::store::StoreOptions;
use crate::output::size::show_size;
use crate::output::table::{Align, Table};
use crate::output::{Outcome, Terminal};

const EXAMPLES: &str = "\
Examples:
  unmoor images mount dir:/srv/images/web01 /mnt
      Files: /mnt/disk0.p2/etc/fstab. Disks and partitions: /mnt/disk0.raw,
      /mnt/disk0.p2.raw. Ctrl-C or `umount /mnt` ends it

  mount -o loop,ro,noload /mnt/disk0.p2.raw /mnt2
      A partition by the kernel's own reader, in another terminal

  unmoor images mount web01.qcow2 /mnt
      An image file";

/// Show an image's disks, partitions and files in a directory, read-only
///
/// DIR/disk0.raw is the first disk, DIR/disk0.p1.raw its first partition, DIR/vg-root.raw a logical volume; without .raw, a
/// directory of the files in it (ext2/3/4, XFS, btrfs, FAT). Nothing is copied: what is read is fetched. It runs until
/// it is interrupted or unmounted. Extended attributes are not shown.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mount {
    /// STORE/NAME or STORE/NAME@TIME; or a disk image, or its manifest NAME.unmoor.json
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// An empty directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Let other users read it too, as far as the files' own permissions go
    #[arg(long)]
    allow_other: bool,
    /// Let an image open the backing and data files that it names
    #[arg(long)]
    allow_backing: bool,
    #[command(flatten)]
    store: StoreOptions,
}

impl Mount {
    pub(super) fn run(&self, terminal: &Terminal) -> Result<Outcome> {
        let images = if Location::is_path(&self.image) {
            let (location, name) = Location::parse_image(&self.image.to_string_lossy())?;
            image::stored(&self.store.open_for(&location, &name.machine)?, &name, terminal)?
        } else {
            let options = OpenOptions { allow_backing: self.allow_backing, format: None };
            image::open(&self.image, &options, terminal)?
        };
        let disks = images.into_iter().map(|image| image.source).collect::<Vec<Box<dyn BlockSource>>>();
        let top = Top::of(disks, terminal)?;
        let options = Options {
            directory: self.directory.clone(),
            name: self.image.to_string_lossy().into_owned(),
            allow_other: self.allow_other,
            modified: jiff::Timestamp::now().as_second(),
        };
        let shown = self.shown(&top, terminal);
        mount(top, &options, terminal, &mut || shown.iter().try_for_each(|line| terminal.print(line)))?;
        Ok(Outcome::Done)
    }

    fn shown(&self, top: &Top, terminal: &Terminal) -> Vec<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        if terminal.json() {
            let entries: Vec<_> = top
                .entries()
                .iter()
                .map(|entry| {
                    let size = (!entry.is_directory()).then_some(entry.size);
                    json!({ "path": path(&entry.name), "directory": entry.is_directory(), "size_bytes": size, "what": entry.what })
                })
                .collect();
            return vec![json!({ "event": "mounted", "entries": entries }).to_string()];
        }
        let mut table =
            Table::new(&[("PATH", Align::Left), ("SIZE", Align::Right), ("CONTENT", Align::Left)]);
        for entry in top.entries() {
            let (name, size) = if entry.is_directory() {
                (format!("{}/", entry.name), String::new())
            } else {
                (entry.name.clone(), show_size(entry.size))
            };
            table.row(vec![path(&name), size, entry.what.clone()]);
        }
        table.lines()
    }
}
