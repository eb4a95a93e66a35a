// SPDX-License-Identifier: Apache-2.0
//! What becomes of a unified kernel image whose initramfs changes.
//!
//! | | signed | not signed |
//! |---|---|---|
//! | a key is given | made anew and signed | made anew and signed |
//! | Secure Boot stays | nothing: the firmware would not start it any more | made anew |
//! | Secure Boot off | unpacked into an entry of systemd-boot; made anew without signature where there is no systemd-boot | made anew |

use unmoor_convert::files::{Files, MOST_TEXT};
use unmoor_convert::inspection::{Inspection, LoaderKind};
use unmoor_convert::plan::Draft;
use unmoor_convert::request::{Request, SecureBoot};
use unmoor_images::Result;

use super::{Image, rebuild, sign};

/// Files to write: path and content.
pub(crate) type Written = Vec<(String, Vec<u8>)>;

/// The files that make the machine start the kernel in `file` (at `path` in the guest) with `initrd`; `None` where its signature
/// forbids it.
pub(crate) fn carry(
    draft: &Draft,
    inspection: &Inspection,
    request: &Request,
    (path, file): (&str, &[u8]),
    initrd: &[u8],
    is_default: bool,
) -> Result<Option<Written>> {
    let image = Image::parse(file)?;
    if image.is_signed() && request.sign_key.is_none() {
        if request.secure_boot == SecureBoot::Keep {
            return Ok(None);
        }
        let has_menu = inspection.boot.loaders.iter().any(|loader| loader.kind == LoaderKind::SystemdBoot);
        if let Some(partition) = partition_of(path).filter(|_| has_menu) {
            return unpack(draft, &image, partition, initrd, is_default).map(Some);
        }
    }
    let built = rebuild(&image, &[(".initrd", initrd)])?;
    let built = match &request.sign_key {
        Some(key) => sign(&built, key)?,
        None => built,
    };
    Ok(Some(vec![(path.to_owned(), built)]))
}

/// Where the guest mounts the partition that holds `path`, which the UAPI group's Boot Loader Specification puts into \EFI\Linux.
fn partition_of(path: &str) -> Option<&str> {
    let at = path.to_ascii_lowercase().find("/efi/linux/")?;
    path.get(..at)
}

/// Kernel, initramfs and an entry of type 1 (Boot Loader Specification). The image stays, as a choice.
fn unpack(
    draft: &Draft,
    image: &Image<'_>,
    partition: &str,
    initrd: &[u8],
    is_default: bool,
) -> Result<Written> {
    let text = |name: &str| {
        let text = image.find(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        text.unwrap_or_default().trim_matches(['\0', '\n', ' ']).to_owned()
    };
    let release = text(".uname");
    let folder: String =
        release.chars().filter(|char| char.is_ascii_alphanumeric() || "._+-".contains(*char)).collect();
    let folder = if folder.trim_matches('.').is_empty() { "kernel".to_owned() } else { folder };
    let title = text(".osrel")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned());
    let options = text(".cmdline").replace('\n', " ");
    let entry = format!(
        "title {title}\nversion {folder}\nlinux /unmoor/{folder}/linux\ninitrd /unmoor/{folder}/initrd\noptions {options}\n"
    );
    let name = format!("unmoor-{folder}.conf");
    let mut files = vec![
        (format!("{partition}/unmoor/{folder}/linux"), image.find(".linux").unwrap_or_default().to_vec()),
        (format!("{partition}/unmoor/{folder}/initrd"), initrd.to_vec()),
        (format!("{partition}/loader/entries/{name}"), entry.into_bytes()),
    ];
    if is_default {
        let path = format!("{partition}/loader/loader.conf");
        let old = draft.read(&path, MOST_TEXT)?.unwrap_or_default();
        let old = String::from_utf8_lossy(&old);
        let is_choice = |line: &&str| line.split_whitespace().next() == Some("default");
        let mut new = format!("default {name}\n");
        for line in old.lines().filter(|line| !is_choice(line)) {
            new.push_str(line);
            new.push('\n');
        }
        files.push((path, new.into_bytes()));
    }
    Ok(files)
}
