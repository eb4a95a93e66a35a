// SPDX-License-Identifier: Apache-2.0
//! Parts of files: RFC 9110 sections 13 and 14.

use std::ops::Range;

/// What of a file is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Bytes that it does not have.
    Outside,
}

/// Of the value of `Range`, for a file of `size` bytes. What is not understood, and several ranges at once, are the whole file, as
/// section 14.2 allows.
pub(super) fn part(value: &str, size: u64) -> Part {
    let Some(set) = value.trim().strip_prefix("bytes=") else { return Part::Whole };
    let Some((first, last)) = set.trim().split_once('-') else { return Part::Whole };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // A number that is larger than any file is behind its end.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    match (first, last) {
        ("", last) if digits(last) => {
            let count = number(last).min(size);
            if count == 0 { Part::Outside } else { Part::Bytes(size.saturating_sub(count)..size) }
        }
        (first, "") if digits(first) => within(number(first), u64::MAX, size),
        (first, last) if digits(first) && digits(last) => {
            let (first, last) = (number(first), number(last));
            if last < first { Part::Whole } else { within(first, last, size) }
        }
        _ => Part::Whole,
    }
}

fn within(first: u64, last: u64, size: u64) -> Part {
    if first >= size { Part::Outside } else { Part::Bytes(first..last.saturating_add(1).min(size)) }
}

/// Whether one of the tags of `If-None-Match` is `tag`; weak ones count too (section 13.1.2).
pub(super) fn matches(value: &str, tag: &str) -> bool {
    value.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_the_file_has() {
        for (value, expected) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=2-5", Part::Bytes(2..6)),
            ("bytes=2-500", Part::Bytes(2..10)),
            ("bytes=9-", Part::Bytes(9..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99999999999999999999999", Part::Bytes(0..10)),
            ("bytes=0-18446744073709551615", Part::Bytes(0..10)),
            ("bytes=10-", Part::Outside),
            ("bytes=99999999999999999999999-", Part::Outside),
            ("bytes=-0", Part::Outside),
            ("bytes=5-2", Part::Whole),
            ("bytes=1-2,4-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("pages=1-2", Part::Whole),
        ] {
            assert_eq!(part(value, 10), expected, "{value}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Outside);
        assert_eq!(part("bytes=-5", 0), Part::Outside);
    }

    #[test]
    fn tags_are_compared_as_a_list() {
        assert!(matches("\"a\", W/\"b\"", "\"b\"") && matches("*", "\"b\"") && !matches("\"a\"", "\"b\""));
    }
}
