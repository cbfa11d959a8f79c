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
use crate::printer::Printer;
use crate::settings::{self, Kind};

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
