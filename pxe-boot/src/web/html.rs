// SPDX-License-Identifier: Apache-2.0
//! HTML, written so that no text of a machine's can become markup: markup is what stands in this program, all else is escaped.

use std::fmt::{self, Display, Write};

/// HTML under construction.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// From a template, as [`Html::fill`].
    pub(super) fn of(template: &'static str, values: &[&dyn Display]) -> Self {
        let mut html = Self::default();
        html.fill(template, values);
        html
    }

    /// Markup.
    pub(super) fn raw(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Text, escaped: it may stand between tags and in quoted attributes.
    pub(super) fn text(&mut self, text: &dyn Display) {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// Markup in which each `$` is the next of `values`, escaped.
    pub(super) fn fill(&mut self, template: &'static str, values: &[&dyn Display]) {
        let mut values = values.iter();
        for (index, markup) in template.split('$').enumerate() {
            if index > 0
                && let Some(value) = values.next()
            {
                self.text(*value);
            }
            self.0.push_str(markup);
        }
        debug_assert!(values.next().is_none(), "more values than places: {template}");
    }

    /// True while nothing was written.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written elsewhere.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// The text.
    pub(super) fn into_string(self) -> String {
        self.0
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() || reorders(c) => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Marks that change the direction of what follows (UAX #9): with them a name could make its row say something else.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::Html;

    #[test]
    fn what_is_given_never_becomes_markup() {
        let mut html = Html::default();
        html.fill("<a title='$'>$</a>", &[&"' onclick='x", &"<script>&\u{202e}\u{0}\u{1b}</script>"]);
        html.text(&"\"$\"");
        assert_eq!(
            html.into_string(),
            "<a title='&#39; onclick=&#39;x'>&lt;script&gt;&amp;\u{fffd}\u{fffd}\u{fffd}&lt;/script&gt;</a>&quot;$&quot;"
        );
    }
}
