// SPDX-License-Identifier: Apache-2.0
//! Where the records of restores lie: beside the target where that is a file, else beside the image; an image of a store lies in no
//! folder of this machine, so that its restores to devices are recorded in this machine's own: `$XDG_STATE_HOME/unmoor/records`, for
//! root `/var/lib/unmoor/records`, else `~/.local/state/unmoor/records`.

use std::path::{Path, PathBuf};

use unmoor_restore::image::Image;
use unmoor_restore::plan::Target;
use unmoor_restore::record::RestoreRecord;

/// What a disk of a stored image is called: "web01@20261124T215000Z", with the name of its image where there are several.
pub(crate) fn stored_name(image: &str, of_several: Option<&str>) -> PathBuf {
    let name = of_several.map_or(image.to_owned(), |disk| format!("{image}.{disk}"));
    // It becomes a part of a file's name, and comes from a manifest that somebody else may have written.
    name.replace('/', "_").into()
}

/// Where the record of a restore to `target` belongs; none for a stream, with which nothing could be compared again, and where no
/// folder is this user's.
pub(crate) fn place(image: &Image, target: &Target) -> Option<PathBuf> {
    if image.stream.is_some() {
        return None;
    }
    let from_store = image.shared.is_some() && matches!(target, Target::Device { .. });
    let image = if from_store { &folder()?.join(&image.path) } else { &image.path };
    Some(RestoreRecord::path_for(image, target))
}

/// Where the record of the restore of a stored image to a device is looked for. `image` as [`stored_name`] answers.
pub(crate) fn of_stored(image: &Path, device: &Path) -> Option<PathBuf> {
    Some(RestoreRecord::for_device(&folder()?.join(image), device))
}

/// The folder, which need not be there yet.
fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let of_user = || set("HOME").map(|home| home.join(".local/state"));
    let of_machine = || nix::unistd::geteuid().is_root().then(|| PathBuf::from("/var/lib"));
    let state = set("XDG_STATE_HOME").or_else(of_machine).or_else(of_user)?;
    Some(state.join("unmoor/records"))
}
