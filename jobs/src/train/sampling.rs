//! `[sample]` of a run: the same prompts with the same noise, drawn at intervals, so that one sees them grow.
//!
//! ```text
//! RUN/samples/step-00000200/
//!   00-a-red-circle.png     the first prompt; what a model of text alone wrote is 00-....txt
//!   samples.json            prompts, texts and names of pictures
//! ```
//!
//! A folder is written beside its place and renamed, so that it is whole under its name. Nothing here touches what is
//! learned. A run that goes on from a checkpoint removes the folders of later steps: those steps are made again.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use trainer::model::Transfusion;
use trainer::run::TrainPlan;
use trainer::sample::{Progress as Pass, SampleConfig};

use crate::codec::png;
use crate::errors::hinted;
use crate::sample::{Ask, Goal, Made, Piece, Sampler, entry};
use crate::session::Session;

/// Letters of a prompt in a file's name.
const SLUG: usize = 40;

/// The prompts of a run.
pub(crate) struct Sampling {
    sampler: Sampler,
    asks: Vec<Ask>,
    settings: SampleConfig,
    folder: PathBuf,
}

/// What was made of all prompts at a step.
pub(crate) struct Sampled {
    /// Where it lies.
    pub(crate) folder: PathBuf,
    /// One a prompt.
    pub(crate) made: Vec<Made>,
    /// The same as JSON.
    pub(crate) entries: Vec<Value>,
}

impl Sampling {
    /// The `[sample]` table, checked against the model; `None` where `sample.every` is 0.
    ///
    /// # Errors
    ///
    /// A setting or a prompt that can't be sampled, or a codec that is missing.
    pub(crate) fn new(plan: &TrainPlan, session: &Session) -> anyhow::Result<Option<Self>> {
        let (config, table) = (plan.config(), &plan.config().sample);
        if table.every == 0 {
            return Ok(None);
        }
        if let Some(empty) = table.prompts.iter().position(|prompt| prompt.trim().is_empty()) {
            return Err(hinted(
                anyhow!("`sample.prompts.{empty}` is empty"),
                "leave `prompts` out for a document from nothing",
            ));
        }
        let settings = table.settings(config.seed);
        let sampler = Sampler::of_plan(plan, session)?;
        sampler.plan(&settings)?;
        let (draw, tokens) = (sampler.knows_images() && !table.prompts.is_empty(), table.max_tokens);
        let tokens = if draw { tokens.or(Some(0)) } else { tokens };
        let goal = Goal { draw, tokens, images: usize::from(sampler.knows_images()) };
        let ask = |text: Option<&str>| sampler.ask(text, None, goal);
        let asks: anyhow::Result<Vec<Ask>> = match table.prompts.is_empty() {
            true => ask(None).map(|ask| vec![ask]),
            false => table.prompts.iter().map(|prompt| ask(Some(prompt.as_str()))).collect(),
        };
        let asks = asks.context("cannot sample what `[sample]` asks for")?;
        let settings = SampleConfig { max_images: goal.images, ..settings };
        Ok(Some(Self { sampler, asks, settings, folder: folder_of(&config.run) }))
    }

    /// Draws the prompts with the model of `step`; `None` if that was done before, or `observe` breaks off.
    ///
    /// # Errors
    ///
    /// If the model's numbers are not finite, or the disk refuses.
    pub(crate) fn draw(
        &self,
        step: u64,
        model: &Transfusion,
        observe: &mut dyn FnMut(Pass) -> ControlFlow<()>,
    ) -> anyhow::Result<Option<Sampled>> {
        let folder = self.folder.join(name_of(step));
        if folder.exists() {
            return Ok(None);
        }
        let mut made = Vec::with_capacity(self.asks.len());
        for asks in self.asks.chunks(self.sampler.beside(self.settings.max_images)?) {
            let asks: Vec<&Ask> = asks.iter().collect();
            let first = made.len() as u64;
            match self.sampler.continued(model, &asks, first, &self.settings, observe)? {
                Some(more) => made.extend(more),
                None => return Ok(None),
            }
        }
        let entries = self.write(step, &folder, &made)?;
        Ok(Some(Sampled { folder, made, entries }))
    }

