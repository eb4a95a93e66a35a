// SPDX-License-Identifier: Apache-2.0
//! Boot loader files: of the guest's own packages where they are complete, else of the rescue environment's payload.
//!
//! Names are those below Debian's /usr/lib: "grub/i386-pc/boot.img", "grub/x86_64-efi-signed/grubx64.efi.signed",
//! "shim/shimx64.efi.signed". Other distributions keep modules in the same places, or below /usr/share/grub2.

use unmoor_images::Result;

use super::grub::binary;
use super::grub::reads::Version;
use crate::files::Files;
use crate::request::Request;

/// The largest file of a boot loader: a monolithic GRUB has 4 MiB.
const MOST: u64 = 32 << 20;
const FOLDERS: &[&str] = &["/usr/lib/", "/usr/share/", "/usr/share/grub2/", "/usr/lib/grub2/"];

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// A directory of the guest that stands for "/usr/lib/".
    Guest(&'static str),
    Payload,
}

/// Reads files of boot loaders.
pub(super) struct Loaders<'a> {
    files: &'a dyn Files,
    request: &'a Request,
}

/// EFI applications that start a GRUB.
pub(super) struct EfiGrub {
    pub(super) shim: Option<Vec<u8>>,
    pub(super) mok_manager: Option<Vec<u8>>,
    pub(super) grub: Vec<u8>,
    /// Built in: "/EFI/debian".
    pub(super) prefix: String,
    pub(super) version: Option<Version>,
    /// For people.
    pub(super) origin: String,
}

impl EfiGrub {
    /// Knows Fedora's command for boot loader specification entries.
    pub(super) fn reads_entries(&self) -> bool {
        self.grub.windows(6).any(|window| window == b"blscfg")
    }
}

/// GRUB's files for a BIOS.
pub(super) struct BiosGrub<'a> {
    loaders: &'a Loaders<'a>,
    origin: Origin,
    pub(super) version: Option<Version>,
}

impl BiosGrub<'_> {
    /// A file of its directory.
    pub(super) fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.loaders.read(&self.origin, &format!("grub/i386-pc/{name}")).or_else(|| match self.origin {
            // Where the folder is /usr/share/grub2 itself.
            Origin::Guest(_) => self.loaders.read(&self.origin, &format!("i386-pc/{name}")),
            Origin::Payload => None,
        })
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.file(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub(super) fn is_guests_own(&self) -> bool {
        matches!(self.origin, Origin::Guest(_))
    }

    /// For people.
    pub(super) fn origin(&self) -> String {
        describe(&self.origin)
    }
}

fn describe(origin: &Origin) -> String {
    match origin {
        Origin::Guest(folder) => format!("the guest's own {folder}"),
        Origin::Payload => "the rescue environment's payload".to_owned(),
    }
}

impl<'a> Loaders<'a> {
    pub(super) fn new(files: &'a dyn Files, request: &'a Request) -> Self {
        Self { files, request }
    }

    fn read(&self, origin: &Origin, name: &str) -> Option<Vec<u8>> {
        match origin {
            // What cannot be read is taken as missing: another origin, or a refusal, follows.
            Origin::Guest(folder) => self.files.read(&format!("{folder}{name}"), MOST).ok().flatten(),
            Origin::Payload => {
                let payload = &self.request.payload;
                payload.get(name).or_else(|| payload.get(name.strip_prefix("grub/")?)).cloned()
            }
        }
    }

    fn origins(&self) -> impl Iterator<Item = Origin> {
        FOLDERS.iter().map(|folder| Origin::Guest(folder)).chain([Origin::Payload])
    }

    /// shim and a signed GRUB, else a GRUB without signature.
    pub(super) fn efi(&self) -> Result<Option<EfiGrub>> {
        let first = |origin: &Origin, names: &[&str]| names.iter().find_map(|name| self.read(origin, name));
        for signed in [true, false] {
            for origin in self.origins() {
                let names: &[&str] = match signed {
                    true => &["grub/x86_64-efi-signed/grubx64.efi.signed"],
                    false => &["grub/x86_64-efi/monolithic/grubx64.efi"],
                };
                let Some(grub) = first(&origin, names) else { continue };
                let shim = first(&origin, &["shim/shimx64.efi.signed", "shim/shimx64.efi.signed.latest"]);
                if signed && shim.is_none() {
                    continue;
                }
                let Some(prefix) = binary::prefix(&grub) else { continue };
                return Ok(Some(EfiGrub {
                    shim: shim.filter(|_| signed),
                    mok_manager: first(&origin, &["shim/mmx64.efi.signed", "shim/mmx64.efi"])
                        .filter(|_| signed),
                    version: binary::version(&grub),
                    prefix,
                    grub,
                    origin: describe(&origin),
                }));
            }
        }
        Ok(None)
    }

    /// The first complete directory of GRUB for a BIOS.
    pub(super) fn bios(&'a self) -> Option<BiosGrub<'a>> {
        self.origins().find_map(|origin| {
            let mut found = BiosGrub { loaders: self, origin, version: None };
            let all = [
                "kernel.img",
                "boot.img",
                "diskboot.img",
                "lzma_decompress.img",
                "moddep.lst",
                "command.lst",
            ];
            all.iter().all(|name| found.file(name).is_some()).then(|| {
                found.version = found.file("normal.mod").and_then(|module| binary::version(&module));
                found
            })
        })
    }
}
