//! Config files: a TOML file or a preset of `configs/` by name, then `--set key=value`.
//!
//! Precedence is defaults < file < `--set`, nothing else. The types and their defaults belong to the libraries; here
//! they are filled, and what is wrong is said with file, line and the nearest known key.

mod assign;
pub(crate) mod words;

use std::path::Path;

use anyhow::{Context, anyhow};
use schemas::address;
use serde::de::DeserializeOwned;

use crate::errors::hinted;
use crate::store;

/// `CONFIG --set ...` as it was given, quoted for a shell, for messages that say how to go on.
pub(crate) fn spelled(config: &str, sets: &[String]) -> String {
    let sets = sets.iter().map(|set| format!(" --set {}", shell(set)));
    format!("{}{}", shell(config), sets.collect::<String>())
}

/// An argument as a shell reads it back.
pub(crate) fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a config is for: the folder of `configs/` that its presets lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Preprocess,
    Vae,
    Train,
    Model,
}

impl Kind {
    /// The folder below `configs/`.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Preprocess => "preprocess",
            Self::Vae => "vae",
            Self::Train => "train",
            Self::Model => "model",
        }
    }
}

/// The files of `configs/`, by path below it. A test compares the list with the folder.
const PRESETS: &[(&str, &str)] = &[
    ("model/0.16B.toml", include_str!("../../configs/model/0.16B.toml")),
    ("model/0.37B.toml", include_str!("../../configs/model/0.37B.toml")),
    ("model/0.76B.toml", include_str!("../../configs/model/0.76B.toml")),
    ("model/1.4B.toml", include_str!("../../configs/model/1.4B.toml")),
    ("model/7B.toml", include_str!("../../configs/model/7B.toml")),
    ("model/demo.toml", include_str!("../../configs/model/demo.toml")),
    ("model/tiny.toml", include_str!("../../configs/model/tiny.toml")),
    ("preprocess/samples.toml", include_str!("../../configs/preprocess/samples.toml")),
    ("train/samples.toml", include_str!("../../configs/train/samples.toml")),
    ("vae/samples.toml", include_str!("../../configs/vae/samples.toml")),
];

/// Reads the config `name`: a preset's name, or a file.
///
/// # Errors
///
/// If there is no such config, it is not TOML, or a key or value is not one of `T`.
pub(crate) fn load<T: DeserializeOwned>(kind: Kind, name: &str, sets: &[String]) -> anyhow::Result<T> {
    let written = Written::find(kind, name)?;
    written.resolve(sets)
}

/// A config as somebody wrote it.
struct Written {
    /// Where it stands, for messages.
    origin: String,
    text: String,
}

impl Written {
    fn find(kind: Kind, name: &str) -> anyhow::Result<Self> {
        let is_path = name.contains('/') || name.ends_with(".toml");
        if !is_path && let Some((path, text)) = preset(kind, name) {
            return Ok(Self { origin: format!("configs/{path} (built in)"), text: text.to_owned() });
        }
        match std::fs::read_to_string(&*store::expand_home(name)?) {
            Ok(text) => Ok(Self { origin: name.to_owned(), text }),
            Err(error) => Err(Self::not_found(kind, name, error)),
        }
    }

    fn not_found(kind: Kind, name: &str, error: std::io::Error) -> anyhow::Error {
        let failed = anyhow::Error::new(error).context(format!("cannot read the config `{name}`"));
        let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
        let names: Vec<_> = presets(kind).collect();
        match nearest(stem, names.iter().copied()) {
            Some(near) => {
                hinted(failed, format!("give a file, or a preset by its name: `{near}` is built in"))
            }
            None => hinted(failed, format!("give a file, or one of the presets: {}", names.join(", "))),
        }
    }

    fn resolve<T: DeserializeOwned>(&self, sets: &[String]) -> anyhow::Result<T> {
        let mut table: toml::Table = toml::from_str(&self.text).map_err(|error| self.fault(&error))?;
        store::refuse_in_table(&table, &self.origin)?;
        for set in sets {
            assign::apply(&mut table, set).with_context(|| format!("cannot apply `--set {}`", shown(set)))?;
        }
        store::refuse_in_table(&table, "`--set`")?;
        table.try_into().map_err(|error| self.blame::<T>(&error, sets))
    }

    /// Finds out whether the file or which `--set` is at fault: the file alone is read with positions, then the
    /// overrides are added one by one.
    fn blame<T: DeserializeOwned>(&self, error: &toml::de::Error, sets: &[String]) -> anyhow::Error {
        if let Err(in_file) = toml::from_str::<T>(&self.text)
            && (sets.is_empty() || in_file.message() == error.message())
        {
            return self.fault(&in_file);
        }
        let mut table: toml::Table = toml::from_str(&self.text).unwrap_or_default();
        for set in sets {
            let applied = assign::apply(&mut table, set).is_ok();
            if let (true, Err(found)) = (applied, table.clone().try_into::<T>())
                && found.message() == error.message()
            {
                return describe(&format!("`--set {}`", shown(set)), found.message());
            }
        }
        describe(&self.origin, error.message())
    }

