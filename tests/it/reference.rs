//! The reference of config keys and commands: as the program writes it, and complete.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::{Run, repository};

const CONFIGS: [&str; 4] = ["preprocess", "train", "vae", "model"];

fn printed(arguments: &[&str]) -> String {
    let outcome = Run::new(arguments).run();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stdout
}

fn schema(topic: &str) -> Value {
    serde_json::from_str(&printed(&["reference", topic, "--json"])).expect("JSON")
}

/// `TRANSFUSION_BLESS=1` writes the files anew.
#[test]
fn the_pages_are_as_the_program_writes_them() {
    let mut files = vec![("docs/reference/commands.md".to_owned(), "commands", "")];
    for topic in CONFIGS {
        files.push((format!("docs/reference/{topic}.md"), topic, ""));
        files.push((format!("docs/schema/{topic}.json"), topic, " --json"));
    }
    for (path, topic, json) in files {
        let mut arguments = vec!["reference", topic];
        arguments.extend(json.split_whitespace());
        let (written, file) = (printed(&arguments), repository().join(&path));
        if std::env::var_os("TRANSFUSION_BLESS").is_some() {
            fs::write(&file, &written).expect("the file is written");
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(found == written, "{path} is stale; renew it: transfusion reference {topic}{json} > {path}");
    }
}

/// A key of a schema, with the table it stands in.
struct Key<'a> {
    path: String,
    table: &'a Value,
    name: &'a str,
    schema: &'a Value,
}

/// All keys of a schema, those of tables in lists and of tables that are one choice of several too.
fn keys<'a>(schema: &'a Value, path: &str, found: &mut Vec<Key<'a>>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        keys(property, &path, found);
        found.push(Key { path, table: schema, name, schema: property });
    }
    let choices = ["anyOf", "oneOf"].iter().filter_map(|word| schema[*word].as_array()).flatten();
    choices.for_each(|choice| keys(choice, path, found));
    if schema["items"].is_object() {
        keys(&schema["items"], &format!("{path}.0"), found);
    }
}

fn keys_of<'a>(schema: &'a Value) -> Vec<Key<'a>> {
    let mut found = Vec::new();
    keys(schema, "", &mut found);
    found
}

fn choices(schema: &Value) -> Vec<&Value> {
    let lists = ["anyOf", "oneOf"].iter().filter_map(|word| schema[*word].as_array());
    let inner: Vec<&Value> = lists.flatten().flat_map(choices).collect();
    if inner.is_empty() { vec![schema] } else { inner }
}

#[test]
fn every_key_has_a_description_a_type_a_default_and_a_unit() {
    for topic in CONFIGS {
        let (schema, page) = (schema(topic), printed(&["reference", topic]));
        let found = keys_of(&schema);
        assert!(found.len() >= 14, "{topic}: {} keys", found.len());
        for Key { path, table, name, schema } in found {
            let about = schema["description"].as_str().unwrap_or_default();
            let is_kind = schema.get("const").is_some();
            assert!(about.len() > 10 || is_kind, "{topic}: `{path}` has no description");
            assert!(
                page.contains(&format!("`{name}`")) || page.contains(&path),
                "{topic}: `{path}` is not on the page"
            );
            let is_number = |choice: &&Value| choice["type"] == "integer" || choice["type"] == "number";
            for choice in choices(schema) {
                let is_typed = choice["type"].is_string() || choice["const"].is_string();
                assert!(is_typed, "{topic}: `{path}` has no type: {choice}");
                if choice["const"].is_string() && !is_kind {
                    assert!(
                        choice["description"].is_string(),
                        "{topic}: {choice} of `{path}` has no meaning"
                    );
                }
            }
            if choices(schema).iter().any(is_number) {
                assert!(schema["x-unit"].is_string(), "{topic}: `{path}` has no unit");
            }
            let is_required =
                table["required"].as_array().is_some_and(|keys| keys.iter().any(|key| key == name));
            let says_so = ["if not set", "by default", "By default", "needed where", "needed if"]
                .iter()
                .any(|words| about.contains(words));
            let has_default = schema.get("default").is_some() || is_required || is_kind || says_so;
            assert!(has_default, "{topic}: nothing says what holds without `{path}`");
        }
    }
}

/// The keys that the program itself names when it meets one it does not know.
fn accepted(command: &[&str], table: &str) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    fs::write(&config, "").expect("a file");
    let (config, mut arguments) = (config.to_string_lossy().into_owned(), command.to_vec());
    let kinds = ["autoencoder-kl", "patch"].map(|kind| (format!("({kind})"), format!("model.kind={kind}")));
    arguments.push(&config);
    let kind = kinds.iter().find(|(kind, _)| table.ends_with(kind));
    if let Some((_, set)) = kind {
        arguments.extend(["--set", set]);
    }
    let place = kind.map_or(table, |(kind, _)| table.trim_end_matches(kind.as_str()));
    let set = if place.is_empty() {
        "nothing-of-this-name=1".to_owned()
    } else {
        format!("{place}.nothing-of-this-name=1")
    };
    arguments.extend(["--set", &set]);
    let outcome = Run::new(&arguments).run();
    let known =
        outcome.stderr.split_once("known here: ").map(|(_, known)| known.lines().next().unwrap_or_default());
    known.unwrap_or_else(|| panic!("{set}: {}", outcome.stderr)).split(", ").map(str::to_owned).collect()
}

