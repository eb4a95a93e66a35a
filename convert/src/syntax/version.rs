// SPDX-License-Identifier: Apache-2.0
//! Order of versions, as rpmvercmp and the Boot Loader Specification have it (UAPI.10, version format).

use std::cmp::Ordering;

/// Compares two versions: runs of digits as numbers, of letters as text, what separates them counts for nothing; "~" comes
/// before everything, "^" before all but the end.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let skip = |text: &mut &[u8]| {
            while let Some((first, rest)) = text.split_first() {
                if first.is_ascii_alphanumeric() || matches!(first, b'~' | b'^') {
                    break;
                }
                *text = rest;
            }
        };
        skip(&mut a);
        skip(&mut b);
        for (mark, at_end) in [(b'~', Ordering::Greater), (b'^', Ordering::Less)] {
            match (a.first() == Some(&mark), b.first() == Some(&mark)) {
                (true, true) => {}
                (true, false) if b.is_empty() => return at_end.reverse(),
                (false, true) if a.is_empty() => return at_end,
                (true, false) => return Ordering::Less,
                (false, true) => return Ordering::Greater,
                (false, false) => continue,
            }
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
        }
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => {
                let digits = x.is_ascii_digit();
                // Numbers are newer than words.
                if digits != y.is_ascii_digit() {
                    return if digits { Ordering::Greater } else { Ordering::Less };
                }
                let (one, rest_a) = run(a, digits);
                let (two, rest_b) = run(b, digits);
                let order = if digits { (one.len(), one).cmp(&(two.len(), two)) } else { one.cmp(two) };
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
        }
    }
}

/// A run of digits without leading zeros, or of letters, and what follows.
fn run(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let is = |byte: &&u8| if digits { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
    let len = text.iter().take_while(is).count();
    let (mut word, rest) = text.split_at(len);
    while digits && word.len() > 1 && word.first() == Some(&b'0') {
        word = word.get(1..).unwrap_or_default();
    }
    (word, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_rpmvercmp() {
        // Pairs from rpm's own test of rpmvercmp, and kernels.
        for (a, b, want) in [
            ("1.0", "1.0", Ordering::Equal),
            ("1.0", "2.0", Ordering::Less),
            ("2.0.1a", "2.0.1", Ordering::Greater),
            ("5.5p1", "5.5p10", Ordering::Less),
            ("10xyz", "10.1xyz", Ordering::Less),
            ("xyz.4", "8", Ordering::Less),
            ("1.0~rc1", "1.0", Ordering::Less),
            ("1.0~rc1", "1.0~rc2", Ordering::Less),
            ("1.0^", "1.0", Ordering::Greater),
            ("1.0^git1", "1.01", Ordering::Less),
            ("1.0~rc1^git1", "1.0~rc1", Ordering::Greater),
            ("20101121", "20101122", Ordering::Less),
            ("2_0", "2.0", Ordering::Equal),
            ("6.1.0-9-amd64", "6.1.0-32-amd64", Ordering::Less),
            ("5.14.0-427.el9.x86_64", "5.14.0-70.el9.x86_64", Ordering::Greater),
            ("", "1", Ordering::Less),
        ] {
            assert_eq!(compare(a, b), want, "{a} {b}");
            assert_eq!(compare(b, a), want.reverse(), "{b} {a}");
        }
    }
}
