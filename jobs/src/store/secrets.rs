//! Addresses that carry a secret are refused where they come in, before anything is done or written.

use std::ffi::OsString;

use anyhow::anyhow;
use schemas::address;
use toml::{Table, Value};

use crate::errors::hinted;

/// Keys of configs whose values are texts, in which anything may stand.
const TEXTS: [&str; 4] = ["where", "select", "template", "prompts"];

/// Flags whose values are texts.
const TEXT_FLAGS: [&str; 2] = ["--prompt", "--sql"];

/// The error for an address that carries a secret; `what` names it without showing it.
pub(super) fn refused(what: &str) -> anyhow::Error {
    hinted(
        anyhow!("{what} carries a user, a password or a query"),
        "keep credentials in the environment or in the AWS profile files, and addresses free of them; a local file of \
         such a name is `./NAME`",
    )
}

/// Refuses arguments that carry a secret, before any other complaint could show one.
///
/// # Errors
///
/// If one does.
pub(crate) fn refuse_in_arguments(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut before = String::new();
    for argument in arguments.map(|argument| argument.to_string_lossy().into_owned()) {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, value),
            _ => (before.as_str(), argument.as_str()),
        };
        if !TEXT_FLAGS.contains(&flag) {
            check_argument(flag, value)?;
        }
        before = argument;
    }
    Ok(())
}

fn check_argument(flag: &str, value: &str) -> anyhow::Result<()> {
    match value.split_once('=').filter(|_| flag == "--set") {
        Some((key, _)) if address::carries_secret(key) => Err(refused("the key of a `--set`")),
        Some((key, _)) if is_text(key.rsplit('.').next().unwrap_or_default()) => Ok(()),
        Some((key, value)) if address::carries_secret(unquoted(value)) => {
            Err(refused(&format!("`--set {key}=...`")))
        }
        None if address::carries_secret(value) => {
            Err(refused(&format!("the argument `{}`", address::shown(value))))
        }
        _ => Ok(()),
    }
}

/// A value of `--set` may be TOML.
fn unquoted(value: &str) -> &str {
    value.trim().trim_matches(['"', '\''])
}

fn is_text(key: &str) -> bool {
    TEXTS.contains(&key.trim())
}

/// Refuses a config in which an address carries a secret. `origin` is where the config stands.
///
/// # Errors
///
/// If one does; the error names its key.
pub(crate) fn refuse_in_table(table: &Table, origin: &str) -> anyhow::Result<()> {
    table.iter().try_for_each(|(key, value)| refuse_in_entry(key, value, key, origin))
}

fn refuse_in_entry(key: &str, value: &Value, path: &str, origin: &str) -> anyhow::Result<()> {
    match is_text(key) {
        _ if address::carries_secret(key) => Err(refused(&format!("{origin}: a key"))),
        true => Ok(()),
        false => refuse_in_value(value, path, origin),
    }
}

fn refuse_in_value(value: &Value, path: &str, origin: &str) -> anyhow::Result<()> {
    match value {
        Value::String(text) if address::carries_secret(text) => Err(refused(&format!("{origin}: `{path}`"))),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            refuse_in_value(item, &format!("{path}.{}", label(item, index)), origin)
        }),
        Value::Table(table) => table
            .iter()
            .try_for_each(|(key, value)| refuse_in_entry(key, value, &format!("{path}.{key}"), origin)),
        _ => Ok(()),
    }
}

/// How `--set` names an entry of a list.
fn label(item: &Value, index: usize) -> String {
    item.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(list: &[&str]) -> Result<(), String> {
        let list = list.iter().map(OsString::from).collect::<Vec<_>>();
        refuse_in_arguments(list.into_iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_with_secrets_are_refused() {
        for list in [
            &["inspect", "s3://KEY:hush@bucket/x"][..],
            &["inspect", "x", "--html=https://me:hush@host/x"],
            &["preprocess", "a.toml", "--set", "output=s3://KEY:hush@bucket/x"],
            &["preprocess", "a.toml", "--set=output=\"s3://KEY:hush@bucket/x\""],
            &["sample", "run", "--output", "https://host/x?sig=hush"],
        ] {
            let error = arguments(list).expect_err("a secret");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn texts_may_look_like_addresses() {
        arguments(&["sample", "run", "--prompt", "https://host/?q=a", "--prompt=https://me:you@host/"])
            .unwrap();
        arguments(&["inspect", "x", "--sql", "select 'https://host/?q=a'"]).unwrap();
        arguments(&["preprocess", "a.toml", "--set", "source.a.where=url like 'https://host/?q=%'"]).unwrap();
    }

    #[test]
    fn a_key_with_a_secret_is_named() {
        let text = "[[source]]\nname = \"a\"\njoin = { uri = \"s3://KEY:hu/sh@b/x\" }\nwhere = \"u = 'https://h/?q=a'\"\n";
        let error =
            refuse_in_table(&text.parse().expect("TOML"), "a.toml").expect_err("a secret").to_string();
        assert_eq!(error, "a.toml: `source.a.join.uri` carries a user, a password or a query");
    }
}
