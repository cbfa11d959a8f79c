//! The folder of a command's samples: PNG files and `samples.json`, on disk or in a store.
//!
//! The folder is claimed before anything is computed: `samples.json` is made in it, and where there is one already the
//! command is refused, so that no sample is ever overwritten. Each picture is written when it is done. The list is
//! written again whenever it has grown by an eighth, and at the end.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use trainer::checkpoint::Checkpoint;
use trainer::sample::{End, SampleConfig};

use super::sampler::{Ask, Made, Piece};
use crate::cli::SampleArgs;
use crate::codec::png;
use crate::errors::hinted;
use crate::session::Session;
use crate::store::Place;
use crate::terminal::{NARROW, visible, wrap};

const LIST: &str = "samples.json";
/// Bytes that are written and removed to see whether there is room for a beginning.
const PROBE: usize = 1 << 20;

/// A claimed folder.
pub(super) struct Output<'a> {
    place: Place,
    session: &'a Session,
    /// Whether the folder was made by [`Self::claim`].
    is_new: bool,
    /// Checkpoint, step, settings.
    head: Value,
    entries: Vec<Value>,
    /// Entries in the list as it stands in the folder.
    listed: usize,
}

impl<'a> Output<'a> {
    /// Claims the folder of `--output`; without it, a fresh folder of the checkpoint's run.
    ///
    /// # Errors
    ///
    /// If it can't be written to, or holds samples already.
    pub(super) fn claim(
        args: &SampleArgs,
        checkpoint: &Checkpoint,
        settings: &SampleConfig,
        session: &'a Session,
    ) -> anyhow::Result<Self> {
        let (place, is_new) = match &args.output {
            Some(uri) => given(uri, session)?,
            None => (fresh(&args.checkpoint, checkpoint, session)?, true),
        };
        let head = json!({
            "checkpoint": checkpoint.folder(), "step": checkpoint.state().step, "output": place.uri,
            "settings": settings,
        });
        let output = Self { place, session, is_new, head, entries: Vec::new(), listed: 0 };
        output.begin().with_context(|| format!("cannot write samples to `{}`", output.place.uri))?;
        Ok(output)
    }

    fn begin(&self) -> anyhow::Result<()> {
        let (list, bytes) = (self.place.join(LIST), self.list(0)?);
        let made = match &list.local {
            Some(path) => create(path, &bytes),
            None => self.session.runtime.block_on(list.create(bytes.into())),
        };
        made.inspect_err(|_| self.remove_folder())?;
        let Some(folder) = &self.place.local else { return Ok(()) };
        let probe = folder.join(".probe");
        let room = fs::write(&probe, vec![0x55; PROBE]);
        // What matters is whether the bytes went to the disk.
        let _ = fs::remove_file(&probe);
        room.inspect_err(|_| self.leave())?;
        Ok(())
    }

    /// Samples written.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Its address.
    pub(super) fn uri(&self) -> &str {
        &self.place.uri
    }

    /// Writes a sample's pictures and puts it on the list.
    ///
    /// # Errors
    ///
    /// If the disk or the store refuses.
    pub(super) fn add(&mut self, ask: &Ask, made: &Made) -> anyhow::Result<()> {
        let number = self.entries.len();
        let mut names = Vec::new();
        for piece in &made.pieces {
            if let Piece::Picture(picture) = piece {
                let name = format!("{number:04}-{}.png", names.len());
                let place = self.place.join(&name);
                self.session.runtime.block_on(place.write(png(picture)?.into()))?;
                names.push(name);
            }
        }
        let entry = entry(ask, made, &names);
        if !self.session.printer.json() {
            self.session.printer.data(&lines(
                &entry,
                &self.place,
                self.session.printer.width().min(NARROW),
            ))?;
        }
        self.entries.push(entry);
        if self.entries.len() - self.listed > self.listed / 8 {
            self.write_list(None)?;
        }
        Ok(())
    }

    /// Writes the list a last time and gives it; `asked` are the samples that were asked for. Where nothing was drawn,
    /// nothing is left.
    ///
    /// # Errors
    ///
    /// If the disk or the store refuses.
    pub(super) fn finish(mut self, asked: usize) -> anyhow::Result<Value> {
        if self.entries.is_empty() {
            self.leave();
        } else {
            self.write_list(Some(asked))?;
        }
        Ok(self.document(asked))
    }

    fn document(&self, asked: usize) -> Value {
        let mut document = self.head.clone();
        document["asked"] = json!(asked);
        document["samples"] = json!(self.entries);
        document
    }

