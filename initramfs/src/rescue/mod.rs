// SPDX-License-Identifier: Apache-2.0
//! Building the rescue environment: a distribution's kernel, its modules, and this binary.
//!
//! ```text
//!   package, directory, running --kernel--> files --profile, selection--> modules + indexes --+
//!   boot loader packages --payload----------------------------------------------------------+--> vmlinuz, initramfs
//!   this binary as /init -------------------------------------------------------------------+
//! ```
//!
//! The initramfs is one zstd frame, and one more with the payload where there is one. Modules are stored as the kernel loads
//! them, without their own compression: they compress better together, and nothing has to unpack them later.

mod cache;
mod deb;
mod features;
mod image;
pub mod iso;
mod kernel;
pub mod loaders;
pub mod payload;
mod profile;
mod selection;
mod version;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unmoor_images::{Error, Result};

pub use features::{Needs, needs, running_release};
pub use kernel::KernelSource;
pub use profile::Profile;
pub use version::compare as compare_releases;

use image::Image;
use kernel::Kernel;

/// The kernel's file in what is built.
pub const KERNEL: &str = "vmlinuz";
/// The initramfs' file in what is built.
pub const INITRAMFS: &str = "initramfs";
/// Where a rescue environment that runs has its [`Facts`].
pub const FACTS: &str = "/usr/share/unmoor/rescue.json";

/// What to build from.
#[derive(Debug, Clone)]
pub struct Build {
    /// Where kernels are; the newest is taken.
    pub kernels: Vec<KernelSource>,
    /// Directories as /lib/firmware is; what the chosen modules name is taken.
    pub firmware: Vec<PathBuf>,
    /// Packages and directories with boot loaders.
    pub payload: Vec<PathBuf>,
    /// Which modules.
    pub profile: Profile,
    /// The static executable that becomes /init.
    pub init: PathBuf,
}

/// What an environment has in it; kept as `rescue.json` beside it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release.
    pub release: String,
    /// As asked for.
    pub profile: Profile,
    /// Number of modules.
    pub modules: usize,
    /// Number of firmware files.
    pub firmware: usize,
    /// Number of files in the payload.
    pub payload: usize,
    /// Bytes of the kernel.
    pub kernel_size: u64,
    /// Bytes of the initramfs.
    pub initramfs_size: u64,
    /// Modules that were chosen but need one that the kernel's files lack.
    pub left_out: Vec<String>,
}

