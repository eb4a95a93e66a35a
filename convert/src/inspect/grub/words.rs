// SPDX-License-Identifier: Apache-2.0
//! Expanding words (grub-core/script/execute.c, grub_script_arglist_to_argv).

use super::machine::Machine;
use crate::syntax::grub::{Part, Word};

/// Arguments of one command, and bytes of one of them: scripts may double a variable as often as they like.
const MOST_WORDS: usize = 4096;
const MOST_TEXT: usize = 8 << 10;

impl Machine<'_, '_> {
    /// The arguments that a command gets.
    pub(super) fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut arguments = Vec::new();
        for word in words {
            self.expand_word(word, &mut arguments);
            let last = arguments.last().map_or(0, |last: &String| last.len());
            if arguments.len() >= MOST_WORDS || !self.may_expand(last + 1) {
                arguments.truncate(MOST_WORDS);
                break;
            }
        }
        arguments
    }

    fn expand_word(&self, word: &Word, arguments: &mut Vec<String>) {
        let mut text = String::new();
        let mut there = word.quoted;
        for part in &word.parts {
            if text.len() >= MOST_TEXT {
                break;
            }
            match part {
                Part::Text(part) => {
                    text.push_str(part);
                    there = true;
                }
                Part::QuotedVariable(name) => text.push_str(self.variable(name)),
                Part::Variable(name) => {
                    let value = self.variable(name);
                    let mut pieces = value.split([' ', '\t', '\n']).peekable();
                    // Blanks within the value end the argument.
                    while let Some(piece) = pieces.next() {
                        text.push_str(piece);
                        there |= !piece.is_empty();
                        if pieces.peek().is_some() && arguments.len() < MOST_WORDS {
                            if there {
                                arguments.push(std::mem::take(&mut text));
                            }
                            there = false;
                        }
                    }
                }
            }
        }
        if there {
            text.truncate(text.floor_char_boundary(MOST_TEXT));
            arguments.push(text);
        }
    }
}