/// The tables of a schema with the names they know.
fn tables(schema: &Value, path: &str, found: &mut Vec<(String, BTreeSet<String>)>) {
    let mut here = BTreeSet::new();
    for choice in choices(schema) {
        let kind = choice["properties"]["kind"]["const"].as_str();
        let mut names: BTreeSet<String> =
            choice["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        match kind {
            Some(kind) => {
                // The kind is told from the table before the other keys are read.
                names.remove("kind");
                found.push((format!("{path}({kind})"), names));
            }
            None => here.extend(names),
        }
        for (name, property) in choice["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            tables(property, &path, found);
        }
        if choice["items"].is_object() {
            tables(&choice["items"], &format!("{path}.0"), found);
        }
    }
    if !here.is_empty() {
        // A table of which one key is chosen, beside names that stand alone.
        let alone =
            schema["oneOf"].as_array().into_iter().flatten().filter_map(|choice| choice["const"].as_str());
        here.extend(alone.map(str::to_owned));
        found.push((path.to_owned(), here));
    }
}

#[test]
fn the_reference_has_every_key_that_the_program_accepts_and_no_other() {
    let commands =
        [("preprocess", vec!["preprocess"]), ("train", vec!["train"]), ("vae", vec!["vae", "train"])];
    for (topic, command) in commands {
        let mut found = Vec::new();
        tables(&schema(topic), "", &mut found);
        for (table, names) in found {
            assert_eq!(names, accepted(&command, &table), "{topic}: keys of `{table}`");
        }
    }
    // A file of a model holds what the table `[model]` of a run holds.
    let mut found = Vec::new();
    tables(&schema("model"), "", &mut found);
    for (table, names) in found {
        let place = if table.is_empty() { "model".to_owned() } else { format!("model.{table}") };
        assert_eq!(names, accepted(&["train"], &place), "model: keys of `{table}`");
    }
}

/// What is wrong with a value, by its schema: the part of JSON Schema that the schemas of configs use.
fn faults(value: &Value, schema: &Value, path: &str) -> Vec<String> {
    for word in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[word].as_array() {
            let all: Vec<Vec<String>> = choices.iter().map(|choice| faults(value, choice, path)).collect();
            let is_one = all.iter().any(Vec::is_empty);
            return if is_one {
                Vec::new()
            } else {
                vec![format!("`{path}` is none of its choices: {all:?}")]
            };
        }
    }
    let wrong = |what: &str| vec![format!("`{path}` is {value}, which {what}")];
    let is_of_type = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    let is_known = schema["enum"].as_array().is_none_or(|known| known.contains(value));
    if !is_of_type || !is_known || schema.get("const").is_some_and(|known| known != value) {
        return wrong(&format!("is not what is allowed: {schema}"));
    }
    let bound = |word: &str| schema[word].as_f64().zip(value.as_f64());
    let is_outside = bound("minimum").is_some_and(|(least, value)| value < least)
        || bound("maximum").is_some_and(|(most, value)| value > most)
        || bound("exclusiveMinimum").is_some_and(|(least, value)| value <= least)
        || bound("exclusiveMaximum").is_some_and(|(most, value)| value >= most);
    if is_outside {
        return wrong("is out of range");
    }
    let items = value.as_array().into_iter().flatten().flat_map(|item| faults(item, &schema["items"], path));
    let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing = missing.filter(|name| value.is_object() && value.get(*name).is_none());
    let mut found: Vec<String> =
        items.chain(missing.map(|name| format!("`{path}` lacks `{name}`"))).collect();
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(schema), _) => found.extend(faults(inner, schema, &path)),
            (None, Value::Object(_)) => found.extend(faults(inner, &schema["additionalProperties"], &path)),
            (None, Value::Bool(false)) => found.push(format!("`{path}` is unknown")),
            (None, _) => {}
        }
    }
    found
}

#[test]
fn the_shipped_configs_keep_their_schemas_and_name_them() {
    for topic in CONFIGS {
        let schema = schema(topic);
        for file in fs::read_dir(repository().join("configs").join(topic)).expect("a folder") {
            let path = file.expect("a file").path();
            let text = fs::read_to_string(&path).expect("a config");
            let first = format!("#:schema ../../docs/schema/{topic}.json");
            assert_eq!(text.lines().next(), Some(first.as_str()), "{}", path.display());
            let table: toml::Table = text.parse().expect("TOML");
            let value = serde_json::to_value(table).expect("JSON");
            assert_eq!(faults(&value, &schema, ""), Vec::<String>::new(), "{}", path.display());
        }
    }
    let wrong = serde_json::json!({
        "output": "out", "contxt": 3, "context": 4, "packing": "best", "codec": { "size": "x" },
        "source": [{ "name": "a", "uri": "b", "weight": 0.0, "types": { "x": "int" } }, { "name": "c" }],
    });
    let found = faults(&wrong, &schema("preprocess"), "").join("\n");
    for part in
        ["contxt", ".context", "packing", "codec.size", "weight", "types.x", "lacks `path`", "lacks `uri`"]
    {
        assert!(found.contains(part), "{part} is not in {found}");
    }
}
