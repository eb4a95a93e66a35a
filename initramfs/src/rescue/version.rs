// SPDX-License-Identifier: Apache-2.0
//! Order of kernel releases: which is newer.

use std::cmp::Ordering;

/// Numbers by their value, other text by its bytes: "6.10.4-amd64" is newer than "6.9.12-amd64". A release candidate
/// ("6.1-rc3", "6.1~rc3") is older than what it leads to.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a).into_iter(), parts(b).into_iter());
    loop {
        return match (a.next(), b.next()) {
            (None, None) => Ordering::Equal,
            (Some(Part::Candidate), None) => Ordering::Less,
            (None, Some(Part::Candidate)) => Ordering::Greater,
            (Some(_), None) => Ordering::Greater,
            (None, Some(_)) => Ordering::Less,
            (Some(left), Some(right)) if left == right => continue,
            (Some(left), Some(right)) => left.cmp(&right),
        };
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Candidate,
    Text(String),
    Number(u64),
}

fn parts(release: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = release;
    while let Some(first) = rest.chars().next() {
        let is_digit = first.is_ascii_digit();
        let end = rest.find(|char: char| char.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        let trimmed = part.trim_matches(['.', '-', '~', '+', '_']);
        parts.push(match (is_digit, trimmed) {
            (true, digits) => Part::Number(digits.parse().unwrap_or(u64::MAX)),
            (false, "rc") => Part::Candidate,
            (false, text) => Part::Text(text.to_owned()),
        });
        rest = behind;
    }
    parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_as_their_numbers_are() {
        let rising = [
            "4.19.0-27-amd64",
            "5.10.0-9-amd64",
            "5.10.0-32-amd64",
            "6.1-rc3",
            "6.1.0-9-amd64",
            "6.1.0-32-amd64",
            "6.9.12-amd64",
            "6.10.4-amd64",
        ];
        for pair in rising.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
            assert_eq!(compare(pair[0], pair[0]), Ordering::Equal);
        }
    }
}
