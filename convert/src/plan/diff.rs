// SPDX-License-Identifier: Apache-2.0
//! Two texts compared line by line, shown as `diff -u` shows them.

use std::fmt::Write;

/// Lines before and after a change that are shown with it.
const AROUND: usize = 3;
/// Cells of the table of common subsequences: beyond that, the differing middle is shown as replaced whole.
const MOST_CELLS: usize = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    Take,
    Add,
}

/// Hunks of the change from `old` to `new`, without a head; empty where they are equal.
pub(super) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
    let steps = steps(&old, &new);
    let mut out = String::new();
    let mut from = 0;
    // Steps are grouped into hunks: changes that are no more than twice AROUND apart share one.
    while let Some(first) = position(&steps, from, |step| step != Step::Keep) {
        let mut end = first + 1;
        while let Some(next) = position(&steps, end, |step| step != Step::Keep) {
            if next - end > 2 * AROUND {
                break;
            }
            end = next + 1;
        }
        hunk(
            &old,
            &new,
            &steps,
            first.saturating_sub(AROUND).max(from)..(end + AROUND).min(steps.len()),
            &mut out,
        );
        from = end;
    }
    out
}

fn position(steps: &[Step], from: usize, is: impl Fn(Step) -> bool) -> Option<usize> {
    steps.iter().skip(from).position(|step| is(*step)).map(|at| at + from)
}

fn count(steps: &[Step], not: Step) -> usize {
    steps.iter().filter(|step| **step != not).count()
}

fn hunk(old: &[&str], new: &[&str], steps: &[Step], range: std::ops::Range<usize>, out: &mut String) {
    let (before, within) = (&steps[..range.start], &steps[range]);
    let (mut at_old, mut at_new) = (count(before, Step::Add), count(before, Step::Take));
    let (len_old, len_new) = (count(within, Step::Add), count(within, Step::Take));
    let place = |at: usize, len: usize| match len {
        0 => format!("{at},0"),
        1 => format!("{}", at + 1),
        _ => format!("{},{len}", at + 1),
    };
    let _ = writeln!(out, "@@ -{} +{} @@", place(at_old, len_old), place(at_new, len_new));
    for step in within {
        let (mark, line) = match step {
            Step::Keep => (' ', old.get(at_old)),
            Step::Take => ('-', old.get(at_old)),
            Step::Add => ('+', new.get(at_new)),
        };
        at_old += usize::from(*step != Step::Add);
        at_new += usize::from(*step != Step::Take);
        let line = line.copied().unwrap_or_default();
        out.push(mark);
        match line.strip_suffix('\n') {
            Some(line) => push_shown(out, line),
            None => {
                push_shown(out, line);
                out.push_str("\n\\ No newline at end of file");
            }
        }
        out.push('\n');
    }
}

/// What could move the cursor of a terminal is shown as U+FFFD.
fn push_shown(out: &mut String, line: &str) {
    out.extend(line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }));
}

/// The longest common subsequence, by a table over what is between the equal beginning and the equal end.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut steps = vec![Step::Keep; head];
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MOST_CELLS {
        steps.extend(vec![Step::Take; old.len()]);
        steps.extend(vec![Step::Add; new.len()]);
    } else {
        let mut common = vec![0_u32; (old.len() + 1) * width];
        for a in (0..old.len()).rev() {
            for b in (0..new.len()).rev() {
                common[a * width + b] = if old[a] == new[b] {
                    common[(a + 1) * width + b + 1] + 1
                } else {
                    common[(a + 1) * width + b].max(common[a * width + b + 1])
                };
            }
        }
        let (mut a, mut b) = (0, 0);
        while a < old.len() || b < new.len() {
            if a < old.len() && b < new.len() && old[a] == new[b] {
                steps.push(Step::Keep);
                (a, b) = (a + 1, b + 1);
            } else if b == new.len()
                || a < old.len() && common[(a + 1) * width + b] >= common[a * width + b + 1]
            {
                steps.push(Step::Take);
                a += 1;
            } else {
                steps.push(Step::Add);
                b += 1;
            }
        }
    }
    steps.extend(vec![Step::Keep; tail]);
    steps
}
