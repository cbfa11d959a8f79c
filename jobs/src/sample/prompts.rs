//! Prompts in a file: one a line.
//!
//! A line is taken as it stands, spaces included; what ends it (`\n` or `\r\n`) and a byte-order mark before the first
//! are no part of it. Lines of nothing but white space are passed over and counted.

use anyhow::anyhow;

use crate::errors::hinted;

/// The prompts of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) prompts: Vec<String>,
    /// Lines that were passed over.
    pub(super) empty: u64,
}

/// Reads the bytes of the file at `uri`.
///
/// # Errors
///
/// If they are not UTF-8, or no line holds anything.
pub(super) fn parse(bytes: &[u8], uri: &str) -> anyhow::Result<Lines> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| not_text(bytes, error.valid_up_to(), uri))?;
    let (prompts, empty): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| !line.trim().is_empty());
    if prompts.is_empty() {
        return Err(hinted(anyhow!("`{uri}` holds no prompt"), "write one a line"));
    }
    Ok(Lines { prompts: prompts.into_iter().map(str::to_owned).collect(), empty: empty.len() as u64 })
}

fn not_text(bytes: &[u8], valid: usize, uri: &str) -> anyhow::Error {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return hinted(anyhow!("`{uri}` is UTF-16, expected UTF-8"), "save the file as UTF-8");
    }
    let line = 1 + bytes[..valid].iter().filter(|&&byte| byte == b'\n').count();
    hinted(anyhow!("line {line} of `{uri}` is not UTF-8"), "save the file as UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(bytes: &[u8]) -> Vec<String> {
        parse(bytes, "p.txt").unwrap().prompts
    }

    #[test]
    fn lines_are_taken_as_they_stand() {
        let expected = ["a red circle", " two  spaces ", "ü"];
        let text = "a red circle\n two  spaces \nü";
        assert_eq!(prompts(text.as_bytes()), expected);
        assert_eq!(prompts(format!("\u{feff}{text}\n").as_bytes()), expected, "a byte-order mark");
        assert_eq!(prompts(text.replace('\n', "\r\n").as_bytes()), expected, "lines that end as on Windows");
        let gaps = parse("\n\na\n \t\n\nb\n\n".as_bytes(), "p.txt").unwrap();
        assert_eq!(gaps, Lines { prompts: vec!["a".to_owned(), "b".to_owned()], empty: 5 });
    }

    #[test]
    fn what_holds_no_prompt_is_refused() {
        let error = |bytes: &[u8]| parse(bytes, "p.txt").unwrap_err().to_string();
        for nothing in ["", "\n\n", " \r\n", "\u{feff}"] {
            assert_eq!(error(nothing.as_bytes()), "`p.txt` holds no prompt");
        }
        assert_eq!(error(b"a\nb\xff\nc"), "line 2 of `p.txt` is not UTF-8");
        assert_eq!(error(b"\xff\xfea\0"), "`p.txt` is UTF-16, expected UTF-8");
    }
}
