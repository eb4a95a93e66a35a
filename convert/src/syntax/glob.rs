// SPDX-License-Identifier: Apache-2.0
//! Patterns with "*", "?" and sets in brackets, as shells have them for one name (glob(7)).

/// Whether `pattern` fits the whole of `name`. Linear in their product.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        match name.get(n).and_then(|char| one(pattern.get(p..)?, *char)) {
            Some(len) => (p, n) = (p + len, n + 1),
            None => match star {
                // The star takes one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|char| *char == b'*'))
}

/// Bytes of the pattern's first element, if it takes `char`. A bracket that nothing closes is a character like others.
fn one(pattern: &[u8], char: u8) -> Option<usize> {
    let first = *pattern.first()?;
    if first == b'[' {
        let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
        let start = if negated { 2 } else { 1 };
        // A "]" that is first in the set belongs to it.
        let inside = pattern.get(start + 1..).and_then(|rest| rest.iter().position(|end| *end == b']'));
        if let Some(set) = inside.and_then(|len| pattern.get(start..=start + len)) {
            return (takes(set, char) != negated).then_some(start + set.len() + 1);
        }
    }
    (first == b'?' || first == char).then_some(1)
}

/// Whether `char` is in a set such as "a-cx".
fn takes(mut set: &[u8], char: u8) -> bool {
    loop {
        set = match set {
            [from, b'-', to, rest @ ..] if (*from..=*to).contains(&char) || rest.is_empty() => {
                return (*from..=*to).contains(&char);
            }
            [_, b'-', _, rest @ ..] => rest,
            [first, ..] if *first == char => return true,
            [_, rest @ ..] => rest,
            [] => return false,
        };
    }
}

/// Whether there is anything in it that stands for something else.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, want) in [
            ("arch", "arch", true),
            ("arch-*", "arch-lts.conf", true),
            ("*.conf", "arch.conf", true),
            ("a?ch.conf", "arch.conf", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("arch", "arch.conf", false),
            ("*", "", true),
            ("", "", true),
            ("@saved", "arch", false),
            ("/dev/[sh]d*", "/dev/hda1", true),
            ("/dev/sd[a-c]", "/dev/sdb", true),
            ("/dev/sd[a-c]", "/dev/sdd", false),
            ("/dev/sd[!a-c]", "/dev/sdd", true),
            ("*[1-3x]", "sdax", true),
            ("[]a]", "]", true),
            ("[^]a]", "a", false),
            ("sd[", "sd[", true),
            ("sd[a", "sda", false),
            ("[a-]", "-", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
