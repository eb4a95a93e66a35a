// SPDX-License-Identifier: Apache-2.0
//! Old identities and new ones, in all spellings in which files have them.
//!
//! | spelling | where |
//! |---|---|
//! | `0fc63daf-8483-...` | nearly everywhere, in either case |
//! | `0fc63daf\x2d8483\x2d...` | names of systemd's units |
//! | `0fc63daf8483...` | GRUB's `cryptomount -u` and `mduuid/`, device mapper's UUIDs |
//! | `0fc63daf:84834772:...` | mdadm |
//! | `Wz5Mmo-XXXX-...`, and without dashes | LVM |
//! | `1A2B-3C4D`, `1234abcd-01`, `1234abcd` | FAT's serial numbers, PARTUUIDs of an MBR: only in lines about UUIDs |
//!
//! Each is as long as the one that takes its place, so nothing moves: not in a GRUB environment block, nor in an EFI program.

use std::collections::BTreeMap;

/// Identities that change.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pairs: BTreeMap<String, String>,
    patterns: Vec<Pattern>,
    /// Patterns by their first two bytes in lower case.
    by_start: BTreeMap<[u8; 2], Vec<usize>>,
    starts: Vec<bool>,
}

/// One spelling.
#[derive(Debug, Clone)]
struct Pattern {
    /// In lower case, unless case counts.
    old: Vec<u8>,
    new: Vec<u8>,
    /// LVM's characters are letters of either case, which differ.
    case_counts: bool,
    /// Too short to be told from other text: it has to stand alone, in a line about UUIDs.
    short: bool,
    /// As it is known.
    name: String,
}

impl Names {
    /// Of pairs of old and new identities, as blkid and the tools spell them.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut names = Self { starts: vec![false; 1 << 16], ..Self::default() };
        for (old, new) in pairs {
            if old.len() == new.len() && names.pairs.insert(old.to_owned(), new.to_owned()).is_none() {
                names.spell(old, new);
            }
        }
        names
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Old identities and new ones.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(old, new)| (old.as_str(), new.as_str()))
    }

    /// The new identity for an old one.
    pub fn get(&self, old: &str) -> Option<&str> {
        self.pairs.get(old).map(String::as_str)
    }

    fn spell(&mut self, old: &str, new: &str) {
        let case_counts = old.len() == 38;
        let short = old.len() < 32;
        let mut add = |from: String, to: String| {
            let from = if case_counts { from } else { from.to_ascii_lowercase() };
            let Some([a, b]) = from.as_bytes().first_chunk::<2>().copied() else { return };
            let start = [a.to_ascii_lowercase(), b.to_ascii_lowercase()];
            if let Some(place) = self.starts.get_mut(usize::from(u16::from_be_bytes(start))) {
                *place = true;
            }
            self.by_start.entry(start).or_default().push(self.patterns.len());
            let name = old.to_owned();
            self.patterns.push(Pattern {
                old: from.into_bytes(),
                new: to.into_bytes(),
                case_counts,
                short,
                name,
            });
        };
        add(old.to_owned(), new.to_owned());
        if old.contains('-') {
            add(old.replace('-', r"\x2d"), new.replace('-', r"\x2d"));
        }
        let plain = |text: &str| text.chars().filter(|c| !matches!(c, '-' | ':')).collect::<String>();
        if !short && old.contains(['-', ':']) {
            add(plain(old), plain(new));
        }
        if old.contains(':') {
            // mdadm's groups of eight, blkid's like any UUID.
            let blkid = |text: &str| crate::devices::blkid_uuid(text);
            add(blkid(old), blkid(new));
            add(blkid(old).replace('-', r"\x2d"), blkid(new).replace('-', r"\x2d"));
        }
    }

    /// Calls `each` with the place of every identity in `text`.
    fn find<'a>(&'a self, text: &[u8], mut each: impl FnMut(usize, &'a Pattern)) {
        let mut at = 0;
        while let Some([a, b]) = text.get(at..).and_then(|rest| rest.first_chunk::<2>()) {
            let start = [a.to_ascii_lowercase(), b.to_ascii_lowercase()];
            let known = self.starts.get(usize::from(u16::from_be_bytes(start))).copied().unwrap_or(false);
            let found = if known { self.at(text, at, start) } else { None };
            match found {
                Some(pattern) => {
                    each(at, pattern);
                    at += pattern.old.len();
                }
                None => at += 1,
            }
        }
    }

    fn at(&self, text: &[u8], at: usize, start: [u8; 2]) -> Option<&Pattern> {
        // The longest: a signature is the start of its partitions' identities.
        let fitting = self.by_start.get(&start)?.iter().filter_map(|index| self.patterns.get(*index)).filter(
            |pattern| {
                let Some(here) = at.checked_add(pattern.old.len()).and_then(|end| text.get(at..end)) else {
                    return false;
                };
                let same = if pattern.case_counts {
                    here == pattern.old
                } else {
                    here.eq_ignore_ascii_case(&pattern.old)
                };
                same && (!pattern.short || stands_alone(text, at, pattern.old.len()))
            },
        );
        fitting.max_by_key(|pattern| pattern.old.len())
    }

    /// `text` with every old identity replaced; `None` where there is none.
    pub fn replaced(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut new: Option<Vec<u8>> = None;
        self.find(text, |at, pattern| {
            let new = new.get_or_insert_with(|| text.to_vec());
            if let Some(place) = new.get_mut(at..at + pattern.new.len()) {
                place.copy_from_slice(&pattern.new);
            }
        });
        new
    }

    /// As [`replaced`](Self::replaced), for text.
    pub fn renamed(&self, text: &str) -> Option<String> {
        self.replaced(text.as_bytes()).and_then(|new| String::from_utf8(new).ok())
    }

    /// The old identities that `text` has, each once.
    pub fn mentioned(&self, text: &[u8]) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        self.find(text, |_, pattern| {
            if !found.contains(&pattern.name.as_str()) {
                found.push(&pattern.name);
            }
        });
        found
    }
}

