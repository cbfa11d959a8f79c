//! What an error of an object store means, in one line, and what to do about it.
//!
//! The stores' own messages carry request ids, retry counts and XML; a person needs the cause. What is not
//! recognised is shown as it is.

mod clock;

use std::io::ErrorKind;

use object_store::Error;

/// Hints that name the variables of a kind of store.
struct Hints {
    credentials: &'static str,
    allow_http: &'static str,
    endpoint: &'static str,
}

const AWS: Hints = Hints {
    credentials: "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) and what they may do there",
    allow_http: "set AWS_ALLOW_HTTP=true",
    endpoint: "check the network and AWS_ENDPOINT_URL",
};

const AZURE: Hints = Hints {
    credentials: "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another credential) and what they may do there",
    allow_http: "set AZURE_ALLOW_HTTP=true",
    endpoint: "check the network and AZURE_STORAGE_ENDPOINT",
};

const GOOGLE: Hints = Hints {
    credentials: "check GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT and what the account may do there",
    allow_http: "set GOOGLE_ALLOW_HTTP=true",
    endpoint: "check the network",
};

/// Cause and hint.
pub(crate) fn explain(error: &Error) -> (String, Option<String>) {
    let (text, whole) = (error.to_string(), with_causes(error));
    let says = |what: &str| whole.contains(what);
    let hints = match () {
        () if says("MicrosoftAzure") || says("x-ms-") => AZURE,
        () if says("GCS") => GOOGLE,
        () => AWS,
    };
    let line = |line: &str, hint: &str| (line.to_owned(), Some(hint.to_owned()));
    if says("NoSuchBucket") || says("ContainerNotFound") || says("The specified bucket does not exist") {
        return line(
            "the bucket does not exist",
            "check the name and the region, or create the bucket first",
        );
    }
    if says("RequestTimeTooSkewed") || says("RequestExpired") || says("Request date header too old") {
        return line(
            &clock::complaint(&whole),
            "set the clock (a time server keeps it right), then repeat the command",
        );
    }
    if says("InvalidAccessKeyId") {
        return line("the store does not know this access key (403)", hints.credentials);
    }
    if says("SignatureDoesNotMatch") {
        return line("the secret key does not fit the access key (403)", hints.credentials);
    }
    if says("ExpiredToken") {
        return line("the session token has expired", "log in again, then repeat the command");
    }
    if says("403 Forbidden") || says("AccessDenied") {
        return line("the store refuses access (403)", hints.credentials);
    }
    if says("401 Unauthorized") {
        return line("the store wants credentials (401)", hints.credentials);
    }
    if says("URL scheme is not allowed") {
        return line("the endpoint is http://, which is not allowed unasked", hints.allow_http);
    }
    if says("Received redirect without LOCATION") {
        return line("the bucket is in another region", "set AWS_REGION to the bucket's region");
    }
    if says("Connection refused") || says("dns error") || says("error sending request") {
        return line("the store can't be reached", hints.endpoint);
    }
    match io_kind(error) {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            line("no space is left", "free some and start again: finished work is kept")
        }
        Some(ErrorKind::PermissionDenied) => ("permission denied".to_owned(), None),
        Some(ErrorKind::IsADirectory | ErrorKind::NotADirectory) => {
            ("it is a folder where a file should be, or the other way round".to_owned(), None)
        }
        _ if matches!(error, Error::NotFound { .. }) => ("it does not exist".to_owned(), None),
        _ => (plain(error, &text), None),
    }
}

fn plain(error: &Error, text: &str) -> String {
    match error {
        Error::AlreadyExists { .. } => "it exists already".to_owned(),
        Error::PermissionDenied { .. } => "permission denied".to_owned(),
        _ => first_line(text),
    }
}

/// Some messages leave out their cause, which says more.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        text.push_str(&format!(": {current}"));
        cause = current.source();
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether a folder was read as if it were a file.
pub(crate) fn is_folder(error: &Error) -> bool {
    matches!(io_kind(error), Some(ErrorKind::IsADirectory | ErrorKind::NotADirectory))
        || error.to_string().contains("Is a directory")
}

fn io_kind(error: &Error) -> Option<ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn each_failure_has_one_line() {
        let cases = [
            (
                "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>",
                "the bucket does not exist",
            ),
            (
                "403 Forbidden: <Code>InvalidAccessKeyId</Code>",
                "the store does not know this access key (403)",
            ),
            (
                "403 Forbidden: <Code>SignatureDoesNotMatch</Code>",
                "the secret key does not fit the access key (403)",
            ),
            ("403 Forbidden", "the store refuses access (403)"),
            (
                "403 Forbidden: <Code>RequestTimeTooSkewed</Code><RequestTime>20261201T100000Z</RequestTime>\
                 <ServerTime>2026-12-01T08:30:00Z</ServerTime>",
                "the clock of this machine is off by 1 h 30 min: it is ahead of the store's",
            ),
            (
                "HTTP error: builder error for url: URL scheme is not allowed",
                "the endpoint is http://, which is not allowed unasked",
            ),
            ("tcp connect error: Connection refused (os error 111)", "the store can't be reached"),
        ];
        for (text, expected) in cases {
            let (line, hint) = explain(&generic(text));
            assert_eq!(line, expected);
            assert!(hint.is_some(), "{expected} has no hint");
        }
    }

    #[test]
    fn hints_name_the_variables_of_their_store() {
        for (store, variable) in [("S3", "AWS_"), ("MicrosoftAzure", "AZURE_"), ("GCS", "GOOGLE_")] {
            for text in ["403 Forbidden", "URL scheme is not allowed"] {
                let (_, hint) = explain(&Error::Generic { store, source: text.into() });
                assert!(hint.expect("a hint").contains(variable), "{store}: {text}");
            }
        }
    }

    #[test]
    fn a_cause_that_the_message_leaves_out_is_found() {
        let cause = anyhow::anyhow!("URL scheme is not allowed").context("builder error");
        let (line, _) = explain(&Error::Generic { store: "S3", source: cause.into() });
        assert_eq!(line, "the endpoint is http://, which is not allowed unasked");
    }

    #[test]
    fn a_full_disk_is_called_so() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let (line, _) = explain(&Error::Generic { store: "local", source: full.into() });
        assert_eq!(line, "no space is left");
    }
}
