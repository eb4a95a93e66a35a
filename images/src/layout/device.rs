// SPDX-License-Identifier: Apache-2.0
//! A device as the machine would see it, and where its bytes lie on the machine's disks.

use std::ops::Range;

use crate::adapt::{Mapped, Segment};
use crate::{BlockSource, Result};

/// Bytes of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Span {
    pub(super) disk: usize,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Span {
    /// A part of it, cut off at its end.
    pub(super) fn part(&self, range: &Range<u64>) -> Self {
        let (start, end) = (range.start.min(self.len), range.end.min(self.len));
        Self { disk: self.disk, start: self.start + start, len: end.saturating_sub(start) }
    }
}

/// A disk, partition, array or logical volume. A mirror has several copies of all its bytes.
#[derive(Debug, Clone)]
pub(super) enum Device {
    /// One run of bytes a copy.
    Spans(Vec<Span>),
    /// Segments over the machine's disks, a list for each copy.
    Volume(Vec<Vec<Segment>>),
}

impl Device {
    pub(super) fn span(span: Span) -> Self {
        Self::Spans(vec![span])
    }

    /// Every copy as a source.
    pub(super) fn copies<'a>(&self, disks: &[&'a dyn BlockSource]) -> Result<Vec<Mapped<'a>>> {
        let map = |segments: Vec<Segment>| Mapped::new(disks.to_vec(), segments);
        match self {
            Self::Spans(spans) => {
                spans.iter().map(|span| map(vec![Segment::linear(span.len, span.disk, span.start)])).collect()
            }
            Self::Volume(copies) => copies.iter().cloned().map(map).collect(),
        }
    }
}
