// SPDX-License-Identifier: Apache-2.0
//! What can be made again is kept here: `$XDG_CACHE_HOME/unmoor`, or `~/.cache/unmoor`.

use std::path::PathBuf;

/// The folder, which need not be there yet; `None` where neither variable is set.
pub(crate) fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    cache.or_else(|| set("HOME").map(|home| home.join(".cache"))).map(|path| path.join("unmoor"))
}
