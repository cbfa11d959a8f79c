//! What a store says of the clock of this machine.

use std::time::{Duration, SystemTime};

use crate::terminal::duration;

/// How far the clock is off, where the answer of the store tells its own time.
pub(super) fn complaint(answer: &str) -> String {
    let now = || Some(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() as i64);
    let here = element(answer, "RequestTime").and_then(seconds).or_else(now);
    let off = here.zip(element(answer, "ServerTime").and_then(seconds)).map(|(here, there)| here - there);
    match off {
        None | Some(0) => "the clock of this machine is off by too much for the store".to_owned(),
        Some(off) => {
            let which = if off > 0 { "ahead of" } else { "behind" };
            let by = duration(Duration::from_secs(off.unsigned_abs()));
            format!("the clock of this machine is off by {by}: it is {which} the store's")
        }
    }
}

fn element<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = answer.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<')?.0)
}

/// Seconds since 1970 of a time like `20261201T083000Z` or `2026-12-01T08:30:00.000Z`.
fn seconds(time: &str) -> Option<i64> {
    let whole = time.split('.').next()?;
    let digits: String = whole.chars().filter(char::is_ascii_digit).collect();
    let part = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    // Years begin in March here, so that a leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("2024-02-29T12:00:01.000Z"), Some(1_709_208_001));
        assert_eq!(seconds("20261201T083000Z"), Some(1_796_113_800));
        assert_eq!(seconds("soon"), None);
    }

    #[test]
    fn the_difference_is_said_where_it_is_known() {
        let answer = |here: &str, there: &str| {
            complaint(&format!("<RequestTime>{here}</RequestTime><ServerTime>{there}</ServerTime>"))
        };
        assert_eq!(
            answer("20261201T080000Z", "2026-12-01T08:20:05Z"),
            "the clock of this machine is off by 20 min 5 s: it is behind the store's"
        );
        assert_eq!(complaint(""), "the clock of this machine is off by too much for the store");
    }
}
