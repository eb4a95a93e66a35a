// SPDX-License-Identifier: Apache-2.0
//! The SELinux label of a new file. A rescue kernel has no policy that would give it one, and a file without is one that
//! confined programs may not read. A label is taken from a file beside it, else from its directory: that is what the policy's
//! rules come to for every directory that plans write to.

use std::collections::BTreeMap;

use unmoor_images::Result;

use super::place::Place;
use crate::files::{Directory, Files, Kind};

pub(super) const NAME: &str = "security.selinux";
/// Files of a directory that are asked.
const MOST: usize = 64;

/// The label for a new file at `path` (its directory exists); `None` where the guest has none.
pub(super) fn label(root: &Directory, path: &str, kind: Kind) -> Result<Option<Vec<u8>>> {
    let (parent, _) = super::place::split(path);
    let Some(own) = Place::open(root, &format!("{}/.", parent.trim_end_matches('/')))?.extended(NAME)? else {
        return Ok(None);
    };
    if kind == Kind::Directory {
        return Ok(Some(own));
    }
    let mut votes: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for name in root.list(parent)?.into_iter().take(MOST) {
        let sibling = format!("{}/{name}", parent.trim_end_matches('/'));
        if root.link_metadata(&sibling)?.is_some_and(|found| found.kind == kind)
            && let Some(label) = Place::open(root, &sibling)?.extended(NAME)?
        {
            *votes.entry(label).or_default() += 1;
        }
    }
    let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
    Ok(Some(most.map_or(own, |(label, _)| label)))
}
