// SPDX-License-Identifier: Apache-2.0
//! Opening an image and, where that is allowed, the files that it names.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::header::Header;
use super::source::{ImageFile, Qcow2Source};
use crate::formats::raw::RawSource;
use crate::formats::{Format, OpenOptions, detect, file};
use crate::{BlockSource, Error, Result, ResultExt};

/// Images in a backing chain, the first included.
const DEPTH: usize = 16;

/// Opens the qcow2 image at `path`; returns it with its warnings.
///
/// An image that names a backing file or an external data file is refused unless `options` allow it: whoever
/// made the image could otherwise have any file of this machine copied.
pub fn open(path: &Path, options: &OpenOptions) -> Result<(Qcow2Source, Vec<String>)> {
    let mut warnings = Vec::new();
    let source = open_link(path, options.allow_backing, &mut Vec::new(), &mut warnings)?;
    Ok((source, warnings))
}

/// `above` names the files that are open already, by device and inode.
fn open_link(
    path: &Path,
    allow: bool,
    above: &mut Vec<(u64, u64)>,
    warnings: &mut Vec<String>,
) -> Result<Qcow2Source> {
    let image = open_file(path, above)?;
    let mut header = Header::read(&image.file, image.len).doing(|| format!("opening {}", path.display()))?;
    warnings.append(&mut header.warnings);
    if !allow && header.external_data {
        return Err(refused(path, "an external data file", header.data_file.as_deref()));
    }
    if !allow && header.backing.is_some() {
        return Err(refused(path, "a backing file", header.backing.as_deref()));
    }
    let data_file = match (header.external_data, &header.data_file) {
        (false, _) => None,
        (true, Some(name)) => Some(open_file(&beside(path, name)?, above)?),
        (true, None) => {
            let reason = "its data lies in an external file that it does not name";
            return Err(Error::malformed("opening", reason).path(path));
        }
    };
    let backing = match &header.backing {
        None => None,
        Some(name) => {
            let below = beside(path, name)?;
            Some(
                open_backing(&below, header.backing_format.as_deref(), above, warnings)
                    .doing(|| format!("opening the backing file of {}", path.display()))?,
            )
        }
    };
    Qcow2Source::new(&header, image, data_file, backing).doing(|| format!("opening {}", path.display()))
}

/// `format` is what the image above says; only without it is the content asked.
fn open_backing(
    path: &Path,
    format: Option<&str>,
    above: &mut Vec<(u64, u64)>,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn BlockSource>> {
    let format = match format {
        // host_device and file are what QEMU writes for raw block devices and old images.
        Some("raw" | "host_device" | "file") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => {
            return Err(Error::unsupported("opening", format!("its format is {other}")).path(path));
        }
        None => {
            warnings.push(format!(
                "the format of backing file {} is not recorded; it was guessed from its content",
                path.display()
            ));
            detect::detect(path, &file::open(path)?)?
        }
    };
    match format {
        Format::Qcow2 => Ok(Box::new(open_link(path, true, above, warnings)?)),
        Format::Raw => {
            let ImageFile { file, .. } = open_file(path, above)?;
            Ok(Box::new(RawSource::from_file(file)?))
        }
        other => Err(Error::unsupported("opening", format!("its format is {}", other.name())).path(path)),
    }
}

fn open_file(path: &Path, above: &mut Vec<(u64, u64)>) -> Result<ImageFile> {
    let file = file::open(path)?;
    let metadata = file.metadata().map_err(|error| Error::io("examining", error).path(path))?;
    let id = (metadata.dev(), metadata.ino());
    if above.contains(&id) {
        return Err(Error::malformed("opening", "the backing chain goes in a circle").path(path));
    }
    // A data file beside each image makes two files a link.
    if above.len() >= 2 * DEPTH {
        let reason = format!("the backing chain has more than {DEPTH} images");
        return Err(Error::malformed("opening", reason).path(path));
    }
    above.push(id);
    file::advise_sequential(&file);
    let len = file::len(&file)?;
    Ok(ImageFile { file, len })
}

/// Where `name`, as it stands in the image at `path`, lies.
fn beside(path: &Path, name: &str) -> Result<PathBuf> {
    let plain = name.strip_prefix("file:").unwrap_or(name);
    // QEMU takes everything before the first colon for a protocol unless a slash comes first.
    if plain.split('/').next().is_some_and(|first| first.contains(':')) {
        let reason = format!("it refers to {name}, which is not a local file");
        return Err(Error::unsupported("opening", reason).path(path));
    }
    Ok(path.parent().unwrap_or(Path::new("")).join(plain))
}

fn refused(path: &Path, what: &str, name: Option<&str>) -> Error {
    let name = name.unwrap_or("without a name");
    Error::refused(
        "opening",
        format!(
            "it refers to {what} ({name}); allow it with --allow-backing, or merge it with qemu-img convert"
        ),
    )
    .path(path)
}