impl Facts {
    /// Of the environment in `folder`.
    ///
    /// # Errors
    ///
    /// `Io` where it has no `rescue.json`; `Malformed`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("rescue.json");
        let json = std::fs::read(&path).map_err(|error| Error::io("reading", error).path(&path))?;
        serde_json::from_slice(&json)
            .map_err(|error| Error::malformed("reading", error.to_string()).path(&path))
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Built {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What is in it.
    pub facts: Facts,
    /// It had been built before.
    pub cached: bool,
}

/// Builds into the directory `out`, or copies from `cache` what was built from the same before.
///
/// # Errors
///
/// `Refused` where there is no kernel, no module, or where `init` is not static; `Io`, `Malformed` and `Unsupported` of the inputs.
pub fn build(build: &Build, out: &Path, cache: Option<&Path>) -> Result<Built> {
    let init = std::fs::read(&build.init).map_err(|error| Error::io("reading", error).path(&build.init))?;
    if !is_static(&init) {
        return Err(Error::refused(
            "taking this program as /init",
            "it is not static, and the rescue environment has no libraries: take one that `cargo xtask build` made",
        )
        .path(&build.init));
    }
    let key = cache.map(|cache| Ok::<_, Error>((cache, cache::key(build, &init)?))).transpose()?;
    if let Some((cache, key)) = &key
        && let Some((folder, facts)) = cache::find(cache, key)
    {
        cache::copy(&folder, out)?;
        return Ok(Built { kernel: out.join(KERNEL), initramfs: out.join(INITRAMFS), facts, cached: true });
    }
    let (kernel, initramfs, facts) = assemble(build, init)?;
    cache::write(out, &kernel, &initramfs, &facts)?;
    if let Some((cache, key)) = &key {
        cache::copy(out, &cache.join(key))?;
    }
    Ok(Built { kernel: out.join(KERNEL), initramfs: out.join(INITRAMFS), facts, cached: false })
}

fn assemble(build: &Build, init: Vec<u8>) -> Result<(Vec<u8>, Vec<u8>, Facts)> {
    let kernel = newest(build)?;
    let selection = selection::select(&kernel, build.profile)?;
    let mut image = Image::with_init(init);
    let modules = format!("lib/modules/{}", kernel.release);
    for (path, content) in selection.files {
        image.file(&format!("{modules}/{path}"), 0o644, content);
    }
    let firmware = add_firmware(&mut image, &build.firmware, &selection.firmware)?;
    let payload = payload::collect(&build.payload)?;
    let mut facts = Facts {
        release: kernel.release,
        profile: build.profile,
        modules: selection.modules,
        firmware,
        payload: payload.len(),
        kernel_size: kernel.image.len() as u64,
        initramfs_size: 0,
        left_out: selection.left_out.into_iter().collect(),
    };
    let told = serde_json::to_vec(&facts)
        .map_err(|error| Error::unsupported("writing the rescue environment's facts", error.to_string()))?;
    image.file(FACTS, 0o644, told);
    let mut initramfs = packed(&image, build.profile)?;
    if !payload.is_empty() {
        let mut image = Image::default();
        for (path, content) in payload {
            image.file(&format!("{}/{path}", payload::PLACE), 0o644, content);
        }
        initramfs.extend(packed(&image, build.profile)?);
    }
    facts.initramfs_size = initramfs.len() as u64;
    Ok((kernel.image, initramfs, facts))
}

/// The newest of the kernels that are named.
fn newest(build: &Build) -> Result<Kernel> {
    let mut newest: Option<Kernel> = None;
    for source in &build.kernels {
        let kernel = source.read(&|path| selection::is_candidate(build.profile, path))?;
        let is_newer =
            |than: &Kernel| compare_releases(&kernel.release, &than.release) == std::cmp::Ordering::Greater;
        if newest.as_ref().is_none_or(is_newer) {
            newest = Some(kernel);
        }
    }
    newest.ok_or_else(|| {
        Error::new(unmoor_images::ErrorKind::Usage, "building the rescue environment")
            .because("no kernel is named")
    })
}

/// Level 12 makes `small` fit into its 40 MiB within the time for a build. An emulated processor unpacks more slowly than
/// QEMU hands over the bytes, so the appliance's is not compressed.
fn packed(image: &Image, profile: Profile) -> Result<Vec<u8>> {
    let archive = image.archive()?;
    match profile {
        Profile::Appliance => Ok(archive),
        Profile::Small | Profile::Full => image::compress(&archive, 12),
    }
}

/// Adds the firmware that modules name, unpacked where it is packed; how many files.
fn add_firmware(
    image: &mut Image,
    folders: &[PathBuf],
    names: &std::collections::BTreeSet<String>,
) -> Result<usize> {
    let mut count = 0;
    for folder in folders {
        for name in names.iter().filter(|name| !name.split('/').any(|part| part == "..")) {
            for ending in ["", ".xz", ".zst"] {
                let path = folder.join(format!("{name}{ending}"));
                if !path.is_file() {
                    continue;
                }
                let content =
                    std::fs::read(&path).map_err(|error| Error::io("reading firmware", error).path(&path))?;
                let content = if ending.is_empty() { content } else { crate::modules::unpacked(&content)? };
                image.file(&format!("lib/firmware/{name}"), 0o644, content);
                count += 1;
                break;
            }
        }
    }
    Ok(count)
}

/// Whether a 64-bit ELF executable names no dynamic loader (System V ABI, "Program Header": PT_INTERP).
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let bytes = unmoor_images::parse::Bytes::new(elf, "an executable");
    let interpreted = || -> Result<bool> {
        if bytes.slice(0, 5)? != b"\x7fELF\x02" {
            return Ok(true);
        }
        let table = usize::try_from(bytes.u64_le(32)?).unwrap_or(usize::MAX);
        let (step, count) = (usize::from(bytes.u16_le(54)?), usize::from(bytes.u16_le(56)?));
        for index in 0..count {
            if bytes.u32_le(table.saturating_add(index.saturating_mul(step)))? == PT_INTERP {
                return Ok(true);
            }
        }
        Ok(false)
    };
    interpreted().is_ok_and(|interpreted| !interpreted)
}
