// SPDX-License-Identifier: Apache-2.0
//! Aliases as patterns: what fnmatch(3) without flags does, as kmod's look-up does (libkmod-index.c).

/// A module's or an alias' name with '-' as '_', which are the same to kmod; within brackets '-' is a range.
pub fn normal(name: &str) -> String {
    let mut inside = false;
    name.chars()
        .map(|char| {
            match char {
                '[' => inside = true,
                ']' => inside = false,
                '-' if !inside => return '_',
                _ => {}
            }
            char
        })
        .collect()
}

/// Whether `pattern` stands for `text`, which is [`normal`]: `*`, `?`, `[a-c]`, `[!x]`, `\x`. Takes at most the product of their
/// lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit: one more byte is the star's.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let Some(&byte) = text.get(t) else {
            return pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'));
        };
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        match one(pattern, p, byte) {
            Some(next) => (p, t) = (next, t + 1),
            None => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
}

/// Where the pattern goes on if its part at `p` stands for `byte`.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => match class(pattern, p + 1, byte) {
            Some((end, fits)) => fits.then_some(end),
            // Without an end it is a bracket.
            None => (byte == b'[').then_some(p + 1),
        },
        b'\\' => match pattern.get(p + 1) {
            Some(literal) => (*literal == byte).then_some(p + 2),
            None => (byte == b'\\').then_some(p + 1),
        },
        b'-' => (byte == b'_').then_some(p + 1),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// The end of the bracket expression behind `p`, and whether `byte` is in it.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.get(p)?, b'!' | b'^');
    p += usize::from(negated);
    let mut found = false;
    let mut first = true;
    loop {
        let from = *pattern.get(p)?;
        if from == b']' && !first {
            return Some((p + 1, found != negated));
        }
        first = false;
        let to = match (pattern.get(p + 1), pattern.get(p + 2)) {
            (Some(b'-'), Some(&to)) if to != b']' => {
                p += 2;
                to
            }
            _ => from,
        };
        found |= (from..=to).contains(&byte);
        p += 1;
    }
}
