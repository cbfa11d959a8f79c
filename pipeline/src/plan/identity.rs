//! What makes a dataset this one: the configuration without what its bytes don't depend on.
//!
//! `job.json` is put create-only before anything else. A second configuration on the same output is refused, with the
//! first key that differs.

use schemas::{FORMAT_VERSION, Tokenizer, content_hash};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::PipelineError;
use crate::config::PreprocessConfig;
use crate::plan::Environment;
use crate::source::SourcePlan;
use crate::storage::location::Location;

const JOB: &str = "job.json";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct JobRecord {
    format: u32,
    fingerprint: String,
    config: Value,
}

/// The configuration without output, limits, devices' names and the roots of addresses; tokenizer, codec and
/// joined tables by their fingerprint.
pub(crate) fn portable_config(
    config: &PreprocessConfig,
    tokenizer: Option<&Tokenizer>,
    environment: &Environment,
    sources: &[SourcePlan],
) -> Result<Value, PipelineError> {
    let images = config.sources.iter().any(|source| source.shape.has_images());
    let mut config = serde_json::to_value(config).map_err(|error| PipelineError::Format(Box::new(error)))?;
    remove_unbound(&mut config);
    if let Some(tokenizer) = tokenizer {
        config["tokenizer"]["model"] = tokenizer.fingerprint().into();
    }
    match environment.codec.as_ref().filter(|_| images) {
        Some(codec) => {
            let info = codec.info();
            config["codec"]["path"] = info.fingerprint.clone().into();
            config["codec"]["device"] = info.device.clone().into();
            if let Some(codec) = config["codec"].as_object_mut() {
                // Datasets made before the choice existed hold means and can still grow.
                if codec.get("latent").is_some_and(|latent| latent == "mean") {
                    codec.shift_remove("latent");
                }
            }
        }
        None => config["codec"] = Value::Null,
    }
    for (index, source) in sources.iter().enumerate() {
        source.make_portable(&mut config["source"][index]);
    }
    Ok(config)
}

/// Takes out what no dataset depends on.
fn remove_unbound(config: &mut Value) {
    let remove = |table: Option<&mut Value>, keys: &[&str]| {
        if let Some(table) = table.and_then(Value::as_object_mut) {
            keys.iter().for_each(|key| drop(table.shift_remove(*key)));
        }
    };
    remove(config.get_mut("codec"), &["batch"]);
    for source in config.get_mut("source").and_then(Value::as_array_mut).into_iter().flatten() {
        remove(Some(source), &["folder"]);
    }
    remove(Some(config), &["output", "max-reject-share", "memory-bytes"]);
}

/// A configuration with the defaults of the keys that it does not have, so that one from before a key was there is
/// still the same. What this program can't read stays as it is.
fn completed(config: &Value) -> Value {
    let read = PreprocessConfig::deserialize(config).and_then(serde_json::to_value);
    let mut config = read.unwrap_or_else(|_| config.clone());
    remove_unbound(&mut config);
    config
}

/// Makes the output this configuration's, or finds that it is.
pub(crate) async fn claim(output: &Location, config: &Value) -> Result<(), PipelineError> {
    let record = JobRecord {
        format: FORMAT_VERSION,
        fingerprint: content_hash(config.to_string().as_bytes()),
        config: config.clone(),
    };
    let json = serde_json::to_vec_pretty(&record).map_err(|error| PipelineError::Format(Box::new(error)))?;
    if output.create(JOB, json).await? {
        return Ok(());
    }
    let there = output.read(JOB).await?.unwrap_or_default();
    let damaged =
        |error: serde_json::Error| PipelineError::Damaged { path: output.show(JOB), what: error.to_string() };
    let there: JobRecord = serde_json::from_slice(&there).map_err(damaged)?;
    if there.fingerprint == record.fingerprint {
        return Ok(());
    }
    check_same(output, &there.config, config)
}

/// Refuses a configuration that is not the one of the output.
pub(crate) fn check_same(output: &Location, there: &Value, here: &Value) -> Result<(), PipelineError> {
    let (there, here) = (completed(there), completed(here));
    if there == here {
        return Ok(());
    }
    let (key, there, here) = first_difference("", &there, &here);
    Err(PipelineError::OtherConfig { output: output.show(""), key, there, here })
}

