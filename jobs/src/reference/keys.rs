//! The keys of a config, from its JSON Schema: tables as they stand in a file, each with its keys in order.

use serde_json::{Map, Value};

/// A table of a file.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The table's name in the file, and of several kinds which; nothing for the keys at the top of the file.
    pub(super) heading: String,
    pub(super) about: String,
    pub(super) keys: Vec<Key>,
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    /// The type in a person's words.
    pub(super) kind: String,
    pub(super) range: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) default: Fallback,
    pub(super) about: String,
    /// Named values with what each means.
    pub(super) values: Vec<(String, String)>,
}

/// What holds where a key is left out.
#[derive(Debug)]
pub(super) enum Fallback {
    /// A value, as TOML.
    Value(String),
    /// The key must be there.
    Required,
    /// What the description says.
    Unset,
}

/// The tables of a config, the top of the file first.
pub(super) fn tables(schema: &Value) -> Vec<Table> {
    let mut found = Vec::new();
    visit(schema, "", "", &mut found);
    found
}

/// Adds the table at `path` and those below it.
fn visit(schema: &Value, path: &str, heading: &str, found: &mut Vec<Table>) {
    let mut table =
        Table { heading: heading.to_owned(), about: text(schema, "description"), keys: Vec::new() };
    let mut below = Vec::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let tables = inner(property, &path);
        if tables.is_empty() || property.get("properties").is_none() && property["type"] != "array" {
            table.keys.push(key(schema, name, property));
        }
        below.extend(tables.into_iter().map(|(inner, heading)| (inner, path.clone(), heading)));
    }
    found.push(table);
    below.into_iter().for_each(|(schema, path, heading)| visit(&schema, &path, &heading, found));
}

/// The tables that the value of a key may be, with their headings.
fn inner(property: &Value, path: &str) -> Vec<(Value, String)> {
    let described = |inner: &Value| {
        let mut inner = inner.clone();
        if let (Some(inner), Some(about)) = (inner.as_object_mut(), property.get("description")) {
            inner.insert("description".to_owned(), about.clone());
        }
        inner
    };
    if property.get("properties").is_some() {
        return vec![(property.clone(), format!("`[{path}]`"))];
    }
    if property["items"].get("properties").is_some() {
        return vec![(described(&property["items"]), format!("`[[{path}]]`"))];
    }
    let is_table = |choice: &&Value| choice.get("properties").is_some();
    let heading = |choice: &Value| match choice["properties"]["kind"]["const"].as_str() {
        Some(kind) => format!("`[{path}]` of the kind `{kind}`"),
        None => format!("`[{path}]`"),
    };
    choices(property).into_iter().filter(is_table).map(|choice| (choice.clone(), heading(choice))).collect()
}

/// The alternatives of a value, those inside of others too.
fn choices(schema: &Value) -> Vec<&Value> {
    let lists = ["anyOf", "oneOf"].iter().filter_map(|word| schema[word].as_array());
    let choices: Vec<&Value> = lists.flatten().flat_map(choices).collect();
    if choices.is_empty() { vec![schema] } else { choices }
}

fn key(table: &Value, name: &str, schema: &Value) -> Key {
    let is_required =
        table["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name));
    let default = match schema.get("default") {
        _ if is_required => Fallback::Required,
        Some(value) => Fallback::Value(toml(value)),
        None => Fallback::Unset,
    };
    Key {
        name: name.to_owned(),
        kind: kinds(schema),
        range: range(schema).or_else(|| range(&schema["items"])),
        unit: schema["x-unit"].as_str().map(str::to_owned),
        default,
        about: text(schema, "description"),
        values: values(schema),
    }
}

/// The types of a value: `whole number`, `text or list of texts`.
fn kinds(schema: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for choice in choices(schema) {
        let word = kind(choice);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

fn kind(schema: &Value) -> String {
    let several = |item: &str| match item {
        "text" => "texts".to_owned(),
        "`true` or `false`" => "`true` and `false`".to_owned(),
        item => format!("{item}s"),
    };
    match schema["type"].as_str().unwrap_or_default() {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "number" => "number".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "array" => match (schema["minItems"].as_u64(), schema["maxItems"].as_u64()) {
            (Some(least), Some(most)) if least == most => {
                format!("list of {most} {}", several(&kinds(&schema["items"])))
            }
            _ => format!("list of {}", several(&kinds(&schema["items"]))),
        },
        "object" if schema.get("properties").is_none() => {
            format!("table with {} by name", several(&kinds(&schema["additionalProperties"])))
        }
        "object" => "table".to_owned(),
        _ if schema.get("const").is_some_and(Value::is_string) => "text".to_owned(),
        other => other.to_owned(),
    }
}

/// The range of a number, in words.
fn range(schema: &Value) -> Option<String> {
    let bound = |word: &str| schema.get(word).map(number);
    let (least, most) = (bound("minimum"), bound("maximum"));
    match (least, bound("exclusiveMinimum"), most, bound("exclusiveMaximum")) {
        (Some(least), _, Some(most), _) => Some(format!("from {least} to {most}")),
        (Some(least), _, None, Some(below)) => Some(format!("from {least} to below {below}")),
        (_, Some(above), Some(most), _) => Some(format!("above {above}, {most} at most")),
        (Some(least), _, None, None) => Some(format!("{least} or more")),
        (_, Some(above), None, None) => Some(format!("above {above}")),
        _ => None,
    }
}

/// The values that have names, each with what it means.
fn values(schema: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let all = choices(schema)
        .into_iter()
        .chain(choices(&schema["items"]))
        .chain(choices(&schema["additionalProperties"]));
    for choice in all {
        let names = choice["enum"].as_array().or(choice["x-presets"].as_array()).into_iter().flatten();
        found.extend(names.map(|name| (toml(name), String::new())));
        if let Some(name) = choice.get("const") {
            found.push((toml(name), text(choice, "description")));
        }
    }
    found
}

fn text(schema: &Value, word: &str) -> String {
    schema[word].as_str().unwrap_or_default().to_owned()
}

/// A number as a person reads it: thousands apart, no hundreds of zeros.
fn number(value: &Value) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => crate::terminal::thousands(whole),
        (None, Some(real)) if real.fract() == 0.0 && (0.0..1e15).contains(&real) => {
            crate::terminal::thousands(real as u64)
        }
        (None, Some(real)) if real != 0.0 && !(1e-4..1e15).contains(&real.abs()) => format!("{real:e}"),
        _ => value.to_string(),
    }
}

/// A value as it stands in a file.
fn toml(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_u64() => self::number(value).replace(',', "_"),
        Value::Number(number) => {
            let real = number.as_f64().unwrap_or_default();
            if real != 0.0 && real.abs() < 1e-3 { format!("{real:e}") } else { format!("{real:?}") }
        }
        Value::Array(values) => format!("[{}]", values.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => inline(table),
        other => other.to_string(),
    }
}

fn inline(table: &Map<String, Value>) -> String {
    let pairs: Vec<String> = table.iter().map(|(key, value)| format!("{key} = {}", toml(value))).collect();
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}
