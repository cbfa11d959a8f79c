//! `reference`: every key of every config and every command, made from the types and the flags, never written by hand.
//!
//! A page is Markdown, for a terminal and for docs/reference/; with `--json` it is the JSON Schema that an editor reads
//! (docs/schema/), or the commands as JSON. It knows the types of the configs, their names and presets, and the flags;
//! nothing of what a command does.

mod commands;
mod keys;
mod markdown;
mod schema;

use serde_json::Value;

use crate::cli::{ReferenceArgs, Topic};
use crate::errors::Outcome;
use crate::settings::{self, Kind};
use crate::terminal::Printer;

/// Runs the command.
pub(crate) fn run(args: &ReferenceArgs, printer: &Printer) -> anyhow::Result<Outcome> {
    match (kind(args.topic), printer.json()) {
        (Some(kind), false) => printer.data(&config_page(kind))?,
        (Some(kind), true) => printer.document(&schema_of(kind))?,
        (None, false) => printer.data(&markdown::commands(&commands::all()))?,
        (None, true) => printer.document(&commands::all())?,
    }
    Ok(Outcome::Done)
}

/// The config that a topic is about; the commands are none.
const fn kind(topic: Topic) -> Option<Kind> {
    match topic {
        Topic::Preprocess => Some(Kind::Preprocess),
        Topic::Train => Some(Kind::Train),
        Topic::Vae => Some(Kind::Vae),
        Topic::Model => Some(Kind::Model),
        Topic::Commands => None,
    }
}

fn schema_of(kind: Kind) -> Value {
    match kind {
        Kind::Preprocess => schema::of::<pipeline::PreprocessConfig>("Config of `transfusion preprocess`"),
        Kind::Train => schema::of::<trainer::config::TrainConfig>("Config of `transfusion train`"),
        Kind::Vae => schema::of::<crate::vae::VaeConfig>("Config of `transfusion vae train`"),
        Kind::Model => schema::of::<trainer::model::ModelConfig>("Model of `transfusion train`"),
    }
}

fn config_page(kind: Kind) -> String {
    let schema = schema_of(kind);
    let presets: Vec<&str> = settings::presets(kind).collect();
    markdown::config(kind.folder(), &presets, &keys::tables(&schema))
}

#[cfg(test)]
mod tests {
    use pipeline::PreprocessConfig;
    use serde::de::DeserializeOwned;
    use toml::{Table, Value as Toml};
    use trainer::config::TrainConfig;
    use trainer::model::DataShape;

    use super::*;
    use crate::vae::VaeConfig;

