// SPDX-License-Identifier: Apache-2.0
//! All files of one filesystem, each held against the ranges.

use std::collections::HashSet;
use std::time::Instant;

use super::{Affected, AffectedFile, Limits, Within, cancelled};
use crate::filesystem::files::{Id, Kind, Limited, Volume};
use crate::{Monitor, RangeSet, Result};

/// Names that are looked at. Directories that are known, or wait with their paths, are among them: some hundred MiB at the very most.
const MOST_FILES: u64 = 4_000_000;
/// Bytes of the paths of directories that wait.
const MOST_WAITING: usize = 64 << 20;

pub(super) struct Walk<'a> {
    volume: Box<dyn Volume + 'a>,
    within: &'a Within<'a, 'a>,
    source: &'a Limited<'a>,
    limits: &'a Limits,
    monitor: &'a dyn Monitor,
    seen: HashSet<Id>,
    waiting: Vec<(Vec<u8>, Id)>,
    waiting_bytes: usize,
    looked: u64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        volume: Box<dyn Volume + 'a>,
        within: &'a Within<'a, 'a>,
        source: &'a Limited<'a>,
        limits: &'a Limits,
        monitor: &'a dyn Monitor,
    ) -> Self {
        Self {
            volume,
            within,
            source,
            limits,
            monitor,
            seen: HashSet::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            looked: 0,
        }
    }

    pub(super) fn run(mut self, answer: &mut Affected) -> Result<()> {
        // Of several roots (btrfs' subvolumes) the first holds all others.
        let root = match self.volume.other_roots() {
            Ok(roots) => roots.first().map_or(self.volume.root(), |(_, id)| *id),
            Err(error) => {
                answer.incomplete = Some(error.chain());
                self.volume.root()
            }
        };
        let mut covered: Vec<RangeSet> = self.within.ranges.iter().map(|_| RangeSet::new()).collect();
        self.look(Vec::new(), root, answer, &mut covered);
        while let Some((path, directory)) = self.waiting.pop() {
            self.waiting_bytes -= path.len();
            let mut names = Vec::new();
            let listed = self.volume.entries(directory, &mut |name, id| {
                if name != b"." && name != b".." {
                    names.push((name.to_vec(), id));
                }
                names.len() as u64 <= MOST_FILES
            });
            if let Err(error) = listed {
                self.report(&path, 0, Some(format!("not all names in it: {}", error.chain())), answer);
            }
            names.sort();
            let first = self.waiting.len();
            for (name, id) in names {
                if self.monitor.cancelled() {
                    return Err(cancelled());
                }
                if let Some(because) = self.ended() {
                    answer.incomplete = Some(because);
                    answer.file_bytes = covered.iter_mut().map(RangeSet::bytes).sum();
                    return Ok(());
                }
                let mut path = path.clone();
                path.push(b'/');
                path.extend_from_slice(&name);
                self.look(path, id, answer, &mut covered);
            }
            // The last one is taken first.
            if let Some(found) = self.waiting.get_mut(first..) {
                found.reverse();
            }
        }
        if self.source.is_spent() {
            answer.incomplete = Some("it takes too many reads".to_owned());
        }
        answer.file_bytes = covered.iter_mut().map(RangeSet::bytes).sum();
        Ok(())
    }

    /// Why no more is looked at, if so.
    fn ended(&self) -> Option<String> {
        let why = if self.limits.until.is_some_and(|until| Instant::now() >= until) {
            "it takes too long"
        } else if self.looked >= MOST_FILES || self.waiting_bytes >= MOST_WAITING {
            "there are too many"
        } else if self.source.is_spent() {
            "it takes too many reads"
        } else {
            return None;
        };
        Some(format!("only the first {} files were looked at: {why}", self.looked))
    }

    /// One entry. What cannot be read of it is told.
    fn look(&mut self, path: Vec<u8>, id: Id, answer: &mut Affected, covered: &mut [RangeSet]) {
        self.looked += 1;
        let node = match self.volume.node(id) {
            Ok(node) => node,
            Err(error) => return self.report(&path, 0, Some(error.chain()), answer),
        };
        let runs = match self.volume.runs(id) {
            Ok(runs) => runs.unwrap_or_default(),
            Err(error) => {
                let unreadable = Some(format!("where its content lies: {}", error.chain()));
                self.report(&path, 0, unreadable, answer);
                Vec::new()
            }
        };
        let mut bytes = 0;
        for run in runs {
            let range = run.physical..run.physical.saturating_add(run.stored);
            self.within.each(range, &mut |disk, part| {
                bytes += part.end - part.start;
                covered.get_mut(disk).into_iter().for_each(|set| set.insert(part.clone()));
            });
        }
        if bytes > 0 {
            self.report(&path, bytes, None, answer);
        }
        if node.kind == Kind::Directory && self.seen.insert(id) {
            self.waiting_bytes += path.len();
            self.waiting.push((path, id));
        }
    }

    fn report(&self, path: &[u8], bytes: u64, unreadable: Option<String>, answer: &mut Affected) {
        // With no reads left nothing can be read, whatever is hurt.
        if unreadable.is_some() && self.source.is_spent() {
            return;
        }
        let path = if path.is_empty() { b"/" } else { path };
        let path = String::from_utf8_lossy(path).into_owned();
        // A directory whose blocks are hurt cannot be listed either: one of both is enough.
        let full = answer.files.len() >= self.limits.files;
        match answer.files.iter_mut().rev().find(|file| file.path == path) {
            Some(known) => {
                known.bytes += bytes;
                known.unreadable = known.unreadable.take().or(unreadable);
            }
            None if full => answer.more += 1,
            None => answer.files.push(AffectedFile { path, bytes, unreadable }),
        }
    }
}
