//! Braces in addresses, as shells and WebDataset write them: `{a,b}` and `{000..127}`.

/// The most addresses that one may stand for.
const MOST: usize = 1 << 20;

/// More addresses than a source may have.
#[derive(Debug, thiserror::Error)]
#[error("the braces stand for more than {MOST} addresses")]
pub(crate) struct TooMany;

/// All that `pattern` stands for, in the order in which it is written. A brace that has no partner, or neither a comma
/// nor a range in it, is a character like any other. Numbers are as wide as the wider end of their range with a zero in front.
pub(crate) fn expand(pattern: &str) -> Result<Vec<String>, TooMany> {
    let Some(BraceGroup { before, choices, behind }) = first_group(pattern) else {
        return Ok(vec![pattern.to_owned()]);
    };
    let mut heads = Vec::new();
    for choice in choices? {
        heads.extend(expand(&choice)?);
        check(heads.len())?;
    }
    let tails = expand(behind)?;
    check(heads.len().saturating_mul(tails.len()))?;
    let all = heads.iter().flat_map(|head| tails.iter().map(move |tail| format!("{before}{head}{tail}")));
    Ok(all.collect())
}

fn check(count: usize) -> Result<(), TooMany> {
    if count > MOST { Err(TooMany) } else { Ok(()) }
}

struct BraceGroup<'a> {
    before: &'a str,
    choices: Result<Vec<String>, TooMany>,
    behind: &'a str,
}

/// The first pair of braces that means something.
fn first_group(pattern: &str) -> Option<BraceGroup<'_>> {
    let mut from = 0;
    while let Some(open) = pattern[from..].find('{').map(|at| at + from) {
        if let Some(close) = partner(&pattern[open..]).map(|at| at + open)
            && let Some(choices) = choices(&pattern[open + 1..close])
        {
            return Some(BraceGroup { before: &pattern[..open], choices, behind: &pattern[close + 1..] });
        }
        from = open + 1;
    }
    None
}

/// Where the brace that `text` begins with is closed.
fn partner(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What stands between braces, cut at its own commas; or the numbers of a range.
fn choices(inside: &str) -> Option<Result<Vec<String>, TooMany>> {
    if let Some((first, last)) = inside.split_once("..") {
        return range(first, last);
    }
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for character in inside.chars() {
        match character {
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        parts.last_mut()?.push(character);
    }
    (parts.len() > 1).then_some(Ok(parts))
}

fn range(first: &str, last: &str) -> Option<Result<Vec<String>, TooMany>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    if usize::try_from(from.abs_diff(to)).map_or(true, |count| count >= MOST) {
        return Some(Err(TooMany));
    }
    let number = |number: u64| format!("{number:0width$}");
    Some(Ok(if from <= to {
        (from..=to).map(number).collect()
    } else {
        (to..=from).rev().map(number).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_what_a_shell_makes_of_them() {
        let cases: [(&str, &[&str]); 10] = [
            ("a/*.tar", &["a/*.tar"]),
            ("p-{0000..0002}.tar", &["p-0000.tar", "p-0001.tar", "p-0002.tar"]),
            ("{9..11}", &["9", "10", "11"]),
            ("{2..0}", &["2", "1", "0"]),
            ("{08..10}", &["08", "09", "10"]),
            ("{a,b}/{x,y}", &["a/x", "a/y", "b/x", "b/y"]),
            ("{a,b{1,2}}c", &["ac", "b1c", "b2c"]),
            ("{,old-}new", &["new", "old-new"]),
            ("{a}{b", &["{a}{b"]),
            ("{a{b,c}}", &["{ab}", "{ac}"]),
        ];
        for (pattern, expected) in cases {
            assert_eq!(expand(pattern).expect("few"), expected, "{pattern}");
        }
    }

    #[test]
    fn too_many_are_refused_before_they_are_made() {
        for pattern in ["{0..99999999999}", "{0..9999}{0..9999}", "{{0..600000},{0..600000}}"] {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
    }
}