    fn fault(&self, error: &toml::de::Error) -> anyhow::Error {
        let named = error.message().strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        let place = match (named.and_then(|key| self.find_key(key, error.span())), error.span()) {
            (Some(byte), _) => format!("{}:{}", self.origin, position(&self.text, byte)),
            (None, Some(span)) => format!("{}:{}", self.origin, position(&self.text, span.start)),
            (None, None) => self.origin.clone(),
        };
        describe(&place, error.message())
    }

    /// Where a key stands. Errors from inside a table that was read by hand have the position of the whole table, so
    /// the key is looked for where the position is not its own.
    fn find_key(&self, key: &str, span: Option<std::ops::Range<usize>>) -> Option<usize> {
        if let Some(span) = span.filter(|span| self.text.get(span.clone()) == Some(key)) {
            return Some(span.start);
        }
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            let begin = line.len() - line.trim_start().len();
            let rest = line.trim_start().strip_prefix(key);
            if rest.is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])) {
                return Some(start + begin);
            }
            start += line.len();
        }
        None
    }
}

/// One `--set` for a message.
fn shown(set: &str) -> String {
    match set.split_once('=') {
        Some((key, value)) => format!("{}={}", address::without_secrets(key), address::shown(value)),
        None => address::shown(set),
    }
}

/// Line and column of a byte, from 1.
fn position(text: &str, byte: usize) -> String {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{line}:{column}")
}

/// Serde's message in a person's words.
fn describe(place: &str, message: &str) -> anyhow::Error {
    let message = message.trim_end();
    let known = quoted(message);
    for (prefix, what) in [("unknown field `", "unknown key"), ("unknown variant `", "unknown value")] {
        if let Some(found) = message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()) {
            let known = &known[1.min(known.len())..];
            let list = known.join(", ");
            let hint = match nearest(found, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? known here: {list}"),
                None => format!("known here: {list}"),
            };
            return hinted(anyhow!("{place}: {what} `{found}`"), hint);
        }
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return hinted(anyhow!("{place}: the key `{field}` is missing"), format!("add `{field} = ...`"));
    }
    let hint = "values are TOML: 64, 0.5, true, \"text\", [\"a\", \"b\"]";
    hinted(anyhow!("{place}: {}", words::plain(message).replace('\n', ", ")), hint)
}

fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// The name most like `found`, if one is like it at all.
pub(crate) fn nearest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::jaro_winkler(&found.to_lowercase(), name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.75).then_some(best.1)
}

fn preset(kind: Kind, name: &str) -> Option<(&'static str, &'static str)> {
    let path = format!("{}/{name}.toml", kind.folder());
    PRESETS.iter().find(|(known, _)| *known == path).copied()
}

