// SPDX-License-Identifier: Apache-2.0
//! Which images stay: the latest, and the latest of so many days, weeks, months and years, for each machine by itself.
//!
//! All in UTC, by the image's time, which is when its capture began. A day without an image does not count: `keep_daily` 7 keeps
//! the latest image of each of the seven most recent days that have one. An image is kept if any rule keeps it.

use std::collections::BTreeMap;

use super::ImageRef;

/// How many to keep of what, for each machine. All zero: everything stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The latest images.
    pub last: u32,
    /// The latest image of a day.
    pub daily: u32,
    /// Of a week, which begins on Monday (ISO 8601).
    pub weekly: u32,
    /// Of a month.
    pub monthly: u32,
    /// Of a year.
    pub yearly: u32,
}

/// What becomes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which image.
    pub image: ImageRef,
    /// Why it stays; it goes where there is no reason.
    pub reasons: Vec<String>,
}

/// Year, month, day of an image's time, and days since 1970 of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Day {
    year: i64,
    month: i64,
    day: i64,
    number: i64,
}

impl Policy {
    /// True if it asks for nothing to go.
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }

    /// Decides over images of any machines; the answers are in the order of machines, the latest image first.
    pub fn decide(&self, images: &[ImageRef]) -> Vec<Decision> {
        let mut machines: BTreeMap<&str, Vec<&ImageRef>> = BTreeMap::new();
        for image in images {
            machines.entry(&image.folder).or_default().push(image);
        }
        let mut decisions = Vec::with_capacity(images.len());
        for (_, mut images) in machines {
            images.sort_by_key(|image| std::cmp::Reverse(order(&image.time)));
            decisions.extend(self.of_machine(&images));
        }
        decisions
    }

    fn of_machine(&self, images: &[&ImageRef]) -> Vec<Decision> {
        let mut rules = [
            ("day", self.daily, None),
            ("week", self.weekly, None),
            ("month", self.monthly, None),
            ("year", self.yearly, None),
        ];
        let mut last = self.last;
        let decide = |image: &&ImageRef| {
            let mut reasons = Vec::new();
            if self.keeps_all() {
                reasons.push("no rule was given".to_owned());
            }
            if last > 0 {
                last -= 1;
                reasons.push("one of the latest".to_owned());
            }
            match day(&image.time) {
                None => reasons.push("its time is not understood".to_owned()),
                Some(day) => {
                    for (what, left, before) in &mut rules {
                        let (period, named) = day.period(what);
                        if *left == 0 || *before == Some(period) {
                            continue;
                        }
                        *left -= 1;
                        *before = Some(period);
                        reasons.push(format!("the latest of {what} {named}"));
                    }
                }
            }
            Decision { image: (*image).clone(), reasons }
        };
        images.iter().map(decide).collect()
    }
}

impl Day {
    /// A number that is the same for all days of a period, and what to call the period.
    fn period(&self, what: &str) -> (i64, String) {
        let Self { year, month, day, number } = *self;
        match what {
            "day" => (number, format!("{year:04}-{month:02}-{day:02}")),
            "week" => {
                // 1970-01-01 was a Thursday. A week is of the year that its Thursday is in.
                let week = (number + 3).div_euclid(7);
                let thursday = Self::of(week * 7);
                let first = Self::number(thursday.year, 1, 1);
                (week, format!("{:04}-W{:02}", thursday.year, (thursday.number - first) / 7 + 1))
            }
            "month" => (year * 12 + month, format!("{year:04}-{month:02}")),
            _ => (year, format!("{year:04}")),
        }
    }

    /// Days since 1970-01-01 (days from civil, Howard Hinnant's algorithm).
    fn number(year: i64, month: i64, day: i64) -> i64 {
        let shifted = if month <= 2 { year - 1 } else { year };
        let era = shifted.div_euclid(400);
        let year_of_era = shifted.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    /// The day of a number (civil from days, the same author's).
    fn of(number: i64) -> Self {
        let shifted = number + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day: day_of_year - (153 * from_march + 2) / 5 + 1, number }
    }
}

