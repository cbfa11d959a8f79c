//! What the tests share: the repository, the optional parts of the machine, and rows made by code.

use std::path::{Path, PathBuf};

use half::f16;
use schemas::{Latent, Modality, Order, Provenance, Row, RowLayout, Span, Vocabulary};
use serde_json::{Value, json};

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("jobs lies in the repository")
}

/// An optional part of the machine: `None` where the variable is unset, and then the test has nothing to do.
///
/// # Panics
///
/// If the variable is set and the file it names is absent: a promise that isn't kept is a failure, not a skip.
pub(crate) fn optional_file(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    assert!(path.exists(), "{variable} names {}, which does not exist", path.display());
    Some(path)
}

/// The folder of sample data.
pub(crate) fn samples() -> Option<PathBuf> {
    optional_file("TRANSFUSION_SAMPLES")
}

/// A Python with pyarrow, polars and boto3.
pub(crate) fn python() -> Option<PathBuf> {
    optional_file("TRANSFUSION_PYTHON")
}

/// The address of an S3 server.
pub(crate) fn s3() -> Option<String> {
    std::env::var("TRANSFUSION_S3").ok()
}

/// Headless Chromium.
pub(crate) fn chromium() -> Option<PathBuf> {
    optional_file("TRANSFUSION_CHROMIUM")
}

/// The layout of [`rows`].
pub(crate) const LAYOUT: RowLayout = RowLayout { context: 16, patch: 2, vocabulary: Vocabulary::text(100) };

/// `count` different rows: a text, a picture of 4 x 4 latent pixels before its caption, padding.
pub(crate) fn rows(count: u32) -> Vec<Row> {
    (0..count).map(row).collect()
}

fn row(number: u32) -> Row {
    let vocabulary = LAYOUT.vocabulary;
    let text = |offset: u32| (number * 7 + offset) % 100;
    let mut tokens = vec![text(0), text(1), text(2), 1, vocabulary.boi()];
    tokens.extend([vocabulary.patch(); 4]);
    tokens.extend([vocabulary.eoi(), text(3), text(4), 2]);
    tokens.resize(16, vocabulary.padding());
    let span =
        |document, start, len, modality, image, loss| Span { document, start, len, modality, image, loss };
    let spans = vec![
        span(0, 0, 3, Modality::Text, None, true),
        span(1, 3, 2, Modality::Text, None, true),
        span(1, 5, 4, Modality::Image, Some(0), !number.is_multiple_of(3)),
        span(1, 9, 4, Modality::Text, None, true),
        span(2, 13, 3, Modality::Padding, None, false),
    ];
    let values = (0..32).map(|index| f16::from_f32((number as f32 - index as f32) / 8.0)).collect();
    let latent = Latent { channels: 2, height: 4, width: 4, moments: false, values };
    let source = |row: u64, id: Option<String>, order| Provenance {
        source: 0,
        file: number % 2,
        row,
        id,
        first_token: 0,
        order,
    };
    let sources = vec![
        source(u64::from(number), None, Order::Neither),
        source(1 << 40 | u64::from(number), Some(format!("picture-{number}-ü")), Order::ImageFirst),
    ];
    Row::try_new(tokens, spans, vec![latent], sources, &LAYOUT).expect("the row keeps the format")
}

/// A row as JSON, in the form that `tests/python/read_shard.py` prints.
pub(crate) fn as_json(row: &Row) -> Value {
    let spans = row.spans().iter().map(|span| {
        json!({"document": span.document, "start": span.start, "len": span.len,
               "modality": span.modality as u8, "image": span.image, "loss": span.loss})
    });
    let images = row.images().iter().map(|image| {
        let latent: Vec<f32> = image.values.iter().map(|value| value.to_f32()).collect();
        json!({"channels": image.channels, "height": image.height, "width": image.width,
               "moments": image.moments, "latent": latent})
    });
    let sources = row.sources().iter().map(|source| {
        json!({"source": source.source, "file": source.file, "row": source.row, "id": source.id,
               "first_token": source.first_token, "order": source.order as u8})
    });
    json!({"tokens": row.tokens(), "spans": spans.collect::<Vec<_>>(), "images": images.collect::<Vec<_>>(),
           "sources": sources.collect::<Vec<_>>()})
}

/// One run of the binary.
pub(crate) struct Run {
    command: std::process::Command,
}

/// What it gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit code, `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Data.
    pub(crate) stdout: String,
    /// Text for people.
    pub(crate) stderr: String,
}

impl Run {
    /// The binary with these arguments, without the caller's credentials and colours.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_transfusion"));
        command.args(arguments).env("NO_COLOR", "1").current_dir(repository());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        Self { command }
    }

    /// In another folder than the repository.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Further variables of the environment.
    pub(crate) fn environment(mut self, variables: &[(String, String)]) -> Self {
        self.command.envs(variables.iter().cloned());
        self
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(mut self) -> std::process::Child {
        use std::process::Stdio;
        self.command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
    }

    /// Starts it without waiting, with its data going to a file.
    pub(crate) fn spawn_to(mut self, file: &Path) -> std::process::Child {
        let file = std::fs::File::create(file).expect("a file");
        self.command.stdout(file).stderr(std::process::Stdio::null()).spawn().expect("the binary starts")
    }

    /// Starts it without waiting, with its data going to a pipe.
    pub(crate) fn spawn_piped(mut self) -> std::process::Child {
        use std::process::Stdio;
        self.command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary starts")
    }

    /// Starts it without waiting, with all that it says going to pipes.
    pub(crate) fn spawn_captured(mut self) -> std::process::Child {
        use std::process::Stdio;
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Outcome {
        let output = self.command.output().expect("the binary starts");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// # Panics
    ///
    /// If the exit code is another one; the message shows what the command said.
    pub(crate) fn expect_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }
}

/// BLAKE3 of every file below a folder by its path there.
pub(crate) fn digest_of_folder(folder: &Path) -> std::collections::BTreeMap<String, String> {
    let mut digests = std::collections::BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("below the folder").to_string_lossy().into_owned();
            // Locks and logs are no part of a dataset.
            if !name.ends_with(".lock") && !name.ends_with(".log") {
                digests.insert(name, schemas::content_hash(&std::fs::read(&path).expect("a file")));
            }
        }
    }
    digests
}

/// The environment that makes the binary use the test's S3 server.
pub(crate) fn s3_environment() -> Option<Vec<(String, String)>> {
    let pairs = [
        ("AWS_ENDPOINT_URL", s3()?),
        ("AWS_ACCESS_KEY_ID", "testing".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "testing".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    Some(pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// Makes a bucket of its own for a test and gives its name.
pub(crate) fn bucket(python: &Path, test: &str) -> String {
    let name = format!("{test}-{}", std::process::id());
    tool(python, "bucket", &[&name]);
    name
}

/// Runs a verb of `tests/python/s3.py`.
pub(crate) fn tool(python: &Path, verb: &str, arguments: &[&str]) -> String {
    let script = repository().join("tests/python/s3.py");
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(verb).args(arguments).envs(s3_environment().expect("an S3 server"));
    let output = command.output().expect("Python runs");
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