    fn list(&self, asked: usize) -> anyhow::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&self.document(asked))?)
    }

    fn write_list(&mut self, asked: Option<usize>) -> anyhow::Result<()> {
        let bytes = self.list(asked.unwrap_or_default())?;
        self.session.runtime.block_on(self.place.join(LIST).write(bytes.into()))?;
        self.listed = self.entries.len();
        Ok(())
    }

    /// Removes a list of nothing, and the folder if it was made for it.
    fn leave(&self) {
        match &self.place.local {
            // A leftover list of nothing harms nobody.
            Some(folder) => drop(fs::remove_file(folder.join(LIST))),
            None => self.session.runtime.block_on(self.place.join(LIST).remove()),
        }
        self.remove_folder();
    }

    /// Removes the folder if it was made for this command and is empty.
    fn remove_folder(&self) {
        if let Some(folder) = self.place.local.as_ref().filter(|_| self.is_new) {
            // A leftover folder of nothing harms nobody.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The folder that the caller names, and whether it is new.
fn given(uri: &str, session: &Session) -> anyhow::Result<(Place, bool)> {
    let place = session.stores.place(uri)?;
    let held = match &place.local {
        Some(folder) => {
            let is_new = !folder.exists();
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder `{uri}`"))?;
            if !holds_samples(folder).with_context(|| format!("cannot read the folder `{uri}`"))? {
                return Ok((place, is_new));
            }
            true
        }
        None => session.runtime.block_on(place.join(LIST).read_if_there())?.is_some(),
    };
    match held {
        true => Err(hinted(
            anyhow!("`{uri}` holds samples already, and none is overwritten"),
            "give another folder with `--output`; without it, each command gets a fresh one",
        )),
        false => Ok((place, false)),
    }
}

fn holds_samples(folder: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let is_picture = name.strip_suffix(".png").and_then(|stem| stem.split_once('-')).is_some_and(
            |(sample, picture)| [sample, picture].iter().all(|part| part.parse::<u64>().is_ok()),
        );
        if name == LIST || is_picture {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `samples/step-00000200-1` in the run of the checkpoint, or the first number behind it that is free. A checkpoint
/// outside a run, `given` by itself, has its samples in the current folder.
fn fresh(given: &str, checkpoint: &Checkpoint, session: &Session) -> anyhow::Result<Place> {
    let (given, parent) = (Path::new(given), checkpoint.folder().parent());
    let around = parent.filter(|parent| parent.ends_with("checkpoints")).and_then(Path::parent);
    let run = if given.join("checkpoints").is_dir() { Some(given) } else { around };
    let samples = run.unwrap_or(Path::new("")).join("samples");
    let refused = |path: &Path| {
        let shown = path.display().to_string();
        move |error| {
            let error = anyhow::Error::new(error).context(format!("cannot make the folder `{shown}`"));
            hinted(error, "give a folder that can be written to with `--output DIR`")
        }
    };
    fs::create_dir_all(&samples).map_err(refused(&samples))?;
    for number in 1.. {
        let folder: PathBuf = samples.join(format!("step-{:08}-{number}", checkpoint.state().step));
        match fs::create_dir(&folder) {
            Ok(()) => {
                let shown = folder.to_str().ok_or_else(|| {
                    hinted(anyhow!("the run's path is not UTF-8"), "give a folder with `--output DIR`")
                })?;
                return session.stores.place(shown);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused(&folder)(error)),
        }
    }
    unreachable!("some number is free")
}

/// Makes a file that is not there yet.
fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = fs::File::create_new(path)?;
    file.write_all(bytes).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    })?;
    Ok(())
}

/// What is said of a sample in JSON; `names` are the files of its pictures.
pub(crate) fn entry(ask: &Ask, made: &Made, names: &[String]) -> Value {
    let mut names = names.iter();
    let part = |piece: &Piece| match piece {
        Piece::Text(text) => json!({ "text": text }),
        Piece::Picture(_) => json!({ "image": names.next() }),
    };
    let parts: Vec<Value> = made.pieces.iter().map(part).collect();
    let end = match made.end {
        End::Document => "document",
        End::Tokens => "limit",
    };
    json!({ "prompt": ask.text, "image": ask.image, "parts": parts, "end": end })
}

/// A sample for a terminal of `width` columns.
fn lines(entry: &Value, place: &Place, width: usize) -> String {
    let given = [entry["image"].as_str(), entry["prompt"].as_str()].into_iter().flatten();
    let given = given.map(visible).collect::<Vec<_>>().join(" + ");
    let given = if given.is_empty() { "(from nothing)".to_owned() } else { given };
    let mut text = format!("{}\n", wrap(&given, width).join("\n"));
    for part in entry["parts"].as_array().into_iter().flatten() {
        match (part["text"].as_str(), part["image"].as_str()) {
            (Some(written), _) => {
                for line in wrap(&visible(written.trim()), width - 2) {
                    text.push_str(&format!("  {line}\n"));
                }
            }
            (_, Some(name)) => text.push_str(&format!("  {}\n", place.join(name).uri)),
            _ => {}
        }
    }
    if entry["parts"].as_array().is_some_and(Vec::is_empty) {
        text.push_str("  (nothing)\n");
    }
    text
}
