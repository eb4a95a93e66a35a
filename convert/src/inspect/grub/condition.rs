// SPDX-License-Identifier: Apache-2.0
//! GRUB's "test" and "[" (grub-core/commands/test.c).

use super::machine::Machine;

/// Arguments of one test that are looked at.
const MOST: usize = 256;

impl Machine<'_, '_> {
    /// Whether the expression holds. "-o" binds weaker than "-a", "!" strongest.
    pub(super) fn holds(&self, arguments: &[String]) -> bool {
        let arguments = arguments.get(..arguments.len().min(MOST)).unwrap_or_default();
        let mut all = arguments.split(|argument| argument == "-o");
        all.any(|some| some.split(|argument| argument == "-a").all(|one| self.one(one)))
    }

    fn one(&self, arguments: &[String]) -> bool {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["!", rest @ ..] => {
                // As many as there are: two cancel each other.
                let more = rest.iter().take_while(|word| **word == "!").count();
                let rest = arguments.get(1 + more..).unwrap_or_default();
                self.plain(rest) == (more % 2 == 1)
            }
            _ => self.plain(arguments),
        }
    }

    fn plain(&self, arguments: &[String]) -> bool {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] => false,
            ["(", inner @ .., ")"] => {
                let inner: Vec<String> = inner.iter().map(|word| (*word).to_owned()).collect();
                self.plain(&inner)
            }
            [one] => !one.is_empty(),
            ["-n", text] => !text.is_empty(),
            ["-z", text] => text.is_empty(),
            ["-f" | "-e", path] => self.exists(path),
            ["-d", path] => self.is_directory(path),
            ["-s", path] => self.is_filled(path),
            [a, operator, b] => compare(a, operator, b),
            _ => false,
        }
    }
}

fn compare(a: &str, operator: &str, b: &str) -> bool {
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let numbers = number(a).zip(number(b));
    match operator {
        "=" | "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        ">" => a > b,
        "<=" => a <= b,
        ">=" => a >= b,
        "-eq" => numbers.is_some_and(|(a, b)| a == b),
        "-ne" => numbers.is_some_and(|(a, b)| a != b),
        "-lt" => numbers.is_some_and(|(a, b)| a < b),
        "-le" => numbers.is_some_and(|(a, b)| a <= b),
        "-gt" => numbers.is_some_and(|(a, b)| a > b),
        "-ge" => numbers.is_some_and(|(a, b)| a >= b),
        _ => false,
    }
}