/// The names of the built-in configs of a kind.
pub(crate) fn presets(kind: Kind) -> impl Iterator<Item = &'static str> {
    PRESETS.iter().filter_map(move |(path, _)| {
        path.strip_prefix(kind.folder())?.strip_prefix('/')?.strip_suffix(".toml")
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::failure::Account;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
    struct Config {
        output: String,
        context: u32,
        kind: Shape,
        source: Vec<Source>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Shape {
        #[default]
        Text,
        Pair,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Source {
        name: String,
        #[serde(default)]
        uri: String,
        #[serde(default)]
        weight: f64,
    }

    const FILE: &str =
        "output = \"out\"\n[[source]]\nname = \"pairs\"\nuri = \"a\"\n[[source]]\nname = \"books\"\n";

    fn resolve(text: &str, sets: &[&str]) -> anyhow::Result<Config> {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Written { origin: "a.toml".to_owned(), text: text.to_owned() }.resolve(&sets)
    }

    #[test]
    fn overrides_reach_tables_by_name_and_place() {
        let sets = ["source.pairs.uri=s3://b/*.tar", "source.1.weight=2", "context=64", "kind=pair"];
        let config = resolve(FILE, &sets).unwrap();
        assert_eq!(config.source[0].uri, "s3://b/*.tar");
        assert_eq!((config.source[1].weight, config.context, config.kind), (2.0, 64, Shape::Pair));
    }

    #[test]
    fn an_override_may_append_a_table() {
        let config = resolve("", &["source.0.name=x", "source.0.uri=y"]).unwrap();
        assert_eq!((config.source[0].name.as_str(), config.source[0].uri.as_str()), ("x", "y"));
    }

    /// Each broken config, the error it gives and the hint that must be part of it.
    #[test]
    fn broken_configs_say_where_and_what() {
        let cases: &[(&str, &[&str], &str, &str)] = &[
            ("contxt = 4", &[], "a.toml:1:1: unknown key `contxt`", "did you mean `context`?"),
            ("[[source]]\nnam = \"x\"", &[], "a.toml:2:1: unknown key `nam`", "did you mean `name`?"),
            ("[[source]]\nuri = \"x\"", &[], "a.toml:1:1: the key `name` is missing", "add `name"),
            ("kind = \"pairs\"", &[], "a.toml:1:8: unknown value `pairs`", "did you mean `pair`?"),
            (
                "context = \"x\"",
                &[],
                "a.toml:1:11: found the text \"x\", expected a whole number from 0 to 4,294,967,295",
                "",
            ),
            ("context = ", &[], "a.toml:1:11: ", ""),
            (FILE, &["contxt=4"], "`--set contxt=4`: unknown key `contxt`", "did you mean `context`?"),
            (
                FILE,
                &["context=4", "source.pairs.wait=4"],
                "`--set source.pairs.wait=4`: unknown key `wait`",
                "known here",
            ),
            (FILE, &["context=x"], "`--set context=x`: found the text \"x\", expected a whole number", ""),
            (FILE, &["source.pears.uri=x"], "no table `pears` in `source`", "did you mean `pairs`?"),
            (FILE, &["source.7.uri=x"], "`source` has 2 tables, no number 7", ""),
            (FILE, &["context"], "no `=` in it", "write `--set key=value`"),
            (FILE, &["output.x=1"], "`output` is no table", ""),
        ];
        for (text, sets, expected, hint) in cases {
            let account = Account::of(&resolve(text, sets).unwrap_err());
            let all = account.lines.join(" / ");
            assert!(all.contains(expected), "{all:?} does not say {expected:?}");
            assert!(account.hints.join(" / ").contains(hint), "{account:?} does not hint {hint:?}");
        }
    }

    /// The repository's `configs/`.
    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("jobs lies in the repository").join("configs")
    }

    #[test]
    fn every_file_of_configs_is_built_in() {
        let mut found = Vec::new();
        for kind in std::fs::read_dir(folder()).unwrap() {
            let kind = kind.unwrap().path();
            for file in std::fs::read_dir(&kind).unwrap() {
                let path = file.unwrap().path();
                found.push(path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned());
            }
        }
        found.sort();
        let mut known: Vec<_> = PRESETS.iter().map(|(path, _)| (*path).to_owned()).collect();
        known.sort();
        assert_eq!(known, found);
    }

    #[test]
    fn every_file_of_configs_says_what_it_is_for() {
        for (path, text) in PRESETS {
            let head: Vec<_> = text.lines().take_while(|line| line.starts_with('#')).collect();
            for key in ["purpose:", "hardware:", "time:", "expected:", "command:"] {
                assert!(head.iter().any(|line| line.contains(key)), "{path} does not say `{key}`");
            }
        }
    }

    #[test]
    fn every_file_of_configs_resolves() {
        for (path, _) in PRESETS {
            let (kind, name) = path.strip_suffix(".toml").and_then(|path| path.split_once('/')).unwrap();
            match kind {
                "preprocess" => {
                    load::<pipeline::PreprocessConfig>(Kind::Preprocess, name, &[]).unwrap().check().unwrap();
                }
                "train" => {
                    load::<trainer::config::TrainConfig>(Kind::Train, name, &[]).unwrap().check().unwrap()
                }
                "model" => {
                    let config: trainer::model::ModelConfig = load(Kind::Model, name, &[]).unwrap();
                    assert_eq!(Some(config), trainer::model::ModelConfig::preset(name), "{path}");
                }
                "vae" => drop(load::<crate::vae::VaeConfig>(Kind::Vae, name, &[]).unwrap()),
                other => panic!("nothing reads configs/{other}"),
            }
        }
    }

    #[test]
    fn a_command_is_spelled_so_that_a_shell_reads_it_back() {
        let sets = ["steps=3".to_owned(), "source.a.uri=x/*.tar".to_owned()];
        assert_eq!(spelled("a.toml", &sets), "a.toml --set steps=3 --set 'source.a.uri=x/*.tar'");
    }

    #[test]
    fn a_missing_file_names_the_presets() {
        let error = load::<Config>(Kind::Train, "no/such.toml", &[]).unwrap_err();
        let account = Account::of(&error);
        assert_eq!(account.lines[0], "cannot read the config `no/such.toml`");
        assert!(account.hints[0].starts_with("give a file"), "{account:?}");
    }
}
