// SPDX-License-Identifier: Apache-2.0
//! What to capture, and into which files.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unmoor_images::formats::{Compression, Format};
use unmoor_images::store::{Location, Receiver, Since};
use unmoor_images::{Error, ErrorKind, Result, ResultExt, layout, manifest};

use crate::disk::OpenOptions;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Block devices or disk images: the disks of one machine, in order.
    pub sources: Vec<PathBuf>,
    /// Where to.
    pub target: Target,
    /// For formats that compress.
    pub compression: Compression,
    /// Cluster in bytes, for formats that have one; the format's usual one if absent.
    pub cluster_size: Option<u32>,
    /// How to take the disks apart.
    pub layout: layout::Options,
    /// How to open the sources.
    pub open: OpenOptions,
    /// Take a source that somebody may write to.
    pub unsafe_live: bool,
    /// Capture disks in use as they are at one instant.
    pub live: Option<crate::live::Options>,
    /// Replace what is there.
    pub force: bool,
    /// Worker threads; 0 chooses.
    pub threads: usize,
    /// "unmoor 0.1.0", for the manifest.
    pub tool: String,
    /// What takes the image, where the target is in a store.
    pub store: Option<Arc<dyn Receiver>>,
    /// What to look at first for what is there.
    pub since: Since,
}

/// Where a capture goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Image files: this one for the first disk, `NAME.disk1.EXT` and so on for further ones, and `NAME.unmoor.json`.
    Files {
        /// The first disk's image.
        path: PathBuf,
        /// Format of all of them.
        format: Format,
    },
    /// A stream on standard output, of one disk, raw or VMDK; no manifest.
    Stream(Format),
    /// A machine in an image store.
    Store {
        /// The store, for people; `Request::store` is it.
        location: Location,
        /// The machine's name in it.
        machine: String,
    },
    /// A machine in the store behind a server.
    Server {
        /// The server, for people; `Request::store` is it.
        server: String,
        /// The machine's name in its store.
        machine: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { path, .. } => write!(f, "{}", path.display()),
            Self::Stream(_) => f.write_str("-"),
            Self::Store { location, machine } => write!(f, "{location}/{machine}"),
            Self::Server { server, machine } => write!(f, "{server}/{machine}"),
        }
    }
}

impl Target {
    /// `-`, or a file whose format is given or told by its extension.
    pub fn parse(path: &Path, format: Option<Format>) -> Result<Self> {
        if path == Path::new("-") {
            return match format {
                None => Ok(Self::Stream(Format::Raw)),
                Some(format @ (Format::Raw | Format::Vmdk)) => Ok(Self::Stream(format)),
                Some(_) => {
                    Err(usage("writing to standard output", "only raw and VMDK images can be streamed"))
                }
            };
        }
        if Location::is_path(path) {
            let (location, name) = Location::parse_image(&path.to_string_lossy())?;
            if name.time.is_some() {
                return Err(usage(
                    format!("capturing to {}", path.display()),
                    "the time of an image is that of its capture: leave out @TIME",
                ));
            }
            if format.is_some() {
                return Err(usage("writing to a store", "a store has its own format: leave out --format"));
            }
            return Ok(Self::Store { location, machine: name.machine });
        }
        let format = format.or_else(|| Format::from_extension(path)).ok_or_else(|| {
            usage(
                format!("choosing a format for {}", path.display()),
                "its name ends in none of .qcow2, .raw, .vmdk and .vhdx: rename it, or give --format; a store is dir:PATH/NAME or s3://BUCKET/NAME",
            )
        })?;
        format.check_written().doing(|| format!("creating {}", path.display()))?;
        Ok(Self::Files { path: path.to_owned(), format })
    }
}

/// The names of a capture's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// One image a disk.
    pub images: Vec<PathBuf>,
    /// The map file of each image.
    pub maps: Vec<PathBuf>,
    /// The manifest.
    pub manifest: PathBuf,
}