    fn read<T: DeserializeOwned>(config: &Table) -> Result<T, String> {
        config.clone().try_into().map_err(|error: toml::de::Error| error.to_string())
    }

    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }

    /// Everything that is checked of a config without its data.
    fn check(kind: Kind, config: &Table) -> Result<(), String> {
        match kind {
            Kind::Preprocess => read::<PreprocessConfig>(config)?.check().map_err(text),
            Kind::Vae => read::<VaeConfig>(config)?.train.check().map_err(text),
            Kind::Train => {
                let config = read::<TrainConfig>(config)?;
                config.check().map_err(text)?;
                let objective = config.diffusion.plan().map_err(text)?;
                config.sample.settings(0).plan(&objective).map(drop).map_err(text)
            }
            Kind::Model => {
                let data = DataShape { vocabulary: 300, image: None };
                read::<trainer::model::ModelConfig>(config)?.plan(&data).map(drop).map_err(text)
            }
        }
    }

    /// A config that passes, with the tables whose keys are tried.
    fn whole(kind: Kind) -> Table {
        let text = match kind {
            Kind::Preprocess => {
                "output = 'o'\n[tokenizer]\ntrain = { vocabulary = 300 }\n[codec]\npath = 'c'\n[[source]]\nname = 'a'\nuri = 'b'"
            }
            Kind::Train => "[[data]]\nuri = 'd'",
            Kind::Vae => "[[source]]\nname = 'a'\nuri = 'b'",
            Kind::Model => "",
        };
        text.parse().expect("TOML")
    }

    /// Puts a value at a path; a number in the path is a place in a list.
    fn put(config: &mut Table, path: &[String], value: Toml) {
        let (first, rest) = path.split_first().expect("a key");
        if rest.is_empty() {
            config.insert(first.clone(), value);
            return;
        }
        match config.entry(first.clone()).or_insert_with(|| Table::new().into()) {
            Toml::Table(inner) => put(inner, rest, value),
            Toml::Array(items) => put(items[0].as_table_mut().expect("a table"), &rest[1..], value),
            other => panic!("{first} is {other}"),
        }
    }

    /// Numbers with a range, by path: those inside the range at its ends, those outside of it.
    fn numbers(schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, Vec<Toml>, Vec<Toml>)>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = [path, std::slice::from_ref(name)].concat();
            numbers(property, &path, found);
            numbers(&property["items"], &[&path[..], &["0".to_owned()]].concat(), found);
            let choices = ["anyOf", "oneOf"].iter().filter_map(|word| property[*word].as_array()).flatten();
            choices.for_each(|choice| numbers(choice, &path, found));
            if property["type"] == "integer" {
                let bound = |word: &str| property[word].as_i64();
                let (least, most) = (bound("minimum"), bound("maximum"));
                let inside = [least, most].into_iter().flatten().map(Toml::from).collect();
                let below = least.filter(|least| *least > 0).map(|least| least - 1);
                let above = most.map(|most| most + 1);
                found.push((path, inside, [below, above].into_iter().flatten().map(Toml::from).collect()));
            } else if property["type"] == "number" {
                let bound = |word: &str| property[word].as_f64();
                let inside =
                    [bound("minimum"), bound("maximum")].into_iter().flatten().map(Toml::from).collect();
                let beyond = [
                    bound("minimum").map(|least| least - 1e-9_f64.max(least.abs() * 0.5)),
                    bound("maximum").map(|most| most * 1.001),
                    bound("exclusiveMinimum"),
                    bound("exclusiveMaximum"),
                ];
                found.push((path, inside, beyond.into_iter().flatten().map(Toml::from).collect()));
            }
        }
    }

    /// The ranges of the schemas are those that the program checks: a number at an end passes, one beyond is refused by
    /// its key.
    #[test]
    fn ranges_are_those_that_are_checked() {
        for kind in [Kind::Preprocess, Kind::Train, Kind::Vae, Kind::Model] {
            let mut found = Vec::new();
            numbers(&schema_of(kind), &[], &mut found);
            assert_eq!(check(kind, &whole(kind)), Ok(()));
            for (path, inside, outside) in found {
                // A model in the table of a run is checked with its data, the sizes of a codec all together.
                if path[0] == "model"
                    || kind == Kind::Vae && ["source", "pictures"].contains(&path[0].as_str())
                {
                    continue;
                }
                let (name, key) = (path.join("."), path.last().expect("a key"));
                let tried = |value: &Toml| {
                    let mut config = whole(kind);
                    put(&mut config, &path, value.clone());
                    check(kind, &config)
                };
                for value in &inside {
                    // Other keys may contradict an end.
                    let result = tried(value);
                    let is_of_key = result.as_ref().is_err_and(|error| {
                        error.contains(&format!("{key}` is"))
                            && error.contains("expected")
                            && (error.contains(" to ") || error.contains("number"))
                    });
                    assert!(!is_of_key, "{kind:?} {name} = {value}: {result:?}");
                }
                for value in &outside {
                    let error = tried(value).expect_err(&format!("{kind:?} {name} = {value} passes"));
                    assert!(error.contains(key.as_str()), "{kind:?} {name} = {value}: {error}");
                }
            }
        }
    }
}
