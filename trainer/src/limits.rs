//! Ranges of the numbers that people write into configs. All are checked before anything is allocated, so a number far
//! beyond the machine is an error with the range, not an abort; what a machine really holds is counted when a run is
//! planned. It knows nothing about any config.

use std::ops::RangeInclusive;

/// Steps, updates, and what is counted in them.
pub(crate) const STEPS: RangeInclusive<u64> = 1..=1_000_000_000_000;

/// A number outside of its range, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    /// The range.
    pub(crate) expected: String,
    /// The number found.
    pub(crate) found: String,
}

/// A range of real numbers, which holds neither NaN nor an infinity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reals {
    least: f64,
    most: f64,
    ends: Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Both,
    WithoutLeast,
    WithoutMost,
}

impl Reals {
    /// Both ends are in it.
    pub(crate) const fn closed(least: f64, most: f64) -> Self {
        Self { least, most, ends: Ends::Both }
    }

    /// `least` is not in it.
    pub(crate) const fn above(least: f64, most: f64) -> Self {
        Self { least, most, ends: Ends::WithoutLeast }
    }

    /// `most` is not in it.
    pub(crate) const fn below(least: f64, most: f64) -> Self {
        Self { least, most, ends: Ends::WithoutMost }
    }

    fn contains(self, value: f64) -> bool {
        match self.ends {
            Ends::Both => (self.least..=self.most).contains(&value),
            Ends::WithoutLeast => value > self.least && value <= self.most,
            Ends::WithoutMost => (self.least..self.most).contains(&value),
        }
    }
}

impl std::fmt::Display for Reals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, most) = (readable(self.least), readable(self.most));
        match self.ends {
            Ends::Both => write!(f, "a number from {least} to {most}"),
            Ends::WithoutLeast => write!(f, "a number above {least}, {most} at most"),
            Ends::WithoutMost => write!(f, "a number from {least} to below {most}"),
        }
    }
}

/// Whether a whole number is in its range.
pub(crate) fn whole(value: u64, range: RangeInclusive<u64>) -> Result<(), Outside> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(Outside {
            expected: format!("{} to {}", grouped(*range.start()), grouped(*range.end())),
            found: grouped(value),
        }),
    }
}

/// Whether a real number is in its range.
pub(crate) fn real(value: f64, range: Reals) -> Result<(), Outside> {
    match range.contains(value) {
        true => Ok(()),
        false => Err(Outside { expected: range.to_string(), found: readable(value) }),
    }
}

/// `1,234,567`; numbers of four digits stay as they are.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// A number in the form that is read most easily: `0.02`, `100,000`, `1e300`, never hundreds of digits.
fn readable(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && (0.0..1e12).contains(&value) {
        return grouped(value as u64);
    }
    match !value.is_finite() || (1e-4..1e12).contains(&size) {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}

/// An amount of memory in the unit that a person thinks in.
pub(crate) fn gigabytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    if gigabytes < 1.0 { format!("{:.0} MB", bytes as f64 / 1e6) } else { format!("{gigabytes:.1} GB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends_as_they_say() {
        let words = |result: Result<(), Outside>| result.map_err(|outside| (outside.found, outside.expected));
        let wrong = |found: &str, expected: &str| Err((found.to_owned(), expected.to_owned()));
        assert_eq!(words(whole(1, 1..=256)), Ok(()));
        assert_eq!(words(whole(256, 1..=256)), Ok(()));
        assert_eq!(words(whole(0, 1..=256)), wrong("0", "1 to 256"));
        assert_eq!(
            words(whole(1 << 63, 1..=1_000_000)),
            wrong("9,223,372,036,854,775,808", "1 to 1,000,000")
        );
        let below = Reals::below(0.0, 1.0);
        assert_eq!(words(real(0.0, below)), Ok(()));
        assert_eq!(words(real(1.0, below)), wrong("1", "a number from 0 to below 1"));
        let above = Reals::above(0.0, 1000.0);
        assert_eq!(words(real(1000.0, above)), Ok(()));
        assert_eq!(words(real(0.0, above)), wrong("0", "a number above 0, 1000 at most"));
        assert_eq!(words(real(1e300, above)), wrong("1e300", "a number above 0, 1000 at most"));
        let closed = Reals::closed(0.0, 1e9);
        for (value, text) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-0.5, "-0.5"), (-1e-9, "-1e-9")] {
            assert_eq!(words(real(value, closed)), wrong(text, "a number from 0 to 1,000,000,000"));
        }
    }
}
