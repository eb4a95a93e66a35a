// SPDX-License-Identifier: Apache-2.0
//! Patterns with "*" and "?", as shells have them for one name.

/// Whether `pattern` fits the whole of `name`. Linear in their product; sets in brackets are not known.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => (p, n) = (p + 1, n + 1),
            Some(char) if Some(char) == name.get(n) => (p, n) = (p + 1, n + 1),
            _ => match star {
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
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
