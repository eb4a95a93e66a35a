// SPDX-License-Identifier: Apache-2.0
//! Sizes, rates, times, and words for jobs: as the command line prints them.

use jiff::Timestamp;

use super::html::Html;
use crate::api::{Job, JobState, Presence, Progress, Selector, Task};

/// Binary units with one decimal: `6.6 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        value /= 1024.0;
        unit = next;
        // What would round to 1024.0 is one of the next unit.
        if value < 1023.95 {
            break;
        }
    }
    format!("{value:.1} {unit}")
}

/// `0:07`, `1:02:03`, `3 d 4 h`
pub(super) fn duration(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match hours {
        0 => format!("{minutes}:{:02}", seconds % 60),
        1..100 => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// A moment: UTC to read, and for the script to show in the reader's zone. A text that is none stands as it is.
pub(super) fn time(moment: &str) -> Html {
    match moment.parse::<Timestamp>() {
        Ok(time) => {
            let shown = time.strftime("%Y-%m-%d %H:%M UTC").to_string();
            Html::of("<time datetime='$'>$</time>", &[&time, &shown])
        }
        Err(_) => Html::of("$", &[&moment]),
    }
}

/// The same where there may be none.
pub(super) fn time_or_none(moment: Option<&String>) -> Html {
    moment.map_or_else(|| Html::of("<span class='none'>not yet</span>", &[]), |moment| time(moment))
}

/// Seconds between two moments.
pub(super) fn between(from: Option<&String>, to: Option<&String>) -> Option<u64> {
    let from: Timestamp = from?.parse().ok()?;
    let to: Timestamp = to?.parse().ok()?;
    u64::try_from(to.as_second().checked_sub(from.as_second())?).ok()
}

/// Per mille done, where the whole is known.
pub(super) fn mille(progress: &Progress) -> Option<u64> {
    let mille = u128::from(progress.done).checked_mul(1000)?.checked_div(u128::from(progress.total))?;
    u64::try_from(mille.min(1000)).ok()
}

/// `restore 42 %, 2.8 GiB of 6.6 GiB, 812.0 MiB/s, 0:07 left`
pub(super) fn progress(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if let Some(mille) = mille(progress) {
        parts.push(format!("{} %", mille / 10));
        parts.push(format!("{} of {}", size(progress.done), size(progress.total)));
    } else if progress.done > 0 {
        parts.push(size(progress.done));
    }
    if progress.rate > 0 {
        parts.push(format!("{}/s", size(progress.rate)));
        if progress.total > progress.done {
            let left = progress.total.saturating_sub(progress.done).div_ceil(progress.rate);
            parts.push(format!("{} left", duration(left)));
        }
    }
    format!("{} {}", progress.phase, parts.join(", "))
}

/// What a job is: `restore web01@20261124T215000Z`.
pub(super) fn task(task: &Task) -> String {
    let rules = |disks: &[crate::api::DiskRule]| {
        disks.iter().map(|rule| rule.0.as_str()).collect::<Vec<_>>().join(", ")
    };
    match task {
        Task::Inspect | Task::Idle => task.name().to_owned(),
        Task::Capture { name, .. } => format!("capture {name}"),
        Task::Restore { image, .. } => format!("restore {image}"),
        Task::Wipe { disks } => format!("wipe {}", rules(disks)),
        Task::Reboot { into } => format!("reboot into {into}"),
    }
}

/// Where a job is, in a word and for the style sheet.
pub(super) fn state(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Lost => "lost",
        JobState::Done => "done",
        JobState::Refused => "refused",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// True for a job that will not change by itself any more.
pub(super) fn ended(state: JobState) -> bool {
    !matches!(state, JobState::Waiting | JobState::Running | JobState::Lost)
}

/// A state as a badge.
pub(super) fn badge(job: &Job) -> Html {
    let word = state(job.state);
    Html::of(
        "<span class='badge $' data-say='job $, $: $'>$</span>",
        &[&word, &job.id, &task(&job.task), &word, &word],
    )
}

/// A machine's presence as a badge.
pub(super) fn presence(presence: Presence) -> Html {
    let word = match presence {
        Presence::Booting => "booting",
        Presence::Here => "here",
        Presence::Gone => "gone",
    };
    Html::of("<span class='badge $'>$</span>", &[&word, &word])
}

/// How far a job is: a bar and words, or what it waits for or ended with.
pub(super) fn how_far(job: &Job) -> Html {
    let mut html = Html::default();
    if let Some(now) = job.progress.as_ref().filter(|_| !ended(job.state)) {
        let label = format!("job {}, {}", job.id, now.phase);
        match mille(now) {
            Some(mille) => {
                html.fill("<progress max='1000' value='$' aria-label='$'></progress>", &[&mille, &label]);
            }
            None => html.fill("<progress aria-label='$'></progress>", &[&label]),
        }
        html.fill("<span class='far num'>$</span>", &[&progress(now)]);
    }
    if let Some(message) = &job.message {
        html.fill("<span class='why'>$</span>", &[message]);
    }
    html
}

/// `52:54:00:12:34:56`, `name web01`, ...
pub(super) fn selector(selector: &Selector) -> String {
    let named = |word: &str, value: &Option<String>| value.as_ref().map(|value| format!("{word} {value}"));
    let parts: Vec<String> = [
        selector.id.map(|id| format!("machine {id}")),
        named("name", &selector.name),
        named("MAC", &selector.mac),
        named("UUID", &selector.uuid),
        named("serial", &selector.serial),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "any machine".to_owned() } else { parts.join(", ") }
}

/// `1 machine`, `2 machines`
pub(super) fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_on_a_terminal() {
        let now = Progress { phase: "restore".into(), done: 1 << 30, total: 4 << 30, rate: 256 << 20 };
        assert_eq!(progress(&now), "restore 25 %, 1.0 GiB of 4.0 GiB, 256.0 MiB/s, 0:12 left");
        let unknown = Progress { phase: "wipe".into(), done: 0, total: 0, rate: 0 };
        assert_eq!(progress(&unknown).trim(), "wipe");
        assert_eq!(mille(&Progress { done: u64::MAX, total: 1, ..unknown }), Some(1000));
        assert_eq!(
            (duration(7), duration(3723), duration(400_000)),
            ("0:07".into(), "1:02:03".into(), "4 d 15 h".into())
        );
        assert_eq!(size(1_048_575), "1.0 MiB");
    }
}
