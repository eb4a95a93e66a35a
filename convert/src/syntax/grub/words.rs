// SPDX-License-Identifier: Apache-2.0
//! Words: quoting and variables.

use std::ops::Range;

use super::super::MOST_LINES;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it stands, quotes and backslashes taken away.
    Text(String),
    /// A variable that is split at blanks when it is expanded.
    Variable(String),
    /// A variable within double quotes.
    QuotedVariable(String),
}

/// A word of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Its pieces.
    pub parts: Vec<Part>,
    /// It has quotes: it counts even if it is empty.
    pub quoted: bool,
    /// Its bytes in the file, quotes included.
    pub range: Range<usize>,
    /// Number of its line, from 1.
    pub line: usize,
}

impl Word {
    /// Its text, where it has no variables.
    pub fn literal(&self) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Variable(_) | Part::QuotedVariable(_) => return None,
            }
        }
        Some(text)
    }

    /// Whether it is this, without quotes around it: a keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && matches!(self.parts.as_slice(), [Part::Text(text)] if text == keyword)
    }
}

/// What a script consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    /// ";" or the end of a line.
    End,
    Open,
    /// The first byte behind it, and its line.
    Close(usize, usize),
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

/// All tokens; those of more lines than are looked at are left out.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut tokens = Vec::new();
    while lexer.line <= MOST_LINES {
        let Some(char) = lexer.peek() else { break };
        match char {
            '\n' | ';' => {
                lexer.next();
                tokens.push(Token::End);
            }
            ' ' | '\t' | '\r' => {
                lexer.next();
            }
            '\\' if lexer.rest().starts_with("\\\n") => {
                lexer.next();
                lexer.next();
            }
            '#' => {
                while lexer.peek().is_some_and(|char| char != '\n') {
                    lexer.next();
                }
            }
            '{' if lexer.stands_alone() => {
                lexer.next();
                tokens.push(Token::Open);
            }
            '}' => {
                lexer.next();
                tokens.push(Token::Close(lexer.at, lexer.line));
            }
            // Pipes and background jobs are reserved; they separate commands.
            '|' | '&' | '<' | '>' => {
                lexer.next();
                tokens.push(Token::End);
            }
            _ => {
                let word = lexer.word();
                tokens.push(Token::Word(word));
            }
        }
    }
    tokens
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += char.len_utf8();
        self.line += usize::from(char == '\n');
        Some(char)
    }

    fn stands_alone(&self) -> bool {
        self.rest().chars().nth(1).is_none_or(|next| next.is_whitespace() || matches!(next, ';' | '}'))
    }

    fn word(&mut self) -> Word {
        let (start, line) = (self.at, self.line);
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut quoted = false;
        while let Some(char) = self.peek() {
            match char {
                ' ' | '\t' | '\r' | '\n' | ';' | '|' | '&' | '<' | '>' => break,
                '}' if !quoted && parts.is_empty() && text.is_empty() => break,
                '\\' => {
                    self.next();
                    match self.next() {
                        Some('\n') | None => {}
                        Some(char) => text.push(char),
                    }
                }
                '\'' => {
                    quoted = true;
                    self.next();
                    while let Some(char) = self.next().filter(|char| *char != '\'') {
                        text.push(char);
                    }
                }
                '"' => {
                    quoted = true;
                    self.next();
                    self.double_quoted(&mut text, &mut parts);
                }
                '$' => {
                    self.next();
                    // $"..." is text for translation.
                    if matches!(self.peek(), Some('"' | '\'')) {
                        continue;
                    }
                    match self.variable() {
                        Some(name) => push(&mut parts, &mut text, Part::Variable(name)),
                        None => text.push('$'),
                    }
                }
                _ => {
                    text.push(char);
                    self.next();
                }
            }
        }
        if !text.is_empty() || (quoted && parts.is_empty()) {
            parts.push(Part::Text(text));
        }
        Word { parts, quoted, range: start..self.at, line }
    }

    fn double_quoted(&mut self, text: &mut String, parts: &mut Vec<Part>) {
        while let Some(char) = self.next() {
            match char {
                '"' => break,
                '\\' => match self.next() {
                    Some('\n') | None => {}
                    Some(char) => {
                        if !matches!(char, '"' | '\\' | '$') {
                            text.push('\\');
                        }
                        text.push(char);
                    }
                },
                '$' => match self.variable() {
                    Some(name) => push(parts, text, Part::QuotedVariable(name)),
                    None => text.push('$'),
                },
                _ => text.push(char),
            }
        }
    }

    /// The name behind "$".
    fn variable(&mut self) -> Option<String> {
        let rest = self.rest();
        if let Some(inner) = rest.strip_prefix('{') {
            let end = inner
                .find(['}', '\n'])
                .filter(|end| inner.get(*end..).is_some_and(|rest| rest.starts_with('}')))?;
            let name = inner.get(..end)?.to_owned();
            self.at += end + 2;
            return Some(name);
        }
        let first = rest.chars().next()?;
        let len = if matches!(first, '?' | '*' | '@' | '#') {
            1
        } else if first.is_ascii_digit() {
            rest.bytes().take_while(u8::is_ascii_digit).count()
        } else {
            rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
        };
        let name = rest.get(..len).filter(|name| !name.is_empty())?.to_owned();
        self.at += len;
        Some(name)
    }
}

fn push(parts: &mut Vec<Part>, text: &mut String, part: Part) {
    if !text.is_empty() {
        parts.push(Part::Text(std::mem::take(text)));
    }
    parts.push(part);
}
