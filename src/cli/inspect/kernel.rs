// SPDX-License-Identifier: Apache-2.0
//! Which kernel mounts the filesystems that were found: the rescue environment's, or the running one, from which the appliance is made.

use std::path::Path;

use serde_json::{Value, json};
use unmoor_images::layout::{self, Content, DiskLayout, Place};
use unmoor_images::{BlockSource, Result};
use unmoor_initramfs::rescue::{self, Facts, Needs};

use super::show::place;

/// What one filesystem asks for.
struct Found {
    disk: usize,
    place: Place,
    needs: Needs,
}

/// A kernel, and what the filesystems ask of one.
pub(super) struct Kernel {
    release: String,
    found: Vec<Found>,
}

impl Kernel {
    /// Reads the feature bits of every filesystem; one that cannot be read says nothing here.
    pub(super) fn of(
        rescue: Option<&Path>,
        sources: &[&dyn BlockSource],
        layouts: &[DiskLayout],
    ) -> Result<Self> {
        let release = match rescue {
            Some(folder) => Facts::read(folder)?.release,
            None => rescue::running_release(),
        };
        let mut found = Vec::new();
        for (disk, layout) in layouts.iter().enumerate() {
            for region in layout.all_regions().filter(|region| is_possible(&region.content)) {
                let opened = layout::open(sources, layouts, disk, &region.place);
                if let Ok(Some(needs)) = opened.and_then(|source| rescue::needs(&source)) {
                    found.push(Found { disk, place: region.place.clone(), needs });
                }
            }
        }
        Ok(Self { release, found })
    }

    /// A line for each filesystem on disk number `disk` that this kernel does not mount; for all, if `verbose`, what they need.
    pub(super) fn lines(&self, disk: usize, verbose: bool) -> Vec<String> {
        let here = self.found.iter().filter(|found| found.disk == disk);
        here.filter_map(|Found { place: at, needs, .. }| {
            let name = place(at).0;
            if let Some(why) = needs.refusal(&self.release, true) {
                return Some(format!("{name}: {why}"));
            }
            let (major, minor) = needs.to_write;
            let because = if needs.because.is_empty() {
                String::new()
            } else {
                format!(" ({})", needs.because.join(", "))
            };
            verbose
                .then(|| format!("{name}: {} for Linux {major}.{minor} or newer{because}", needs.filesystem))
        })
        .collect()
    }

    /// For programs.
    pub(super) fn document(&self, disk: usize) -> Value {
        let number = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        let here = self.found.iter().filter(|found| found.disk == disk);
        here.map(|Found { place, needs, .. }| {
            json!({
                "place": place,
                "filesystem": needs.filesystem,
                "kernel_to_read": number(needs.to_read),
                "kernel_to_write": number(needs.to_write),
                "because": needs.because,
                "unknown": needs.unknown,
                "kernel": self.release,
                "refusal": needs.refusal(&self.release, true),
            })
        })
        .collect()
    }
}

/// A filesystem with features that our readers do not know is none to them.
fn is_possible(content: &Content) -> bool {
    matches!(content, Content::Filesystem(_) | Content::Unknown)
}
