// SPDX-License-Identifier: Apache-2.0
//! What machines load, gathered into one folder of the state.

use std::path::{Path, PathBuf};

use unmoor_images::{Error, ErrorKind, Monitor, Result};
use unmoor_initramfs::rescue::{self, Build, KernelSource, Profile, loaders};
use unmoor_pxe_boot::boot::{Shelf, names};

use super::config::{Config, Hardware};
use super::plan::Plan;

/// The kernel and initramfs that machines get: where from.
pub(crate) enum Rescue {
    /// A folder as `unmoor rescue build` makes it.
    Folder(PathBuf),
    /// Made from this.
    Build(Box<Build>),
}

/// Of the configuration.
pub(crate) fn rescue_of(config: &Config) -> Result<Rescue> {
    let rescue = &config.rescue;
    if let Some(folder) = &rescue.folder {
        return Ok(Rescue::Folder(folder.clone()));
    }
    let own = || std::env::current_exe().map_err(|error| Error::io("looking for this program", error));
    let running = ["running".to_owned()];
    let kernels = if rescue.kernel.is_empty() { running.as_slice() } else { rescue.kernel.as_slice() };
    Ok(Rescue::Build(Box::new(Build {
        kernels: kernels.iter().map(|text| KernelSource::parse(text)).collect(),
        firmware: rescue.firmware.clone(),
        payload: rescue.payload.clone(),
        profile: match rescue.profile {
            Hardware::Small => Profile::Small,
            Hardware::Full => Profile::Full,
        },
        init: rescue.init.clone().map_or_else(own, Ok)?,
    })))
}

/// Fills the folder; what it had and is not wanted any more goes.
pub(super) fn shelf(config: &Config, plan: &Plan, monitor: &dyn Monitor) -> Result<Shelf> {
    let folder = config.state.join("boot");
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("making", error).path(&folder))?;
    let shelf = Shelf::open(&folder)?;
    let loaders = match loaders::collect(&config.boot.files) {
        // Without DHCP and TFTP somebody else tells machines what to load.
        Err(error) if error.kind() == ErrorKind::Refused && !plan.boots(config) => {
            monitor.note(error.chain());
            loaders::Loaders::new()
        }
        other => other?,
    };
    let (kernel, initramfs) = environment(config, monitor)?;
    for name in names::ALL {
        match name {
            names::KERNEL => shelf.put(name, &kernel)?,
            names::INITRAMFS => shelf.put(name, &initramfs)?,
            _ => match loaders.get(name) {
                Some(content) => shelf.put(name, content)?,
                None => shelf.remove(name)?,
            },
        }
    }
    Ok(shelf)
}

/// Kernel and initramfs.
fn environment(config: &Config, monitor: &dyn Monitor) -> Result<(Vec<u8>, Vec<u8>)> {
    let (folder, made) = match rescue_of(config)? {
        Rescue::Folder(folder) => (folder, false),
        Rescue::Build(build) => {
            monitor.note("making the rescue environment".to_owned());
            let folder = config.state.join("rescue");
            rescue::build(&build, &folder, Some(&config.state.join("cache")))?;
            (folder, true)
        }
    };
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| Error::io("reading the rescue environment", error).path(path))
    };
    let read_all = (read(rescue::KERNEL)?, read(rescue::INITRAMFS)?);
    if made {
        remove(&folder)?;
    }
    Ok(read_all)
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(|error| Error::io("removing", error).path(folder))
}
