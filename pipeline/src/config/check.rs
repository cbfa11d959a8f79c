//! Ranges of values, and the errors of values outside.

use std::ops::RangeInclusive;

use crate::PipelineError;

/// A petabyte: more than this is a slip of the pen.
pub(super) const MOST_BYTES: u64 = 1_000_000_000_000_000;

/// Less than this and not even one unit can be read.
pub(super) const LEAST_MEMORY: u64 = 64 << 20;

/// The error of a value that can't be.
pub(super) fn wrong(
    key: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> PipelineError {
    PipelineError::Config { key: key.into(), expected: expected.into(), found: found.to_string() }
}

pub(super) fn check_range(
    key: &str,
    found: u64,
    range: RangeInclusive<u64>,
    unit: &str,
) -> Result<(), PipelineError> {
    if range.contains(&found) {
        return Ok(());
    }
    let expected = format!("{} to {} {unit}", thousands(*range.start()), thousands(*range.end()));
    Err(wrong(key, thousands(found), expected))
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number without hundreds of digits.
pub(super) fn number(number: f64) -> String {
    let size = number.abs();
    match size.is_finite() && size != 0.0 && !(1e-5..1e15).contains(&size) {
        true => format!("{number:e}"),
        false => number.to_string(),
    }
}
