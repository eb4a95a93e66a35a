// SPDX-License-Identifier: Apache-2.0
//! Tables for people.

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of text under a heading.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// A row has a cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, without blanks at their ends. Columns that are empty in all rows are left out.
    pub(crate) fn lines(&self) -> Vec<String> {
        let columns: Vec<(usize, &str, Align, usize)> = self
            .columns
            .iter()
            .enumerate()
            .filter_map(|(index, (head, align))| {
                let cells = self.rows.iter().filter_map(|row| row.get(index));
                let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
                (widest > 0).then_some((index, *head, *align, widest.max(head.len())))
            })
            .collect();
        let line = |cell: &dyn Fn(usize, &'static str) -> String| {
            let parts: Vec<String> = self
                .columns
                .iter()
                .enumerate()
                .filter_map(|(index, (head, _))| {
                    let (_, _, align, width) = columns.iter().find(|column| column.0 == index)?;
                    let text = cell(index, head);
                    Some(match align {
                        Align::Left => format!("{text:<width$}"),
                        Align::Right => format!("{text:>width$}"),
                    })
                })
                .collect();
            parts.join("  ").trim_end().to_owned()
        };
        let head = line(&|_, head| head.to_owned());
        let rows = self
            .rows
            .iter()
            .map(|row| line(&|index, _| row.get(index).map(|cell| plain(cell)).unwrap_or_default()));
        std::iter::once(head).chain(rows).collect()
    }
}

/// Text from a disk may hold control characters, which would move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A line of a file: tabs are harmless, and are what a diff is about.
pub(crate) fn plain_line(text: &str) -> String {
    text.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let mut table = Table::new(&[("NAME", Align::Left), ("LABEL", Align::Left), ("SIZE", Align::Right)]);
        table.row(vec!["1".into(), String::new(), "512 B".into()]);
        table.row(vec!["root\u{1b}[2J".into(), String::new(), "1.0 GiB".into()]);
        assert_eq!(table.lines(), ["NAME         SIZE", "1           512 B", "root\u{fffd}[2J  1.0 GiB"]);
    }
}
