// SPDX-License-Identifier: Apache-2.0
//! Plans as JSON, for scripts and for a later run.

use serde::{Deserialize, Serialize};
use unmoor_images::{Error, Result};

use super::{Change, Plan, Was};

/// What is read back: older programs do not carry out what they do not know.
const FORMAT: u32 = 1;
/// No plan is longer, in bytes: appended drivers are a few MiB per kernel.
const MOST: usize = 1 << 30;

#[derive(Serialize)]
struct Saved<'a> {
    unmoor_plan: u32,
    #[serde(flatten)]
    plan: &'a Plan,
}

#[derive(Deserialize)]
struct Loaded {
    unmoor_plan: u32,
    #[serde(flatten)]
    plan: Plan,
}

impl Plan {
    /// The plan as JSON.
    ///
    /// # Errors
    ///
    /// None that any plan is known to cause.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(&Saved { unmoor_plan: FORMAT, plan: self }).map_err(|error| {
            Error::malformed("writing the plan as JSON", "it has no such form").source(error)
        })
    }

    /// Reads what [`to_json`](Self::to_json) wrote. Its paths are checked: absolute, and without dots.
    ///
    /// # Errors
    ///
    /// `Malformed`; `Unsupported` for a format of another version.
    pub fn load(json: &[u8]) -> Result<Self> {
        const DOING: &str = "reading a saved plan";
        if json.len() > MOST {
            return Err(Error::malformed(DOING, "it is longer than any plan"));
        }
        let loaded: Loaded =
            serde_json::from_slice(json).map_err(|error| Error::malformed(DOING, error.to_string()))?;
        if loaded.unmoor_plan != FORMAT {
            return Err(Error::unsupported(
                DOING,
                format!("it has format {}, and this program knows {FORMAT}", loaded.unmoor_plan),
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        for edit in &loaded.plan.edits {
            check_path(&edit.path).map_err(|why| Error::malformed(DOING, why))?;
            if !seen.insert(&edit.path) {
                return Err(Error::malformed(DOING, format!("it changes {} twice", edit.path)));
            }
            match (&edit.change, edit.change.was()) {
                (_, Was::File { hash, .. }) if hash.len() != 64 => {
                    return Err(Error::malformed(DOING, format!("the hash for {} is none", edit.path)));
                }
                (Change::Append { .. }, Was::Absent | Was::Link { .. }) => {
                    return Err(Error::malformed(DOING, format!("nothing to append to is at {}", edit.path)));
                }
                (Change::Write { mode, .. } | Change::Directory { mode }, _) if *mode > 0o7777 => {
                    return Err(Error::malformed(DOING, format!("the mode for {} is none", edit.path)));
                }
                _ => {}
            }
        }
        Ok(loaded.plan)
    }
}

/// Whether a path is absolute, without dots and empty parts.
pub(crate) fn check_path(path: &str) -> std::result::Result<(), String> {
    let good = path.len() < 4096
        && !path.contains('\0')
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if good { Ok(()) } else { Err(format!("{path:?} is no absolute path without dots")) }
}