    fn write(&self, step: u64, folder: &Path, made: &[Made]) -> anyhow::Result<Vec<Value>> {
        let partial = self.folder.join(format!(".{}.partial", name_of(step)));
        let written = remove(&partial).and_then(|()| self.write_files(step, &partial, made));
        let written = written.and_then(|entries| {
            fs::rename(&partial, folder)
                .with_context(|| format!("cannot write `{}`", folder.display()))
                .map(|()| entries)
        });
        written.inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&partial);
        })
    }

    fn write_files(&self, step: u64, folder: &Path, made: &[Made]) -> anyhow::Result<Vec<Value>> {
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let mut entries = Vec::with_capacity(made.len());
        for (number, (ask, made)) in self.asks.iter().zip(made).enumerate() {
            let stem = stem(number, ask.text.as_deref());
            let (mut pictures, mut text) = (Vec::new(), String::new());
            for piece in &made.pieces {
                match piece {
                    Piece::Text(written) => text.push_str(written),
                    Piece::Picture(picture) => {
                        let behind =
                            if pictures.is_empty() { String::new() } else { format!("-{}", pictures.len()) };
                        let name = format!("{stem}{behind}.png");
                        put(&name, &png(picture)?)?;
                        pictures.push(name);
                    }
                }
            }
            if !text.is_empty() || pictures.is_empty() {
                put(&format!("{stem}.txt"), format!("{text}\n").as_bytes())?;
            }
            entries.push(entry(ask, made, &pictures));
        }
        let list = json!({ "step": step, "settings": self.settings, "samples": entries });
        put("samples.json", &serde_json::to_vec_pretty(&list)?)?;
        Ok(entries)
    }
}

/// The folder of a run's samples.
pub(crate) fn folder_of(run: &Path) -> PathBuf {
    run.join("samples")
}

/// Removes what a run drew behind `step`, and what it left half written. Other entries are left alone.
///
/// # Errors
///
/// If the disk refuses.
pub(crate) fn cut(run: &Path, step: u64) -> anyhow::Result<()> {
    let folder = folder_of(run);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read `{}`", folder.display()))?,
    };
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read `{}`", folder.display()))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let partial = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial"));
        let is_later = step_of(name).is_some_and(|drawn| drawn > step);
        if is_later || partial.and_then(step_of).is_some() {
            remove(&folder.join(name))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step of a folder that [`name_of`] named.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (name_of(step) == name).then_some(step)
}

/// `00-a-red-circle`.
fn stem(number: usize, text: Option<&str>) -> String {
    let letters = text.unwrap_or_default().chars();
    let plain: String = letters
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { ' ' })
        .collect();
    let mut stem = format!("{number:02}");
    for word in plain.split_whitespace() {
        if stem.len() + word.len() > SLUG {
            break;
        }
        stem.push('-');
        stem.push_str(word);
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_their_prompts() {
        assert_eq!(
            stem(0, Some("A red circle, left of a *blue* square")),
            "00-a-red-circle-left-of-a-blue-square"
        );
        assert_eq!(stem(7, Some("../../etc/passwd \u{202e}ü")), "07-etc-passwd");
        assert_eq!(stem(12, Some("日本語")), "12");
        assert_eq!(stem(0, None), "00");
        assert!(stem(123, Some(&"word ".repeat(99))).len() <= SLUG + 1);
    }

    #[test]
    fn later_samples_are_cut_and_nothing_else() {
        let run = tempfile::tempdir().unwrap();
        let folder = folder_of(run.path());
        let names = ["step-00000010", "step-00000020", "step-00000030", "step-00000030-1", "step-30", "mine"];
        for name in names.iter().chain(&[".step-00000010.partial"]) {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("samples.json"), "{}").unwrap();
        }
        cut(run.path(), 20).unwrap();
        let mut left: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["mine", "step-00000010", "step-00000020", "step-00000030-1", "step-30"]);
        cut(&run.path().join("no run"), 0).unwrap();
    }
}
