//! How a failure reads, and which exit code it has.
//!
//! ```text
//! error: cannot read `s3://corpus/out/manifest.json`
//!   caused by: the bucket does not exist
//! hint: check the name, or create it first
//! ```
//!
//! Errors of object stores are put into words in one place, [`store::explain`], whoever passes them on.

use std::process::ExitCode;

use pipeline::PipelineError;
use schemas::address::without_secrets;

use crate::errors::Hinted;
use crate::store;
use crate::terminal::Printer;

/// What a person reads of an error: lines from the outermost to the innermost, and the hints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The error and its causes.
    pub(crate) lines: Vec<String>,
    /// What to do, innermost last.
    pub(crate) hints: Vec<String>,
}

impl Account {
    /// Walks the chain of causes, drops repetitions and collects hints.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let mut account = Self::default();
        // What to do in general, said only where no cause says it better.
        let mut general = None;
        for cause in error.chain() {
            if let Some(hinted) = cause.downcast_ref::<Hinted>() {
                account.add_hint(hinted.hint());
                continue;
            }
            if let Some(cause) = cause.downcast_ref::<object_store::Error>() {
                let (line, hint) = store::explain(cause);
                account.add_line(&line);
                hint.iter().for_each(|hint| account.add_hint(hint));
                break;
            }
            account.add_message(&cause.to_string());
            let Some(failed) = cause.downcast_ref::<PipelineError>() else { continue };
            match failed.hint() {
                Some(hint) if is_general(failed) => general = Some(hint),
                hint => hint.iter().for_each(|hint| account.add_hint(hint)),
            }
        }
        if account.hints.is_empty() {
            general.iter().for_each(|hint| account.add_hint(hint));
        }
        if account.hints.is_empty() && error.chain().any(is_full) {
            account.add_hint("free some space and start again: what was finished is kept");
        }
        if account.hints.is_empty() && error.chain().any(is_not_found) {
            account.add_hint("check the path or the address");
        }
        account
    }

    fn add_message(&mut self, message: &str) {
        for part in message.trim_end().split('\n') {
            match part.trim_start().strip_prefix("hint: ") {
                Some(hint) => self.add_hint(hint),
                None => self.add_line(part),
            }
        }
    }

    fn add_line(&mut self, line: &str) {
        // Some libraries repeat their cause in their own message.
        let known = self.lines.last().is_some_and(|last| last.contains(line));
        if !line.trim().is_empty() && !known {
            self.lines.push(without_secrets(line.trim_end_matches('.')).into_owned());
        }
    }

    fn add_hint(&mut self, hint: &str) {
        if !self.hints.iter().any(|known| known == hint) {
            self.hints.push(without_secrets(hint).into_owned());
        }
    }
}

/// Prints an error and gives its exit code: 2, but 0 when stdout was closed by its reader.
pub(crate) fn report(printer: &Printer, error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let account = Account::of(error);
    printer.error(&account.lines, &account.hints);
    ExitCode::from(2)
}

/// Whether the hint of an error is for whatever may have caused it.
fn is_general(error: &PipelineError) -> bool {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    match error {
        PipelineError::Address { .. } | PipelineError::Tokenizer { .. } | PipelineError::List { .. } => true,
        PipelineError::Store { source, .. } | PipelineError::Read { source, .. } => {
            matches!(source, PermissionDenied { .. } | Unauthenticated { .. })
        }
        _ => false,
    }
}

fn is_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let of_disk = cause.downcast_ref::<std::io::Error>();
    of_disk.is_some_and(|error| [StorageFull, QuotaExceeded].contains(&error.kind()))
        || cause.to_string().contains("No space left on device")
}

fn is_not_found(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref::<std::io::Error>();
    let store = cause.downcast_ref::<object_store::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound)
        || store.is_some_and(|store| matches!(store, object_store::Error::NotFound { .. }))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
    };
    error.chain().any(|cause| io(cause) == Some(std::io::ErrorKind::BrokenPipe))
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use crate::errors::hinted;

    #[test]
    fn hints_come_last_and_once() {
        let inner = hinted(anyhow!("no such key"), "spell it right");
        let error =
            hinted(Err::<(), _>(inner).context("cannot read `a.toml`").unwrap_err(), "spell it right");
        let account = Account::of(&error);
        assert_eq!(account.lines, ["cannot read `a.toml`", "no such key"]);
        assert_eq!(account.hints, ["spell it right"]);
    }

    #[test]
    fn a_hint_in_a_library_message_is_a_hint() {
        let account = Account::of(&anyhow!("tokenizer differs\nhint: pack again"));
        assert_eq!(
            account,
            Account { lines: vec!["tokenizer differs".into()], hints: vec!["pack again".into()] }
        );
    }

    #[test]
    fn a_missing_file_has_a_hint_at_least() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(Account::of(&missing.into()).hints, ["check the path or the address"]);
    }

    #[test]
    fn the_hint_of_a_cause_stands_before_a_general_one() {
        let address = |source| PipelineError::Address { name: "a".into(), uri: "x://y".into(), source };
        let plain = Account::of(&address("no such thing".into()).into());
        assert!(plain.hints[0].starts_with("check the address"), "{plain:?}");
        let cause = hinted(anyhow!("no scheme"), "known are s3://");
        let account = Account::of(&address(cause.reallocate_into_boxed_dyn_error_without_backtrace()).into());
        assert_eq!(account.hints, ["known are s3://"]);
    }

    #[test]
    fn no_line_shows_a_secret() {
        let error = hinted(anyhow!("cannot open `s3://KEY:hu/sh@bucket/x`"), "try `https://host/x?sig=hush`");
        let account = Account::of(&error);
        assert_eq!(account.lines, ["cannot open `s3://***@bucket/x`"]);
        assert_eq!(account.hints, ["try `https://host/x?***`"]);
    }

    #[test]
    fn repetitions_of_a_cause_are_dropped() {
        let error = Err::<(), _>(anyhow!("disk full")).context("cannot write: disk full").unwrap_err();
        assert_eq!(Account::of(&error).lines, ["cannot write: disk full"]);
    }
}
