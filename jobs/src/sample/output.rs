//! PNG files, `samples.json`, and what is shown of both.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};
use trainer::sample::{End, LatentImage, Part, Sample};

use super::Sampler;
use super::request::Ask;
use crate::codec::save_picture;
use crate::draw::{count, visible};
use crate::session::Session;

/// Writes everything below `folder` and reports it.
pub(super) fn write(
    folder: &Path,
    sampler: &Sampler,
    asks: &[Ask],
    samples: &[Sample],
    session: &Session,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    let mut entries = Vec::new();
    for (number, (ask, sample)) in asks.iter().zip(samples).enumerate() {
        entries.push(entry(folder, number, ask, sample, sampler)?);
    }
    let document = json!({
        "checkpoint": sampler.checkpoint.folder(),
        "step": sampler.checkpoint.state().step,
        "output": folder,
        "settings": sampler.config,
        "samples": entries,
    });
    let path = folder.join("samples.json");
    fs::write(&path, serde_json::to_vec_pretty(&document)?)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    let printer = &session.printer;
    if printer.json() {
        return printer.document(&document);
    }
    entries.iter().try_for_each(|entry| printer.data(&lines(entry, folder)))?;
    printer.note(&format!("{} in {}", count(entries.len() as u64, "sample"), path.display()));
    Ok(())
}

fn entry(
    folder: &Path,
    number: usize,
    ask: &Ask,
    sample: &Sample,
    sampler: &Sampler,
) -> anyhow::Result<Value> {
    let mut parts = Vec::new();
    let mut pictures = 0;
    for part in &sample.parts {
        match part {
            Part::Text(ids) if ids.is_empty() => {}
            Part::Text(ids) => parts.push(json!({ "text": sampler.tokenizer.decode(ids) })),
            Part::Image(latent) => {
                let name = format!("{number:04}-{pictures}.png");
                pictures += 1;
                save(&folder.join(&name), latent, sampler)?;
                parts.push(json!({ "image": name }));
            }
        }
    }
    let end = match sample.end {
        End::Document => "document",
        End::Tokens => "limit",
    };
    Ok(json!({ "prompt": ask.text, "image": ask.image, "parts": parts, "end": end }))
}

fn save(path: &Path, latent: &LatentImage, sampler: &Sampler) -> anyhow::Result<()> {
    let picture = sampler.codec()?.decode_latent(&latent.values, latent.size.height, latent.size.width)?;
    save_picture(path, &picture)
}

fn lines(entry: &Value, folder: &Path) -> String {
    let given = [entry["image"].as_str(), entry["prompt"].as_str()].into_iter().flatten();
    let given = given.map(visible).collect::<Vec<_>>().join(" + ");
    let mut text = if given.is_empty() { "(from nothing)\n".to_owned() } else { format!("{given}\n") };
    for part in entry["parts"].as_array().into_iter().flatten() {
        match (part["text"].as_str(), part["image"].as_str()) {
            (Some(written), _) => text.push_str(&format!("  {}\n", visible(written.trim()))),
            (_, Some(name)) => text.push_str(&format!("  {}\n", folder.join(name).display())),
            _ => {}
        }
    }
    if entry["parts"].as_array().is_some_and(Vec::is_empty) {
        text.push_str("  (nothing)\n");
    }
    text
}
