//! The JSON Schema of a config type: draft 7, which editors of TOML read, without references and without what only Rust
//! means (`format`, null). `x-unit` says in what a number counts.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const KIND: &str = "Which of the kinds this is.";

/// The schema of `T`.
pub(super) fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema["title"] = json!(title);
    // What the type says of itself, it says to a reader of the code.
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("description");
    }
    schema
}

fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(tidy),
        Value::Object(schema) => {
            drop_null(schema);
            schema.remove("format");
            schema.remove("title");
            let words = ["anyOf", "oneOf", "items", "additionalProperties"];
            words.iter().for_each(|word| schema.get_mut(*word).into_iter().for_each(tidy));
            if let Some(Value::String(text)) = schema.get_mut("description") {
                *text = prose(text);
            }
            if schema.contains_key("properties") {
                tidy_properties(schema);
            }
        }
        _ => {}
    }
}

/// TOML knows no null: a key that may be left out has the type that it has when it is there.
fn drop_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = &types[..] {
            schema["type"] = kind.clone();
        }
    }
    schema.retain(|word, value| word != "default" || !value.is_null());
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            schema.remove("anyOf");
            for (word, value) in only {
                schema.entry(word).or_insert(value);
            }
        }
    }
}

/// Refuses unknown keys and lists the keys that a person has to write.
fn tidy_properties(schema: &mut Map<String, Value>) {
    let listed = schema.get("required").and_then(Value::as_array);
    let mut required: Vec<Value> = listed.cloned().unwrap_or_default();
    // Two keys have no field of their own, and so no doc comment: the name of a kind, and the value of a variant.
    let is_variant = properties(schema).count() == 1;
    let about = schema.get("description").filter(|_| is_variant).cloned();
    for (name, property) in properties(schema) {
        tidy(property);
        let Some(property) = property.as_object_mut() else { continue };
        let about = if property.contains_key("const") { Some(json!(KIND)) } else { about.clone() };
        if let Some(about) = about {
            property.entry("description").or_insert(about);
        }
        if property.remove("x-required").is_some() {
            property.remove("default");
            if !required.contains(&json!(name)) {
                required.push(json!(name));
            }
        }
    }
    schema.insert("required".to_owned(), Value::Array(required));
    schema.insert("additionalProperties".to_owned(), json!(false));
}

fn properties(schema: &mut Map<String, Value>) -> impl Iterator<Item = (&String, &mut Value)> {
    schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
}

/// A doc comment as text: paragraphs on one line each, names of types without the brackets of a link.
fn prose(comment: &str) -> String {
    let paragraphs =
        comment.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n").replace("[`", "`").replace("`]", "`")
}
