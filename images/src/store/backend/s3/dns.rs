// SPDX-License-Identifier: Apache-2.0
//! Messages of the domain name system: a question, and the addresses of an answer (RFC 1035, section 4; AAAA: RFC 3596).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::parse::Bytes;
use crate::{Error, Result};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    A = 1,
    Aaaa = 28,
}

const HEADER: usize = 12;
const INTERNET: u16 = 1;

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Addresses(Vec<IpAddr>),
    /// There is no such name, or it has no such address.
    Nothing,
    /// It did not fit: ask through TCP.
    Truncated,
}

/// A question for one name; none where the name cannot be one.
pub(super) fn question(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    // Recursion desired; one question.
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    for label in name.split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?;
        message.push(len);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&(kind as u16).to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    Some(message)
}

/// The answer to `question`. One to another question is an error: it may be somebody's guess.
pub(super) fn answer(question: &[u8], message: &[u8], kind: Kind) -> Result<Answer> {
    const DOING: &str = "reading a name server's answer";
    let bytes = Bytes::new(message, "answer of a name server");
    let asked = question.get(HEADER..).unwrap_or_default();
    let flags = bytes.u16_be(2)?;
    let same = bytes.slice(0, 2)? == question.get(..2).unwrap_or_default()
        && bytes.u16_be(4)? == 1
        && bytes.slice(HEADER, asked.len())?.eq_ignore_ascii_case(asked);
    if flags & 0x8000 == 0 || !same {
        return Err(Error::malformed(DOING, "it answers another question"));
    }
    if flags & 0x0200 != 0 {
        return Ok(Answer::Truncated);
    }
    match flags & 15 {
        0 => {}
        // No such name.
        3 => return Ok(Answer::Nothing),
        code => return Err(Error::malformed(DOING, format!("the server could not answer (code {code})"))),
    }
    let mut at = HEADER + asked.len();
    let mut found = Vec::new();
    for _ in 0..bytes.u16_be(6)? {
        at = behind_name(&bytes, at)?;
        let (type_, class, len) = (bytes.u16_be(at)?, bytes.u16_be(at + 2)?, bytes.u16_be(at + 8)?);
        let data = bytes.slice(at + 10, len.into())?;
        // Aliases lie before the addresses of what they stand for; whose they are, the server has followed.
        if type_ == kind as u16 && class == INTERNET {
            match kind {
                Kind::A => found.extend(<[u8; 4]>::try_from(data).map(|raw| IpAddr::V4(Ipv4Addr::from(raw)))),
                Kind::Aaaa => {
                    found.extend(<[u8; 16]>::try_from(data).map(|raw| IpAddr::V6(Ipv6Addr::from(raw))));
                }
            }
        }
        at += 10 + data.len();
    }
    Ok(if found.is_empty() { Answer::Nothing } else { Answer::Addresses(found) })
}

/// The first byte behind a name, which ends with an empty label or a pointer.
fn behind_name(bytes: &Bytes<'_>, mut at: usize) -> Result<usize> {
    loop {
        match bytes.u8(at)? {
            0 => return Ok(at + 1),
            pointer if pointer >= 0xc0 => return Ok(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// An alias and two addresses, with pointers as servers send them.
    fn message(question: &[u8]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 3]);
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4, 1, b'x', 0xc0, 15]);
        message.extend_from_slice(&[1, b'x', 0xc0, 15, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        message.extend_from_slice(&[0xc0, 40, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 8]);
        message
    }

    #[test]
    fn addresses_are_found_behind_aliases() {
        let asked = question(0x1234, "s3.example.org.", Kind::A).unwrap();
        assert_eq!(&asked[HEADER..], b"\x02s3\x07example\x03org\0\0\x01\0\x01");
        let found = answer(&asked, &message(&asked), Kind::A).unwrap();
        assert_eq!(
            found,
            Answer::Addresses(vec!["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()])
        );
        let mut other = message(&asked);
        other[1] ^= 1;
        assert!(answer(&asked, &other, Kind::A).is_err());
        let mut absent = message(&asked);
        absent[3] = 0x83;
        assert_eq!(answer(&asked, &absent, Kind::A).unwrap(), Answer::Nothing);
        for name in ["", "a..b", &"a".repeat(64), &"a.".repeat(150)] {
            assert_eq!(question(1, name, Kind::A), None, "{name}");
        }
    }

    #[test]
    fn whatever_an_answer_holds_reading_it_ends() {
        let asked = question(0x1234, "s3.example.org", Kind::A).unwrap();
        let seed = message(&asked);
        let mut state = 11u64;
        for round in 0..20_000usize {
            let mut bytes = seed.clone();
            for _ in 0..1 + round % 6 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                match state >> 20 & 3 {
                    0 => bytes[at] = (state >> 40) as u8,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, (state >> 40) as u8),
                    _ => bytes[at] ^= 1 << (state >> 50 & 7),
                }
            }
            if let Ok(Answer::Addresses(found)) = answer(&asked, &bytes, Kind::A) {
                assert!(found.len() <= bytes.len() / 4);
            }
        }
    }
}
