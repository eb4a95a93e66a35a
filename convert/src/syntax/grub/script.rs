// SPDX-License-Identifier: Apache-2.0
//! Commands: simple ones, blocks, conditions, loops, functions.

use std::rc::Rc;

use super::words::{Token, Word, tokens};

/// Blocks within blocks that are followed; what is deeper is left out.
const DEEPEST: usize = 32;

/// Commands between braces or keywords.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    /// In order.
    pub commands: Vec<Command>,
}

/// A command and its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simple {
    /// At least one.
    pub words: Vec<Word>,
    /// The block that follows: of menuentry and submenu.
    pub block: Option<Block>,
    /// First and last line, from 1.
    pub lines: (usize, usize),
}

/// What a script consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// One command.
    Simple(Simple),
    /// Conditions with what is done where they hold, and what else.
    If(Vec<(Block, Block)>, Block),
    /// A variable, its values, and what is done for each.
    For(Word, Vec<Word>, Block),
    /// while or until: not carried out, since only a running GRUB knows when they end.
    Loop(Block),
    /// A name and what it does.
    Function(String, Rc<Block>),
}

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Its commands.
    pub block: Block,
    /// Something was deeper or otherwise than the grammar has it, and left out.
    pub incomplete: bool,
}

impl Script {
    /// All simple commands, those in blocks and branches included, in the order of the file.
    pub fn simple(&self) -> Vec<&Simple> {
        let mut found = Vec::new();
        collect(&self.block, &mut found);
        found
    }
}

fn collect<'a>(block: &'a Block, found: &mut Vec<&'a Simple>) {
    for command in &block.commands {
        match command {
            Command::Simple(simple) => {
                found.push(simple);
                if let Some(block) = &simple.block {
                    collect(block, found);
                }
            }
            Command::If(branches, otherwise) => {
                for (condition, then) in branches {
                    collect(condition, found);
                    collect(then, found);
                }
                collect(otherwise, found);
            }
            Command::For(_, _, block) | Command::Loop(block) => collect(block, found),
            Command::Function(_, block) => collect(block, found),
        }
    }
}

/// Takes a script apart.
pub fn parse(text: &str) -> Script {
    let mut parser = Parser { tokens: tokens(text), at: 0, incomplete: false };
    let mut block = Block::default();
    while parser.at < parser.tokens.len() {
        block.commands.append(&mut parser.block(&[], 0).commands);
        // A brace or keyword that nothing opened.
        parser.incomplete |= parser.at < parser.tokens.len();
        parser.at += 1;
    }
    Script { block, incomplete: parser.incomplete }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    incomplete: bool,
}

/// Words that end a block.
const ENDS: [&str; 6] = ["then", "elif", "else", "fi", "do", "done"];

impl Parser {
    fn word_is(&self, keyword: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word.is(keyword))
    }

    fn skip_ends(&mut self) {
        while matches!(self.tokens.get(self.at), Some(Token::End)) {
            self.at += 1;
        }
    }

    /// Passes over `keyword`.
    fn expect(&mut self, keyword: &str) {
        self.skip_ends();
        if self.word_is(keyword) {
            self.at += 1;
        } else {
            self.incomplete = true;
        }
    }

    /// Commands up to a closing brace or one of `ends`, which is not passed over.
    fn block(&mut self, ends: &[&str], depth: usize) -> Block {
        let mut block = Block::default();
        loop {
            self.skip_ends();
            match self.tokens.get(self.at) {
                None | Some(Token::Close(..)) => return block,
                Some(Token::Word(word)) if ends.iter().any(|end| word.is(end)) => return block,
                Some(Token::Word(word)) if ends.is_empty() && ENDS.iter().any(|end| word.is(end)) => {
                    return block;
                }
                // A block of its own is not in the grammar of GRUB 2.06; its commands count.
                Some(Token::End | Token::Open) => {
                    self.at += 1;
                    self.incomplete = true;
                }
                Some(Token::Word(_)) if depth >= DEEPEST => {
                    self.incomplete = true;
                    self.at += 1;
                }
                Some(Token::Word(_)) => {
                    let before = self.at;
                    let command = self.command(depth);
                    block.commands.extend(command);
                    // Whatever happens, the end comes nearer.
                    if self.at == before {
                        self.at += 1;
                        self.incomplete = true;
                    }
                }
            }
        }
    }

    fn command(&mut self, depth: usize) -> Option<Command> {
        if self.word_is("if") {
            return Some(self.condition(depth));
        }
        if self.word_is("while") || self.word_is("until") {
            self.at += 1;
            let mut block = self.block(&["do"], depth + 1);
            self.expect("do");
            block.commands.append(&mut self.block(&["done"], depth + 1).commands);
            self.expect("done");
            return Some(Command::Loop(block));
        }
        if self.word_is("for") {
            self.at += 1;
            let mut words = self.words().into_iter();
            let variable = words.next()?;
            let values = words.skip(1).collect();
            self.expect("do");
            let block = self.block(&["done"], depth + 1);
            self.expect("done");
            return Some(Command::For(variable, values, block));
        }
        if self.word_is("function") {
            self.at += 1;
            let name = self.words().first().and_then(Word::literal)?;
            self.skip_ends();
            let (block, _) = self.braces(depth)?;
            return Some(Command::Function(name, Rc::new(block)));
        }
        let words = self.words();
        let first = words.first()?;
        let mut simple = Simple { lines: (first.line, first.line), words, block: None };
        if let Some(last) = simple.words.last() {
            simple.lines.1 = last.line;
        }
        if let Some((block, line)) = self.braces(depth) {
            simple.block = Some(block);
            simple.lines.1 = line;
        }
        Some(Command::Simple(simple))
    }

    fn words(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            words.push(word.clone());
            self.at += 1;
        }
        words
    }

    /// "{ ... }", and the line of its end.
    fn braces(&mut self, depth: usize) -> Option<(Block, usize)> {
        if !matches!(self.tokens.get(self.at), Some(Token::Open)) {
            return None;
        }
        self.at += 1;
        let block = self.block(&[], depth + 1);
        while !matches!(self.tokens.get(self.at), None | Some(Token::Close(..))) {
            self.at += 1;
            self.incomplete = true;
        }
        let line = match self.tokens.get(self.at) {
            Some(Token::Close(_, line)) => *line,
            _ => usize::MAX,
        };
        self.incomplete |= line == usize::MAX;
        self.at += 1;
        Some((block, line))
    }

    fn condition(&mut self, depth: usize) -> Command {
        let mut branches = Vec::new();
        let mut otherwise = Block::default();
        while self.word_is("if") && branches.is_empty() || self.word_is("elif") {
            self.at += 1;
            let condition = self.block(&["then"], depth + 1);
            self.expect("then");
            let then = self.block(&["elif", "else", "fi"], depth + 1);
            branches.push((condition, then));
        }
        if self.word_is("else") {
            self.at += 1;
            otherwise = self.block(&["fi"], depth + 1);
        }
        self.expect("fi");
        Command::If(branches, otherwise)
    }
}
