//! What makes a dataset this one: the configuration without what its bytes don't depend on.
//!
//! `job.json` is put create-only before anything else. A second configuration on the same output is refused, with the
//! first key that differs.

use schemas::{FORMAT_VERSION, Tokenizer, content_hash};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commit::Location;
use crate::config::PreprocessConfig;
use crate::error::PipelineError;
use crate::plan::Environment;
use crate::source::SourcePlan;

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
