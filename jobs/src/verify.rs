//! `verify`: every checksum and every invariant of what lies at a URI. Exit 0 if all hold, 1 if something is damaged.

mod dataset;
mod run;

use serde::Serialize;

use crate::cli::VerifyArgs;
use crate::dataset::{is_shard_name, newest_manifest, nothing_at, open_shard};
use crate::errors::Outcome;
use crate::session::Session;
use crate::store::Place;
use crate::terminal::{bytes, count};

/// The dataset that `split.validation` sets aside, inside the other one.
const VALIDATION: &str = "validation";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Damage {
    /// Path of the object, below what was verified.
    pub(crate) object: String,
    /// What was expected, what was found.
    pub(crate) problem: String,
}

/// What was checked, and what is wrong.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// `dataset`, `shard`, `run` or `checkpoint`.
    pub(crate) kind: &'static str,
    pub(crate) uri: String,
    /// Objects read.
    pub(crate) objects: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Rows decoded.
    pub(crate) rows: u64,
    pub(crate) damage: Vec<Damage>,
    /// What is no damage, but worth knowing.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    fn new(kind: &'static str, place: &Place) -> Self {
        Self { kind, uri: place.uri.clone(), ..Self::default() }
    }

    /// Adds the verdict of a part in the folder `name`.
    fn absorb(&mut self, name: &str, part: Self) {
        self.objects += part.objects;
        self.bytes += part.bytes;
        self.rows += part.rows;
        let inside = |damage: Damage| Damage { object: format!("{name}/{}", damage.object), ..damage };
        self.damage.extend(part.damage.into_iter().map(inside));
        self.notes.extend(part.notes.into_iter().map(|note| format!("{name}: {note}")));
    }

    fn damaged(&mut self, object: &str, problem: impl ToString) {
        self.damage.push(Damage { object: object.to_owned(), problem: problem.to_string() });
    }
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs, session: &Session) -> anyhow::Result<Outcome> {
    let place = session.stores.place(&args.uri)?;
    let verdict = session.runtime.block_on(verify(place, session))?;
    report(&verdict, session)?;
    Ok(if verdict.damage.is_empty() { Outcome::Done } else { Outcome::No })
}

async fn verify(place: Place, session: &Session) -> anyhow::Result<Verdict> {
    if is_shard_name(&place.uri) {
        return lone_shard(&place).await;
    }
    match newest_manifest(&place).await? {
        Some(file) => {
            let mut verdict = dataset::verify(&place, file, session).await?;
            let validation = place.join(VALIDATION);
            if let Some(file) = newest_manifest(&validation).await? {
                verdict.absorb(VALIDATION, dataset::verify(&validation, file, session).await?);
            }
            Ok(verdict)
        }
        None if run::is_one(&place) => run::verify(&place),
        None => Err(nothing_at(&place)),
    }
}

async fn lone_shard(place: &Place) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::new("shard", place);
    let content = place.read().await?;
    (verdict.objects, verdict.bytes) = (1, content.len() as u64);
    match open_shard(place, content) {
        Err(error) => verdict.damaged(&place.uri, format!("{:#}", error.root_cause())),
        Ok(shard) => match dataset::tally(&shard) {
            Ok(tally) => verdict.rows = tally.rows,
            Err(error) => verdict.damaged(&place.uri, error),
        },
    }
    verdict
        .notes
        .push("a lone shard has no checksum to compare with: its structure and rows were checked".to_owned());
    Ok(verdict)
}

fn report(verdict: &Verdict, session: &Session) -> anyhow::Result<()> {
    let printer = &session.printer;
    if printer.json() {
        return printer.document(verdict);
    }
    let palette = printer.palette();
    let rows = if verdict.rows > 0 { format!(", {}", count(verdict.rows, "row")) } else { String::new() };
    let looked = format!("{}, {}{rows}", count(verdict.objects, "object"), bytes(verdict.bytes));
    let mut text = String::new();
    for damage in &verdict.damage {
        text.push_str(&format!("{} {}: {}\n", palette.error("damaged"), damage.object, damage.problem));
    }
    verdict.notes.iter().for_each(|note| text.push_str(&format!("{} {note}\n", palette.dim("note"))));
    text.push_str(&match verdict.damage.len() {
        0 => format!("{} {} {}: {looked} checked\n", palette.good("whole"), verdict.kind, verdict.uri),
        n => format!("{} {}: {n} damaged, {looked} checked\n", verdict.kind, verdict.uri),
    });
    printer.data(&text)
}
