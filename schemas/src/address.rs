//! Addresses without their secrets.
//!
//! An address can carry a secret: a user and a password before `@`, a signature or a token behind `?`. No address is
//! shown before it has passed [`shown`], no text with addresses in it before [`without_secrets`], and no address for
//! which [`carries_secret`] holds is written anywhere. Where it can't be known what a part is, it counts as a secret: a
//! message that hides too much can still be understood.

use std::borrow::Cow;
use std::ops::Range;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// Names of query parameters whose values are secrets, in small letters without `-` and `_`.
const SECRET_PARAMETERS: [&str; 18] = [
    "xamzsignature",
    "xamzsecuritytoken",
    "xamzcredential",
    "xgoogsignature",
    "xgoogcredential",
    "awsaccesskeyid",
    "awssecretaccesskey",
    "awssessiontoken",
    "secretaccesskey",
    "signature",
    "sig",
    "accountkey",
    "sharedaccesssignature",
    "accesstoken",
    "authtoken",
    "apikey",
    "password",
    "passwd",
];

/// One address, whatever characters it has, without a user, a password and a query.
pub fn shown(address: &str) -> String {
    hide(address).unwrap_or_else(|| address.to_owned())
}

/// A text without the secrets of the addresses in it. An address ends at white space, `"` and a backtick.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let is_end = |character: char| character.is_whitespace() || character == '"' || character == '`';
    let hidden: Vec<Cow<'_, str>> = text
        .split_inclusive(is_end)
        .map(|part| {
            let word = part.trim_end_matches(is_end);
            match hide(word) {
                Some(hidden) => Cow::Owned(format!("{hidden}{}", &part[word.len()..])),
                None => Cow::Borrowed(part),
            }
        })
        .collect();
    if hidden.iter().all(|part| matches!(part, Cow::Borrowed(_))) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(hidden.concat())
}

/// Whether an address carries a user, a password or a query. A port beside an `@` in a path counts as a port.
pub fn carries_secret(address: &str) -> bool {
    user(address).is_some_and(|user| user.certain) || query(address).is_some()
}

fn hide(word: &str) -> Option<String> {
    if !word.contains(['@', '=', '?', '#', ':', '%']) {
        return None;
    }
    let mut text = Cow::Borrowed(word);
    if let Some(user) = user(&text) {
        let ending = if user.range.end < text.len() { "@" } else { "" };
        text = Cow::Owned(replaced(&text, user.range, &format!("{HIDDEN}{ending}")));
    }
    if let Some(start) = query(&text) {
        let closing = if text.ends_with(')') && !text[..start].contains(')') { ")" } else { "" };
        text = Cow::Owned(format!("{}?{HIDDEN}{closing}", &text[..start]));
    }
    while let Some(value) = parameter(&text) {
        text = Cow::Owned(replaced(&text, value, HIDDEN));
    }
    match text {
        Cow::Owned(text) => Some(text),
        Cow::Borrowed(_) => None,
    }
}

fn replaced(text: &str, range: Range<usize>, by: &str) -> String {
    format!("{}{by}{}", &text[..range.start], &text[range.end..])
}

/// The part of an address that names a user.
struct User {
    /// From behind the scheme to behind the last `@`; to the end where there is no `@`.
    range: Range<usize>,
    /// Whether it can't be a port and a path.
    certain: bool,
}

fn user(word: &str) -> Option<User> {
    let text = unescaped(word);
    let last = text.rfind('@');
    let behind = |at: Option<usize>| at.map_or(text.len(), |at| at + 1);
    let mut schemes = text.match_indices("://").peekable();
    if schemes.peek().is_none() {
        return nameless_user(&text, last);
    }
    for (place, _) in schemes {
        let start = place + 3;
        let rest = &text[start..];
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit(']').next().unwrap_or_default();
        let port = host.split_once(':').map(|(_, port)| port);
        // In a text a mark may follow: `http://host:9000)`.
        let is_port = port.is_none_or(|port| {
            port.trim_end_matches(|end: char| !end.is_alphanumeric())
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        });
        let later = last.filter(|&at| at >= start);
        if authority.contains('@') || !is_port {
            return Some(User { range: start..behind(later), certain: true });
        }
        if port.is_some() && later.is_some() {
            return Some(User { range: start..behind(later), certain: !is_web(&text[..place]) });
        }
    }
    None
}

/// `user:password@host` without a scheme; `:` behind a folder belongs to a name.
fn nameless_user(text: &str, last: Option<usize>) -> Option<User> {
    const OPENING: [char; 6] = ['(', '[', '{', '<', ',', '\''];
    let colon = text.find(':')?;
    let at = last.filter(|&at| at > colon + 1)?;
    let before = &text[..colon];
    let word = before.rsplit('=').next().unwrap_or_default().trim_start_matches(OPENING);
    let name = word.trim_start_matches('/');
    let start = colon - name.len();
    let is_name = !name.is_empty() && !name.contains('/');
    is_name.then_some(User { range: start..at + 1, certain: word.len() - name.len() != 1 })
}

/// Where the query of an address begins. In an address of a store `?` stands for any character, so a query has a `=`
/// there; in a path it has the name of a secret.
fn query(word: &str) -> Option<usize> {
    let text = unescaped(word);
    let scheme = text.find("://").map(|place| &text[..place]);
    let is_query = |place: usize| {
        let behind = &text[place + 1..];
        let has_value = behind.split(['/', '*', '?']).next().is_some_and(|part| part.contains('='));
        match scheme.map(is_web) {
            Some(true) if word[place..].starts_with('?') => true,
            Some(true) => has_value,
            // In the names of a store's objects `#` is a letter.
            Some(false) => has_value && text[place..].starts_with('?'),
            None => names_secret(behind),
        }
    };
    let mut marks = text.match_indices(['?', '#']).map(|(place, _)| place);
    let start = marks.find(|&place| is_query(place))?;
    let hidden = word[start + 1..].strip_prefix(HIDDEN);
    hidden.is_none_or(|rest| !["", ")"].contains(&rest)).then_some(start)
}

