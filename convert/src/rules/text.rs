// SPDX-License-Identifier: Apache-2.0
//! Text files that are changed in places and otherwise stay as they are, whatever their encoding.

use std::ops::Range;

use unmoor_images::Result;

use crate::files::{Files, MOST_TEXT};
use crate::plan::Draft;

/// A text file of the guest. Where it is not UTF-8, its bytes are taken for the characters of the same number, so that everything
/// that is not touched is written back as it was.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    bytewise: bool,
}

impl Text {
    /// The file at `path` as it is planned so far; `None` where there is none.
    pub(super) fn read(draft: &Draft<'_>, path: &str) -> Result<Option<Self>> {
        Ok(draft.read(path, MOST_TEXT)?.map(Self::from_bytes))
    }

    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self { text, bytewise: false },
            Err(error) => {
                Self { text: error.into_bytes().into_iter().map(char::from).collect(), bytewise: true }
            }
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        if self.bytewise {
            // What is put in is ASCII.
            self.text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
        } else {
            self.text.into_bytes()
        }
    }

    /// Plans the file with these pieces replaced; they are in order and apart.
    pub(super) fn write(
        self,
        draft: &mut Draft<'_>,
        path: &str,
        pieces: &[(Range<usize>, String)],
        rule: &str,
        why: &str,
    ) -> Result<()> {
        draft.write(path, self.with(pieces), rule, why)
    }

    /// The bytes with these pieces replaced; they are in order and apart.
    pub(super) fn with(mut self, pieces: &[(Range<usize>, String)]) -> Vec<u8> {
        let mut new = String::with_capacity(self.text.len());
        let mut done = 0;
        for (range, piece) in pieces {
            // Those of a text that is twisted enough could meet: the first one holds.
            let (Some(before), true) =
                (self.text.get(done..range.start), self.text.is_char_boundary(range.end))
            else {
                continue;
            };
            new.push_str(before);
            new.push_str(piece);
            done = range.end.max(range.start);
        }
        new.push_str(self.text.get(done..).unwrap_or_default());
        self.text = new;
        self.into_bytes()
    }
}

/// The lines of a text: first byte, and text without its end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        (start, line.trim_end_matches(['\n', '\r']))
    })
}

/// The range of a line with its end.
pub(super) fn whole_line(text: &str, start: usize) -> Range<usize> {
    let rest = text.get(start..).unwrap_or_default();
    start..start + rest.find('\n').map_or(rest.len(), |end| end + 1)
}

/// Words between blanks, with their places.
pub(super) fn words(line: &str, start: usize) -> Vec<(Range<usize>, &str)> {
    let base = line.as_ptr() as usize;
    line.split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .map(|word| {
            let at = start + (word.as_ptr() as usize - base);
            (at..at + word.len(), word)
        })
        .collect()
}

/// Names of the files in `folder` that end like this, with the folder before them.
pub(super) fn files_in(draft: &Draft<'_>, folder: &str, end: &str) -> Result<Vec<String>> {
    let names = draft.list(folder)?;
    Ok(names.iter().filter(|name| name.ends_with(end)).map(|name| format!("{folder}/{name}")).collect())
}