impl Outputs {
    /// Names for `count` disks. The first image is `path` itself.
    pub fn name(path: &Path, count: usize) -> Self {
        let images: Vec<PathBuf> = (0..count)
            .map(|disk| match (disk, path.extension()) {
                (0, _) => path.to_owned(),
                (_, None) => append(path, &format!(".disk{disk}")),
                (_, Some(extension)) => {
                    let stem = append(&path.with_extension(""), &format!(".disk{disk}."));
                    append(&stem, &extension.to_string_lossy())
                }
            })
            .collect();
        Self {
            maps: images.iter().map(|image| append(image, ".map")).collect(),
            manifest: manifest::path_for(path),
            images,
        }
    }

    /// Refuses to replace anything unless `force`, and a source or something that is not a file in any case.
    pub fn check(&self, sources: &[PathBuf], force: bool) -> Result<()> {
        let doing = |path: &Path| format!("creating {}", path.display());
        for path in self.images.iter().chain(&self.maps).chain([&self.manifest]) {
            let existing = match fs::metadata(path) {
                Ok(existing) => existing,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(doing(path), error)),
            };
            if !existing.is_file() {
                return Err(usage(
                    doing(path),
                    "it is not a file; `unmoor restore` writes images to block devices",
                ));
            }
            for source in sources {
                let source = fs::metadata(source).doing(|| format!("opening {}", source.display()))?;
                if (source.dev(), source.ino()) == (existing.dev(), existing.ino()) {
                    return Err(usage(doing(path), "it is the source"));
                }
            }
            if !force {
                return Err(Error::refused(doing(path), "it exists: choose another name, or give --force"));
            }
        }
        Ok(())
    }
}

/// `path` with `text` at its end, unlike `with_extension` for names with dots.
pub(crate) fn append(path: &Path, text: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(text);
    name.into()
}

pub(crate) fn usage(doing: impl Into<String>, because: &'static str) -> Error {
    Error::new(ErrorKind::Usage, doing.into()).because(because)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_disks_are_numbered_and_share_a_manifest() {
        let outputs = Outputs::name(Path::new("dir/web.01.qcow2"), 2);
        assert_eq!(outputs.images, [Path::new("dir/web.01.qcow2"), Path::new("dir/web.01.disk1.qcow2")]);
        assert_eq!(outputs.maps[1], Path::new("dir/web.01.disk1.qcow2.map"));
        assert_eq!(outputs.manifest, Path::new("dir/web.01.unmoor.json"));
        assert_eq!(Outputs::name(Path::new("plain"), 2).images[1], Path::new("plain.disk1"));
    }

    #[test]
    fn nothing_is_replaced_without_force_and_a_source_never() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.raw");
        fs::write(&image, "x").unwrap();
        let outputs = Outputs::name(&image, 1);
        assert_eq!(outputs.check(&[], false).unwrap_err().kind(), ErrorKind::Refused);
        outputs.check(&[], true).unwrap();
        let link = folder.path().join("link");
        fs::hard_link(&image, &link).unwrap();
        assert_eq!(outputs.check(&[link], true).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(
            Outputs::name(Path::new("/dev/null"), 1).check(&[], true).unwrap_err().kind(),
            ErrorKind::Usage
        );
    }

    #[test]
    fn formats_come_from_the_name_or_the_user() {
        let parse = |path: &str, format| Target::parse(Path::new(path), format);
        assert_eq!(parse("-", None).unwrap(), Target::Stream(Format::Raw));
        assert_eq!(parse("-", Some(Format::Vmdk)).unwrap(), Target::Stream(Format::Vmdk));
        assert!(parse("web01.vdi", None).is_err());
        assert!(parse("-", Some(Format::Qcow2)).is_err());
        assert!(parse("web01", None).is_err());
        let store = Target::Store { location: Location::Directory("/srv/s".into()), machine: "web01".into() };
        assert_eq!(parse("dir:/srv/s/web01", None).unwrap(), store);
        assert!(parse("dir:/srv/s/web01@20261124T215000Z", None).is_err());
        assert_eq!(
            parse("web01", Some(Format::Raw)).unwrap(),
            Target::Files { path: "web01".into(), format: Format::Raw }
        );
    }
}