/// Whether one of the parameters of a query is a secret.
fn names_secret(query: &str) -> bool {
    let parts = query.split(['?', '#', '&', MASK]);
    let names = parts.filter_map(|part| part.split_once('=')).map(|(name, _)| name);
    names.into_iter().any(is_secret) || parameter(query).is_some()
}

/// The value of a parameter whose name says that it is a secret.
fn parameter(word: &str) -> Option<Range<usize>> {
    let text = unescaped(word);
    let mut equals = text.match_indices('=').map(|(place, _)| place);
    equals.find_map(|place| {
        let is_name = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        let before = text[..place].trim_end_matches(MASK);
        let name = before.rsplit(|character| !is_name(character)).next().unwrap_or_default();
        let end = text[place + 1..].find(['&', ';']).map_or(text.len(), |end| place + 1 + end);
        let value = place + 1..end;
        let is_open = !value.is_empty() && !text[value.clone()].starts_with(HIDDEN);
        (is_secret(name) && is_open).then_some(value)
    })
}

fn is_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRET_PARAMETERS.contains(&plain.as_str())
}

fn is_web(before: &str) -> bool {
    let scheme =
        before.rsplit(|character: char| !character.is_ascii_alphanumeric()).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Stands for the first two characters of an escape.
const MASK: char = '\u{1}';

/// The text with the percent-encoded marks of an address written out, each at the place of its escape's last
/// character: `%40` becomes two [`MASK`]s and `@`.
fn unescaped(word: &str) -> Cow<'_, str> {
    const MARKS: [(&str, char); 6] =
        [("%40", '@'), ("%3a", ':'), ("%3f", '?'), ("%3d", '='), ("%23", '#'), ("%26", '&')];
    if !word.contains('%') {
        return Cow::Borrowed(word);
    }
    let mut text = word.to_owned();
    for (escape, mark) in MARKS {
        let written = format!("{MASK}{MASK}{mark}");
        text = text.replace(escape, &written).replace(&escape.to_ascii_uppercase(), &written);
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_secret_is_shown() {
        for address in [
            "s3://KEY:hush/hush@bucket/x",
            "s3://KEY:hush@hush@bucket/x",
            "S3://KEY:hush@bucket/{a,b}/*.jsonl",
            "s3://KEY:123/hush@bucket/x",
            "s3://KEY:hush/hush",
            "s3://hush@bucket/x",
            "s3://KEY%3Ahush%2Fhush%40bucket/x",
            "https://me:hush@host:8080/x",
            "https://me:pass word hush@host/x",
            "https://me:12/hush@host/x",
            "https://host/x?X-Amz-Algorithm=A&X-Amz-Signature=hush",
            "HTTPS://host/x?hush",
            "https://host/x%3Fsig%3Dhush",
            "https://host/x#token=hush",
            "az://container/x?sv=1&sig=hush%2Fhush%3D",
            "az://container/{a,b}/?.jsonl?sig=hush/hush",
            "s3://bucket/*?X-Amz-Signature=hush",
            "data/x.jsonl?sig=hush",
            "data/x.jsonl?sv=1&SIG=hush",
            "file:///data/x.jsonl?X-Amz-Signature=hush",
            "me:hush@host/x",
            "me:hush/hush@host/x",
            "s3:/KEY:hush@bucket/x",
            "//KEY:hush@bucket/x",
            "s3://bucket/x,s3://KEY:hush@bucket/y",
        ] {
            assert!(!shown(address).contains("hush"), "{address}: {}", shown(address));
            assert!(carries_secret(address) || address.contains(":12/"), "{address}");
            if !address.contains(' ') {
                let text = format!("error: `{address}` and \"{address}\" ({address})\n{address}");
                assert!(!without_secrets(&text).contains("hush"), "{text}: {}", without_secrets(&text));
            }
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for address in [
            "s3://bucket/raw/*.tar",
            "s3://bucket/qu?/#1 a=b.jsonl",
            "s3://bucket/dt=2020-0?-??/{a,b}.jsonl",
            "s3://bucket/img@2x.png",
            "gs://bucket/a:b.jsonl",
            "http://127.0.0.1:9000/bucket/x",
            "http://[::1]:9000/x",
            "https://host/trip%20data/%C3%BC%40%3F.jsonl",
            "./me:you@host",
            "/data/a:b.jsonl",
            "data/a?b=c.jsonl",
            "data/sig.jsonl",
            "cuda:0",
        ] {
            assert_eq!(shown(address), address);
            assert!(!carries_secret(address), "{address}");
        }
        let text = "error: `s3://a/b`: cannot connect to http://host:80, (http://host:9000): 12:30 a@b x=1\n";
        assert_eq!(without_secrets(text), text);
    }

    #[test]
    fn the_rest_of_an_address_is_shown() {
        assert_eq!(shown("s3://KEY:hu/sh@bucket/{a,b}.tar"), "s3://***@bucket/{a,b}.tar");
        assert_eq!(shown("https://host/a.jsonl?sig=hush"), "https://host/a.jsonl?***");
        assert_eq!(
            without_secrets("for url (https://host/a?sig=hush) failed"),
            "for url (https://host/a?***) failed"
        );
        assert_eq!(without_secrets("--set output=me:hush@host/x"), "--set output=***@host/x");
        assert_eq!(without_secrets("AWS_SECRET_ACCESS_KEY=hush x"), "AWS_SECRET_ACCESS_KEY=*** x");
    }
}