/// The day of `20261124T215000Z`; none if it is not a date.
fn day(time: &str) -> Option<Day> {
    let digits = time.get(..8).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let part = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let found = Day::of(Day::number(year, month, day));
    ((found.month, found.day) == (month, day)).then_some(found)
}

/// Orders times as they are meant: the tenth image of a second is behind the second one.
pub(super) fn order(time: &str) -> (&str, u32) {
    let (base, count) = time.split_once('-').unwrap_or((time, "1"));
    (base, count.parse().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &str, time: &str) -> ImageRef {
        ImageRef { folder: folder.into(), time: time.into() }
    }

    fn kept(policy: Policy, times: &[&str]) -> Vec<String> {
        let images: Vec<ImageRef> = times.iter().map(|time| image("m", time)).collect();
        let decisions = policy.decide(&images);
        assert_eq!(decisions.len(), times.len());
        let mut kept: Vec<String> = decisions
            .into_iter()
            .filter(|decision| !decision.reasons.is_empty())
            .map(|decision| decision.image.time)
            .collect();
        kept.sort();
        kept
    }

    #[test]
    fn the_latest_of_each_period_stays() {
        let times = [
            "20251230T000000Z",
            "20260102T000000Z",
            "20260131T235959Z",
            "20260201T000000Z",
            "20261122T100000Z",
            "20261123T100000Z",
            "20261123T220000Z",
            "20261124T010000Z",
            "20261124T010000Z-2",
            "20261124T010000Z-10",
        ];
        let none = Policy::default();
        assert_eq!(kept(none, &times).len(), times.len());
        assert_eq!(kept(Policy { last: 2, ..none }, &times), ["20261124T010000Z-10", "20261124T010000Z-2"]);
        assert_eq!(
            kept(Policy { daily: 3, ..none }, &times),
            ["20261122T100000Z", "20261123T220000Z", "20261124T010000Z-10"]
        );
        // 2026-11-22 is a Sunday, 2026-11-23 a Monday.
        assert_eq!(kept(Policy { weekly: 2, ..none }, &times), ["20261122T100000Z", "20261124T010000Z-10"]);
        assert_eq!(
            kept(Policy { monthly: 3, ..none }, &times),
            ["20260131T235959Z", "20260201T000000Z", "20261124T010000Z-10"]
        );
        assert_eq!(kept(Policy { yearly: 9, ..none }, &times), ["20251230T000000Z", "20261124T010000Z-10"]);
        assert_eq!(
            kept(Policy { last: 1, yearly: 2, ..none }, &times),
            ["20251230T000000Z", "20261124T010000Z-10"]
        );
    }

    #[test]
    fn machines_are_decided_by_themselves_and_odd_times_stay() {
        let images =
            [image("a", "20261124T010000Z"), image("b", "20200101T000000Z"), image("b", "99999999T0Z")];
        let decisions = Policy { last: 1, ..Policy::default() }.decide(&images);
        assert!(
            decisions.iter().all(|decision| decision.image.folder == "a" || !decision.image.time.is_empty())
        );
        let gone: Vec<&str> = decisions
            .iter()
            .filter(|decision| decision.reasons.is_empty())
            .map(|decision| decision.image.time.as_str())
            .collect();
        assert_eq!(gone, ["20200101T000000Z"]);
        assert!(
            decisions
                .iter()
                .any(|decision| decision.reasons.iter().any(|why| why.contains("not understood")))
        );
    }

    /// The oracle: `date -u -d DAY +%G-W%V`.
    #[test]
    fn weeks_are_those_of_iso_8601() {
        for (time, week) in [
            ("20201231T", "2020-W53"),
            ("20210103T", "2020-W53"),
            ("20210104T", "2021-W01"),
            ("20241230T", "2025-W01"),
            ("20261124T", "2026-W48"),
            ("20270103T", "2026-W53"),
            ("20000229T", "2000-W09"),
        ] {
            assert_eq!(day(time).unwrap().period("week").1, week, "{time}");
        }
        assert!(day("20260230T").is_none() && day("2026").is_none());
    }
}