fn first_difference(key: &str, there: &Value, here: &Value) -> (String, String, String) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            let null = Value::Null;
            let values =
                |name: &String| (a.get(name).unwrap_or(&null).clone(), b.get(name).unwrap_or(&null).clone());
            match names.into_iter().find(|name| {
                let (a, b) = values(name);
                a != b
            }) {
                Some(name) => {
                    let (a, b) = values(name);
                    first_difference(&below(name), &a, &b)
                }
                None => (key.to_owned(), there.to_string(), here.to_string()),
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let index = (0..a.len()).find(|&index| a[index] != b[index]).unwrap_or(0);
            match (a.get(index), b.get(index)) {
                (Some(a), Some(b)) => first_difference(&below(&index.to_string()), a, b),
                _ => (key.to_owned(), there.to_string(), here.to_string()),
            }
        }
        _ => (key.to_owned(), format!("`{there}`"), format!("`{here}`")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::config::{CodecConfig, JoinConfig, JoinKeys, SourceConfig, TrainTokenizer};
    use crate::tests::fixtures::memory_output;

    fn whole() -> PreprocessConfig {
        let join = JoinConfig { on: JoinKeys::Same("key".to_owned()), ..JoinConfig::default() };
        let mut config = PreprocessConfig {
            codec: Some(CodecConfig::default()),
            sources: vec![SourceConfig { join: Some(join), ..SourceConfig::default() }],
            ..PreprocessConfig::default()
        };
        config.tokenizer.train = Some(TrainTokenizer { vocabulary: 300, sample_bytes: 1 });
        config
    }

    fn portable() -> Value {
        let mut config = serde_json::to_value(whole()).expect("JSON");
        remove_unbound(&mut config);
        config
    }

    fn at<'a>(config: &'a mut Value, path: &str) -> &'a mut serde_json::Map<String, Value> {
        config.pointer_mut(path).and_then(Value::as_object_mut).expect("a table")
    }

    /// A dataset from before a key was there used to be refused as one of another configuration.
    #[test]
    fn keys_that_are_not_there_have_their_defaults() {
        let output = memory_output();
        let mut before = portable();
        for (path, keys) in [
            ("", &["packing", "deduplicate", "pictures", "split"] as &[&str]),
            ("/codec", &["latent", "device"]),
            ("/source/0", &["captions", "template", "join", "document"]),
        ] {
            keys.iter().for_each(|key| drop(at(&mut before, path).shift_remove(*key).expect("a key")));
        }
        let mut now = portable();
        now["source"][0]["join"] = Value::Null;
        check_same(&output, &before, &now).expect("the same");
        check_same(&output, &now, &before).expect("the same");
        // What no dataset depends on may stand there or not.
        at(&mut before, "").insert("memory-bytes".to_owned(), json!(1));
        at(&mut before, "/source/0").insert("folder".to_owned(), json!("x"));
        check_same(&output, &before, &now).expect("the same");
    }

    #[test]
    fn what_differs_is_named() {
        let difference = |path: &str, key: &str, value: Value| {
            let mut before = portable();
            at(&mut before, path).insert(key.to_owned(), value);
            match check_same(&memory_output(), &before, &portable()) {
                Err(PipelineError::OtherConfig { key, there, here, .. }) => (key, there, here),
                other => panic!("{other:?}"),
            }
        };
        let (key, there, here) = difference("/source/0", "document", json!("line"));
        assert_eq!(
            (key.as_str(), there.as_str(), here.as_str()),
            ("source.0.document", "`\"line\"`", "`\"file\"`")
        );
        // A later program wrote it: who knows what it does.
        let (key, ..) = difference("/split", "unheard-of", json!(1));
        assert_eq!(key, "split.unheard-of");
    }

    fn keys(config: &Value, below: &str, found: &mut BTreeSet<String>) {
        match config {
            Value::Object(table) => {
                table.iter().for_each(|(key, value)| keys(value, &format!("{below}.{key}"), found));
            }
            Value::Array(values) => values.iter().for_each(|value| keys(value, below, found)),
            _ => drop(found.insert(below.trim_start_matches('.').to_owned())),
        }
    }

    /// The configuration stands in the manifest. A key that is new must be left out of it where it has its default
    /// (`skip_serializing_if`), or the same inputs and configuration would give other bytes than before.
    #[test]
    fn a_manifest_has_the_keys_that_it_always_had() {
        let mut found = BTreeSet::new();
        keys(&portable(), "", &mut found);
        let expected = "caption-first-share codec.device codec.latent codec.patch codec.path codec.size compression \
                        context deduplicate packing pictures.background pictures.max-pixels pictures.min-side \
                        pictures.orientation seed shard-bytes source.caption source.captions source.document \
                        source.format source.id source.image source.images source.join.format source.join.on \
                        source.join.uri source.name source.select source.shape source.template source.text \
                        source.texts source.uri source.weight source.where split.validation tokenizer.model \
                        tokenizer.train.sample-bytes tokenizer.train.vocabulary unit-bytes window";
        assert_eq!(found.into_iter().collect::<Vec<_>>().join(" "), expected);
    }
}