/// Whether the `len` bytes at `at` are a word of their own in a line that is about UUIDs.
fn stands_alone(text: &[u8], at: usize, len: usize) -> bool {
    let (before, rest) = text.split_at(at.min(text.len()));
    let (_, after) = rest.split_at(len.min(rest.len()));
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let begins = !before.last().is_some_and(is_word)
        || [br"\x2f".as_slice(), br"\x2d"].iter().any(|escaped| before.ends_with(escaped));
    let ends = !after.first().is_some_and(|byte| is_word(byte) || matches!(byte, b'-' | b'\\'));
    let is_break = |byte: &u8| matches!(byte, b'\n' | 0);
    let line = before.rsplit(is_break).next().unwrap_or_default();
    let tail = after.split(is_break).next().unwrap_or_default();
    let speaks = |part: &[u8]| part.windows(4).any(|window| window.eq_ignore_ascii_case(b"uuid"));
    begins && ends && (speaks(line) || speaks(tail))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const OLD: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    const NEW: &str = "11111111-2222-4333-8444-555555555555";

    fn replace(pairs: &[(&str, &str)], text: &str) -> String {
        let names = Names::new(pairs.iter().copied());
        names.renamed(text).unwrap_or_else(|| text.to_owned())
    }

    #[test]
    fn a_uuid_is_found_in_every_spelling() {
        let text = format!(
            "UUID={OLD} root=UUID={} luks-{OLD} dev-disk-by\\x2duuid-{}.swap \\x2fdev\\x2fdisk\\x2fby-uuid\\x2f{OLD}.sh cryptomount -u {}",
            OLD.to_uppercase(),
            OLD.replace('-', "\\x2d"),
            OLD.replace('-', "")
        );
        let expected = format!(
            "UUID={NEW} root=UUID={NEW} luks-{NEW} dev-disk-by\\x2duuid-{}.swap \\x2fdev\\x2fdisk\\x2fby-uuid\\x2f{NEW}.sh cryptomount -u {}",
            NEW.replace('-', "\\x2d"),
            NEW.replace('-', "")
        );
        assert_eq!(replace(&[(OLD, NEW)], &text), expected);
        assert_eq!(Names::new([(OLD, NEW)]).replaced(b"UUID=0fc63daf-8483-4772-8e79-3d69d8477de5"), None);
    }

    #[test]
    fn short_identities_are_replaced_where_a_line_is_about_uuids_and_they_stand_alone() {
        let pairs = [("1A2B-3C4D", "5555-6666"), ("1234abcd", "99999999"), ("1234abcd-01", "99999999-01")];
        let text = "UUID=1a2b-3c4d /boot/efi\nsearch --fs-uuid --set=root --hint=hd0,gpt1 1A2B-3C4D\ncall 1A2B-3C4D\n\
                    PARTUUID=1234abcd-01 PARTUUID=1234abcd-011 UUID=x1A2B-3C4D UUID=1A2B-3C4D-5\n";
        let expected = "UUID=5555-6666 /boot/efi\nsearch --fs-uuid --set=root --hint=hd0,gpt1 5555-6666\ncall 1A2B-3C4D\n\
                    PARTUUID=99999999-01 PARTUUID=1234abcd-011 UUID=x1A2B-3C4D UUID=1A2B-3C4D-5\n";
        assert_eq!(replace(&pairs, text), expected);
    }

    #[test]
    fn lvm_and_md_have_spellings_of_their_own() {
        let (lvm, new) = ("Wz5Mmo-8Y0X-1yRk-Rabc-dEfG-1234-56789a", "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg");
        assert_eq!(
            replace(&[(lvm, new)], &format!("(lvmid/{lvm}/x) {}", lvm.to_lowercase())),
            format!("(lvmid/{new}/x) {}", lvm.to_lowercase())
        );
        assert_eq!(
            replace(&[(lvm, new)], "LVM-Wz5Mmo8Y0X1yRkRabcdEfG123456789a"),
            "LVM-aaaaaabbbbccccddddeeeeffffgggggg"
        );
        let (md, new) = ("01234567:89abcdef:01234567:89abcdef", "11111111:22222222:33333333:44444444");
        let text = "UUID=01234567:89abcdef:01234567:89abcdef rd.md.uuid=01234567-89ab-cdef-0123-456789abcdef (mduuid/0123456789abcdef0123456789abcdef)";
        let expected = "UUID=11111111:22222222:33333333:44444444 rd.md.uuid=11111111-2222-2222-3333-333344444444 (mduuid/11111111222222223333333344444444)";
        assert_eq!(replace(&[(md, new)], text), expected);
    }

    #[test]
    fn what_is_mentioned_is_told_by_its_own_name() {
        let names = Names::new([(OLD, NEW)]);
        assert_eq!(names.mentioned(OLD.replace('-', "").as_bytes()), [OLD]);
        assert!(names.mentioned(b"nothing").is_empty() && !names.is_empty());
        assert_eq!(names.get(OLD), Some(NEW));
    }
}
