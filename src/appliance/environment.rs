// SPDX-License-Identifier: Apache-2.0
//! The rescue environment that the appliance boots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unmoor_images::{Error, ErrorKind, Monitor, Result, ResultExt};
use unmoor_initramfs::rescue::{self, Build, KernelSource, Profile};

use crate::cache;

/// A kernel and an initramfs with this program as its /init.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Environment {
    /// The one in `folder`; without a folder one from the running kernel, which is built where it is not cached.
    pub(crate) fn find(folder: Option<&Path>, monitor: &dyn Monitor) -> Result<Self> {
        if let Some(folder) = folder {
            let found =
                Self { kernel: folder.join(rescue::KERNEL), initramfs: folder.join(rescue::INITRAMFS) };
            if found.kernel.is_file() && found.initramfs.is_file() {
                return Ok(found);
            }
            let because = format!("{} has no {} and {}", folder.display(), rescue::KERNEL, rescue::INITRAMFS);
            return Err(missing(&because));
        }
        Self::build(monitor)
    }

    fn build(monitor: &dyn Monitor) -> Result<Self> {
        let cache = cache::folder().ok_or_else(|| missing("neither XDG_CACHE_HOME nor HOME is set"))?;
        let own = std::env::current_exe().doing(|| "looking for this program")?;
        let build = Build {
            kernels: vec![KernelSource::Running],
            firmware: Vec::new(),
            payload: Vec::new(),
            profile: Profile::Appliance,
            init: own,
        };
        let built = rescue::build(&build, &cache.join("appliance"), Some(&cache.join("rescue")));
        let built = built.map_err(|error| missing(&format!("none can be made here: {}", error.chain())))?;
        if !built.cached {
            monitor.note(format!("built the appliance from Linux {}", built.facts.release));
        }
        Ok(Self { kernel: built.kernel, initramfs: built.initramfs })
    }

    /// The boot loader files beside a rescue environment: `payload/`; or within it, where this is one; or what Debian's packages have
    /// installed here.
    pub(crate) fn payload(folder: Option<&Path>) -> Result<BTreeMap<String, Vec<u8>>> {
        let beside = folder.map(|folder| folder.join("payload")).filter(|folder| folder.is_dir());
        let own = || Some(PathBuf::from(rescue::payload::PLACE)).filter(|place| place.is_dir());
        let source = beside.or_else(own).unwrap_or_else(|| PathBuf::from("/"));
        match rescue::payload::collect(&[source]) {
            // A guest that keeps its firmware needs none.
            Err(error) if error.kind() == ErrorKind::Refused => Ok(BTreeMap::new()),
            found => found,
        }
    }
}

fn missing(because: &str) -> Error {
    Error::refused(
        "looking for the appliance",
        format!(
            "{because}. Make one with: unmoor rescue build --profile appliance --kernel linux-image-VERSION.deb --out DIR; \
             then give --rescue DIR. As root on a host whose kernel has the guest's filesystems, --direct does without"
        ),
    )
}
