// SPDX-License-Identifier: Apache-2.0
//! Opening an image and the extent files that its descriptor names.

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::descriptor::{self, Descriptor, ExtentLine, Kind};
use super::header::{self, Header};
use super::source::{Part, VmdkSource};
use super::sparse::Sparse;
use super::{MAGIC, SECTOR};
use crate::adapt::Window;
use crate::formats::raw::RawSource;
use crate::formats::{OpenOptions, file};
use crate::parse::read_vec;
use crate::{BlockSource, Error, Result, ResultExt};

/// Opens the VMDK image at `path`: a sparse extent with a descriptor in it, or a descriptor. Returns it with its warnings.
///
/// An extent file that lies beside the descriptor, and is named without a path, is part of the image. Any other is opened
/// only where `options` allow it: whoever made the image could otherwise have any file of this machine copied.
///
/// # Errors
///
/// `Refused` for snapshots (images with a parent), for extents of a split disk on their own, and for files elsewhere.
pub fn open(path: &Path, options: &OpenOptions) -> Result<(VmdkSource, Vec<String>)> {
    let source = RawSource::open(path)?;
    let mut warnings = Vec::new();
    let doing = || format!("opening {}", path.display());
    let magic = read_vec(&source, 0, 4.min(source.size()) as usize).doing(doing)?;
    let parts = if magic == MAGIC {
        vec![open_monolithic(source, path, &mut warnings).doing(doing)?]
    } else {
        let len = source.size().min(descriptor::MOST as u64) as usize;
        let text = read_vec(&source, 0, len).doing(doing)?;
        let descriptor = Descriptor::parse(&text).doing(doing)?;
        refuse_parent(&descriptor, path)?;
        if descriptor.extents.is_empty() {
            let reason = format!("its descriptor names no extents (type {:?})", descriptor.create_type);
            return Err(Error::malformed("opening", reason).path(path));
        }
        let open = |line: &ExtentLine| {
            open_extent(line, path, options, &mut warnings).doing(|| format!("opening {}", path.display()))
        };
        descriptor.extents.iter().map(open).collect::<Result<_>>()?
    };
    Ok((VmdkSource::new(parts)?, warnings))
}

/// One file with everything in it.
fn open_monolithic(source: RawSource, path: &Path, warnings: &mut Vec<String>) -> Result<Part> {
    let header = Header::read(&source)?;
    let (first, count) = header.descriptor;
    let bytes = count.saturating_mul(SECTOR).min(descriptor::MOST as u64);
    let raw = read_vec(&source, first.saturating_mul(SECTOR), bytes as usize)?;
    let descriptor = Descriptor::parse(&raw)?;
    if descriptor == Descriptor::default() {
        return Err(Error::refused(
            "reading the VMDK descriptor",
            "it has none: it is one part of a split disk; name the disk's own file, which names the parts",
        ));
    }
    refuse_parent(&descriptor, path)?;
    if descriptor.extents.len() > 1 || descriptor.extents.iter().any(|line| line.kind != Kind::Sparse) {
        let reason = "the descriptor inside of it names other files";
        return Err(Error::unsupported("reading the VMDK descriptor", reason));
    }
    sparse(source, header, header.capacity, warnings)
}

/// The first `sectors` of a sparse extent.
fn sparse(source: RawSource, header: Header, sectors: u64, warnings: &mut Vec<String>) -> Result<Part> {
    if header.unclean {
        warnings.push("it was not closed cleanly: what was written last may be missing".to_owned());
    }
    let sparse = Sparse::new(source, header)?;
    let window = Window::new(sparse, 0, sectors.saturating_mul(SECTOR));
    Ok(Part::Sparse(Box::new(window.doing(|| "an extent is smaller than the descriptor says")?)))
}

fn open_extent(
    line: &ExtentLine,
    path: &Path,
    options: &OpenOptions,
    warnings: &mut Vec<String>,
) -> Result<Part> {
    let bytes =
        Some(line.sectors).filter(|sectors| *sectors <= header::MOST_SECTORS).map(|sectors| sectors * SECTOR);
    let bytes = bytes.ok_or_else(|| {
        Error::unsupported("reading the VMDK descriptor", format!("an extent of {} sectors", line.sectors))
    })?;
    match line.kind {
        Kind::Zero => Ok(Part::Zero(bytes)),
        Kind::Flat(start) => {
            let source = RawSource::from_file(open_beside(&line.file, path, options)?)?;
            let window = Window::new(source, start.saturating_mul(SECTOR), bytes);
            Ok(Part::Flat(window.doing(|| format!("opening {:?}, which is cut short", line.file))?))
        }
        Kind::Sparse => {
            let source = RawSource::from_file(open_beside(&line.file, path, options)?)?;
            let doing = || format!("opening {:?}", line.file);
            let header = Header::read(&source).doing(doing)?;
            sparse(source, header, line.sectors, warnings).doing(doing)
        }
    }
}

/// Opens an extent file. Unless more is allowed, it is a regular file in the descriptor's own folder.
fn open_beside(name: &str, path: &Path, options: &OpenOptions) -> Result<File> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let plain = !name.contains(['/', '\\', '\0']) && !matches!(name, "" | "." | "..");
    let there = folder.join(name);
    let refused = |what: &str| {
        let reason = format!(
            "its descriptor names {name:?}, {what}; allow it with --allow-backing, or put that file beside it"
        );
        Err(Error::refused("opening", reason).path(path))
    };
    if !options.allow_backing {
        if !plain {
            return refused("which is not in its folder");
        }
        if there.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            return refused("which is a link to another place");
        }
    }
    // Neither follows a link that somebody has put there meanwhile, nor waits at a pipe.
    let follow = if options.allow_backing { 0 } else { libc::O_NOFOLLOW };
    let opened = FileOptions::new().read(true).custom_flags(libc::O_NONBLOCK | follow).open(&there);
    let opened = opened.map_err(|error| Error::io("opening", error).path(&there))?;
    if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Error::refused("opening", "an extent that is not a regular file").path(&there));
    }
    file::advise_sequential(&opened);
    Ok(opened)
}

fn refuse_parent(descriptor: &Descriptor, path: &Path) -> Result<()> {
    let Some(parent) = &descriptor.parent else { return Ok(()) };
    let reason = format!(
        "it is a snapshot: it holds only what differs from its parent ({parent}); consolidate the snapshots, or merge them \
         with qemu-img convert"
    );
    Err(Error::refused("opening", reason).path(path))
}
