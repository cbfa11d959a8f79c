//! `demo`: everything the program does, on a corpus it draws itself.
//!
//! Nothing here is a way around the jobs: pictures are drawn into Parquet files, three config files are written, and the
//! very functions behind `vae train`, `preprocess` and `train` read them. What is left is asked of the model through the
//! trainer's sampler, as `sample` does, many prompts at once, and scored by the benchmark [`crate::shapes`]. The report is
//! one HTML page. How many steps there are follows from the time the demo may have ([`fit`]), or from the flags.
//!
//! May know every other job; no job knows it.

mod corpus;
mod fit;
mod folder;
mod growth;
mod mark;
mod model;
mod recipe;
mod report;
mod row;
mod samples;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use schemas::{Order, Row};
use serde_json::{Value, json};
use trainer::checkpoint::Checkpoint;
use trainer::config::TrainConfig;

use self::fit::{Estimate, Speed};
use self::folder::Folder;
use self::growth::Growth;
use self::mark::{Mark, Stage};
use self::model::Model;
use self::recipe::{CODEC_STEPS, CONTEXT, DENOISING, GUIDANCE, Recipe};
use self::report::Report;
use self::row::PackedRow;
use crate::cli::DemoArgs;
use crate::codec::Codec;
use crate::dataset::{Dataset, row_of};
use crate::errors::Outcome;
use crate::page::Curve;
use crate::sample::Made;
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::shapes::{
    Answers, Corpus, Picture, Questions, SIDE, Score, Subset, milestones, scorer_check, survivors,
};
use crate::signals::Stop;
use crate::terminal::{bytes, count, thousands, time};
use crate::train::Sampling;
use crate::vae::VaeConfig;
use crate::{machine, preprocess, store, train, vae};

/// The version of Burn, which has no constant for it; a test compares it with the lock file.
const BURN: &str = "0.22.1";

/// Runs the command.
pub(crate) fn run(args: &DemoArgs, session: &Session) -> anyhow::Result<Outcome> {
    if args.samples {
        samples::write_new(session)?;
        return Ok(Outcome::Done);
    }
    let path = store::local_folder("--output", &args.output)?;
    let folder = Folder(&path);
    let stop = Stop::listen()?;
    let mark = begin(args, folder, session)?;
    let mut demo = Demo { recipe: mark.recipe, mark, folder, session, stop: &stop };
    match demo.run() {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => match stop.signal() {
            Some(signal) => {
                session.printer.note("stopped; the same command goes on with what is finished");
                Ok(Outcome::Stopped(signal))
            }
            None => Err(error),
        },
    }
}

/// Decides how much is done, or goes on with a demo of the same arguments that was stopped; says either.
fn begin(args: &DemoArgs, folder: Folder<'_>, session: &Session) -> anyhow::Result<Mark> {
    let exact = match (args.quick, args.steps) {
        (true, _) => Some(Recipe::quick(args.seed)),
        (false, Some(steps)) => {
            Some(Recipe::of_steps(args.seed, steps, args.codec_steps.unwrap_or(CODEC_STEPS)))
        }
        (false, None) => None,
    };
    let minutes = exact.is_none().then_some(args.minutes);
    let is_same = |mark: &Mark| match exact {
        Some(recipe) => mark.recipe == recipe,
        None => mark.recipe.seed == args.seed && mark.minutes == minutes,
    };
    let stopped = folder.claim()?.and_then(|mark| Mark::of_stopped(&mark));
    if let Some(mark) = stopped.filter(is_same) {
        let recipe = &mark.recipe;
        let line = format!("goes on with {}: {}", folder.0.display(), recipe.command());
        say(session, &line);
        return Ok(mark);
    }
    let speed = Speed::measure(session)?;
    let recipe = exact.unwrap_or_else(|| speed.fit(args.seed, args.minutes));
    announce(&recipe, minutes, &speed, session)?;
    folder.clear()?;
    let mark = Mark { program: program(), minutes, recipe, stages: vec![], finished: false };
    folder.keep(&mark)?;
    Ok(mark)
}

/// Says what will happen and how long it takes here.
fn announce(recipe: &Recipe, minutes: Option<u32>, speed: &Speed, session: &Session) -> anyhow::Result<()> {
    let estimate @ Estimate { data, codec, model, questions } = speed.estimate(recipe);
    session.printer.event(&json!({
        "event": "estimate", "seconds": estimate.total(), "minutes": minutes, "steps": recipe.steps,
        "codec-steps": recipe.codec_steps, "pictures": recipe.pictures,
    }))?;
    let pictures = count(recipe.pictures, "drawn picture");
    say(session, &format!("a codec, a tokenizer and a model will learn from {pictures}"));
    let fitted =
        minutes.map_or("steps".to_owned(), |minutes| format!("in {}", count(minutes.into(), "minute")));
    let milliseconds = |seconds: f64| (1000.0 * seconds).round();
    say(
        session,
        &format!(
            "{fitted}: {} of the model ({} ms), {} of the codec ({} ms)",
            count(recipe.steps, "step"),
            milliseconds(speed.step),
            thousands(recipe.codec_steps),
            milliseconds(speed.codec_step)
        ),
    );
    say(session, &format!("the same again: {}", recipe.command()));
    let parts = [("data", data), ("codec", codec), ("model", model), ("scores", questions)];
    let parts = parts.map(|(name, seconds)| format!("{name} {}", time(seconds)));
    say(session, &format!("about {}: {}", time(estimate.total()), parts.join(", ")));
    Ok(())
}

fn say(session: &Session, line: &str) {
    if session.printer.shows_progress() {
        session.printer.paragraph(line);
    }
}

/// A demo under way.
struct Demo<'a> {
    recipe: Recipe,
    mark: Mark,
    folder: Folder<'a>,
    session: &'a Session,
    stop: &'a Stop,
}

impl Demo<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        samples::write_beside(self.session);
        self.check_scorer()?;
        self.write_configs()?;
        self.draw_pictures()?;
        self.train_codec()?;
        self.pack()?;
        self.train_model()?;
        let (answers, parameters) = self.ask()?;
        self.report(&answers, parameters)?;
        self.finish(&answers)
    }

    /// Does a step unless it is done, and keeps what it did and how long it took.
    fn stage(
        &mut self,
        name: &str,
        command: Option<String>,
        work: impl FnOnce(&Self) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        if self.mark.stages.iter().any(|stage| stage.name == name) {
            say(self.session, &format!("{name}: done before"));
            return Ok(());
        }
        if self.stop.signal().is_some() {
            return Err(anyhow!("stopped before `{name}`"));
        }
        if self.session.printer.shows_progress() {
            command.iter().for_each(|command| self.session.printer.note(command));
        }
        let begin = Instant::now();
        let what = work(self)?;
        let seconds = begin.elapsed().as_secs_f64();
        say(self.session, &format!("{name}: {what}, {}", time(seconds)));
        self.mark.stages.push(Stage { name: name.to_owned(), what, command, seconds });
        self.folder.keep(&self.mark)
    }

    fn check_scorer(&mut self) -> anyhow::Result<()> {
        self.stage("scorer", None, |demo| {
            let check = scorer_check(demo.recipe.seed, demo.recipe.scorer_drawings)?;
            let (right, of) = (thousands(check.right as u64), thousands(check.of as u64));
            Ok(format!("{right} of {of} true drawings are called right"))
        })
    }

    fn write_configs(&self) -> anyhow::Result<()> {
        let Self { recipe, folder, .. } = self;
        folder.write("codec.toml", recipe.codec_toml(*folder).as_bytes())?;
        folder.write("preprocess.toml", recipe.preprocess_toml(*folder).as_bytes())?;
        folder.write("train.toml", recipe.train_toml(*folder).as_bytes())
    }

    fn draw_pictures(&mut self) -> anyhow::Result<()> {
        self.stage("pictures", None, |demo| {
            let corpus = Corpus { seed: demo.recipe.seed, subset: Subset::Training };
            demo.folder.remove("pictures")?;
            let size = corpus::write(&corpus, demo.recipe.pictures, &demo.folder.0.join("pictures"))?;
            let examples = Corpus { seed: demo.recipe.seed.wrapping_add(1 << 40), subset: Subset::Pairs };
            demo.folder.write("examples/pair.png", &examples.example(0).picture.png())?;
            Ok(format!("{} with captions, {}", count(demo.recipe.pictures, "picture"), bytes(size)))
        })
    }

    fn codec(&self) -> anyhow::Result<Codec> {
        Codec::load(&self.folder.0.join("codec"), self.session)
    }

    fn train_codec(&mut self) -> anyhow::Result<()> {
        let config = self.folder.shown("codec.toml");
        self.stage("codec", Some(format!("transfusion vae train {config}")), |demo| {
            let settings: VaeConfig = settings::load(Kind::Vae, &config, &[])?;
            demo.folder.remove("codec")?;
            vae::learn(&settings, demo.session, demo.stop)?;
            let codec = demo.codec()?;
            let Recipe { seed, codec_drawings, codec_steps, .. } = demo.recipe;
            let kept = survivors(seed, codec_drawings, |picture| model::through(&codec, picture))?;
            Ok(format!(
                "{} parameters, {}; keeps {} of {} drawings",
                thousands(codec.weight_bytes() as u64 / 4),
                count(codec_steps, "step"),
                kept.right,
                kept.of
            ))
        })
    }

    fn pack(&mut self) -> anyhow::Result<()> {
        let config = self.folder.shown("preprocess.toml");
        self.stage("dataset", Some(format!("transfusion preprocess {config}")), |demo| {
            let settings = settings::load(Kind::Preprocess, &config, &[])?;
            let all = preprocess::pack(settings, false, demo.session, demo.stop)?.statistics;
            let positions = all.tokens + all.patches + all.padding;
            Ok(format!(
                "{} in {} of {CONTEXT}, {:.1} % padding",
                count(all.documents, "document"),
                count(all.rows, "row"),
                100.0 * all.padding as f64 / positions.max(1) as f64
            ))
        })
    }

    /// The first of the early rows that has both orders, as HTML, and where it stands.
    async fn packed_row(&self) -> anyhow::Result<(String, String)> {
        let place = self.session.stores.place(&self.folder.shown("dataset"))?;
        let dataset = Dataset::open(&place).await?.ok_or_else(|| anyhow!("the dataset has no manifest"))?;
        let (tokenizer, shard, codec) = (dataset.tokenizer().await?, dataset.shard(0).await?, self.codec()?);
        let has = |row: &Row, order| row.sources().iter().any(|source| source.order == order);
        let both = |row: &Row| has(row, Order::CaptionFirst) && has(row, Order::ImageFirst);
        let early = (0..20).filter_map(|number| Some((number, row_of(&shard, number).ok()??)));
        let early: Vec<(u64, Row)> = early.collect();
        let chosen = early.iter().find(|(_, row)| both(row)).or(early.first());
        let (number, row) = chosen.ok_or_else(|| anyhow!("the first shard has no rows"))?;
        let packed = PackedRow { row, metadata: shard.metadata(), tokenizer: &tokenizer };
        let html = packed.html(|latent| {
            let values: Vec<f32> = latent.values.iter().map(|value| value.to_f32()).collect();
            let decoded = codec.decode_latent(&values, latent.height.into(), latent.width.into())?;
            Ok(Picture::from_bytes(&decoded.rgb))
        })?;
        Ok((format!("{}, row {number}", dataset.manifest.shards[0].path), html))
    }

    fn train_model(&mut self) -> anyhow::Result<()> {
        let config = self.folder.shown("train.toml");
        self.stage("model", Some(format!("transfusion train {config}")), |demo| {
            let settings: TrainConfig = settings::load(Kind::Train, &config, &[])?;
            let plan = train::plan(settings, true, demo.session)?;
            let (described, sampling) = (plan.describe(), Sampling::new(&plan, demo.session)?);
            let growth = Growth::new(&demo.session.printer, demo.recipe.seed, demo.folder);
            let seen = |step, made: &[Made]| growth.add(step, made);
            let ended = train::train(plan, sampling, demo.session, demo.stop, &seen)?;
            if ended.stopped {
                return Err(anyhow!("stopped at step {}", ended.step));
            }
            growth.finish()?;
            Ok(format!(
                "{} parameters, {} of {} rows ({:.1} epochs)",
                thousands(described.parameters),
                count(described.steps, "step"),
                described.batch,
                described.datasets.first().map_or(0.0, |data| data.epochs)
            ))
        })
    }

    /// Asks the model everything; its answers and its parameters.
    fn ask(&mut self) -> anyhow::Result<(Answers, u64)> {
        let Recipe { seed, seen, held_out, .. } = self.recipe;
        let questions = Questions::new(seed, seen, held_out);
        let run = self.folder.shown("run");
        let command = format!(
            "transfusion sample {run} --prompt \"{}\" \\\n  --method ddim --steps {DENOISING} --guidance {GUIDANCE}\n\
             transfusion sample {run} --image {} --text",
            questions.prompts().first().map_or("", String::as_str),
            self.folder.shown("examples/pair.png")
        );
        let mut asked = None;
        // The answers are nowhere on disk.
        self.mark.stages.retain(|stage| stage.name != "questions");
        self.stage("questions", Some(command), |demo| {
            let (checkpoint, _) = Checkpoint::open(&demo.folder.0.join("run"))?;
            let model = Model::open(&checkpoint, seed, demo.session)?;
            let pictures = model.draw(&questions.prompts())?;
            let captions = model.describe(&questions.pictures())?;
            let (drawings, texts) = (pictures.len() as u64, captions.len() as u64);
            asked = Some((questions.judge(pictures, captions), model.parameters()));
            Ok(format!("{} and {}", count(drawings, "drawing"), count(texts, "caption")))
        })?;
        asked.context("the questions are asked in every demo")
    }

    fn report(&self, answers: &Answers, parameters: u64) -> anyhow::Result<()> {
        let Self { recipe, folder, session, .. } = self;
        let report = Report {
            summary: self.summary(parameters),
            facts: self.facts(),
            answers,
            curves: self.curves()?,
            prompts: milestones(recipe.seed).iter().map(|one| one.scene.caption()).collect(),
            moments: growth::moments(&folder.0.join("run/samples"), recipe.seed)?,
            row: session.runtime.block_on(self.packed_row())?,
            stages: &self.mark.stages,
        };
        folder.write("report.html", report.html().as_bytes())
    }

    fn summary(&self, parameters: u64) -> Vec<String> {
        let (parameters, took) = (thousands(parameters), time(self.mark.seconds()));
        let lead = match self.recipe.is_quick() {
            true => {
                format!(
                    "A quick run: every step once in {took}, far too short for the model to learn to draw."
                )
            }
            false => {
                format!(
                    "A model of {parameters} parameters learned to draw and to describe shapes in {took}."
                )
            }
        };
        let fitted = self.mark.minutes.map_or_else(String::new, |minutes| {
            format!(", as many as fill {} on this machine", count(minutes.into(), "minute"))
        });
        vec![
            lead,
            format!(
                "One transformer reads and writes both: text token by token, pictures as 16 patches that it denoises \
                 together (Transfusion, arXiv 2408.11039). {} captioned pictures were drawn for it; a codec, a \
                 tokenizer and the model were then trained from nothing, by the jobs that work on real corpora, in {} \
                 of the codec and {} of the model{fitted}.",
                thousands(self.recipe.pictures),
                count(self.recipe.codec_steps, "step"),
                thousands(self.recipe.steps)
            ),
        ]
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("repeated by", self.recipe.command()),
            ("program", program()),
            ("tensors", format!("Burn {BURN}, backend flex, f32")),
            (
                "plans and shards",
                format!("DataFusion {}, Arrow {}", datafusion::DATAFUSION_VERSION, arrow::ARROW_VERSION),
            ),
            ("processor", machine::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
            ("threads", self.session.threads.to_string()),
            ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
            ("build", if cfg!(debug_assertions) { "dev profile" } else { "release profile" }.to_owned()),
            ("folder", self.folder.0.display().to_string()),
        ]
    }

    fn curves(&self) -> anyhow::Result<Vec<Curve>> {
        let run = logged(&self.folder.0.join("run/log.jsonl"), &["text_loss", "image_loss"])?;
        let codec = logged(&self.folder.0.join("codec/log.jsonl"), &["loss"])?;
        let titles = [
            ("Text", "loss in nats a token"),
            ("Image", "weighted squared error"),
            ("Codec", "L1 + MSE + KL"),
        ];
        let points = run.into_iter().chain(codec);
        let curve = |((title, unit), points): ((&str, &str), _)| Curve {
            title: title.into(),
            unit: unit.into(),
            points,
        };
        Ok(titles.into_iter().zip(points).map(curve).collect())
    }

    fn finish(&mut self, answers: &Answers) -> anyhow::Result<()> {
        let (recipe, scores, seconds) = (self.recipe, answers.scores(), self.mark.seconds());
        let report = self.folder.shown("report.html");
        let document = json!({
            "event": "finished", "seconds": seconds, "scores": scores.iter().map(score_json).collect::<Vec<_>>(),
            "report": report, "seed": recipe.seed, "minutes": self.mark.minutes, "steps": recipe.steps,
            "codec-steps": recipe.codec_steps, "pictures": recipe.pictures, "command": recipe.command(),
        });
        let text = serde_json::to_string_pretty(&document)?;
        self.folder.write("scores.json", format!("{text}\n").as_bytes())?;
        self.mark.finished = true;
        self.folder.keep(&self.mark)?;
        let printer = &self.session.printer;
        printer.event(&document)?;
        if printer.json() {
            return Ok(());
        }
        self.show_pictures(answers);
        scores.iter().for_each(|score| printer.note(&score_line(score)));
        let (steps, took) = (count(recipe.steps, "step"), time(seconds));
        printer.note(&format!("{steps} of the model; all of it took {took}; the report:"));
        printer.data(&format!("{report}\n"))
    }

    /// The first single and the first pair that the model drew, where the terminal has colours.
    fn show_pictures(&self, answers: &Answers) {
        let printer = &self.session.printer;
        let drawings = answers.drawings(1, 0);
        let rows: Vec<Vec<String>> = drawings
            .iter()
            .map(|one| printer.palette_of_notes().pixels(&one.picture.bytes(), SIDE))
            .collect();
        let [single, pair] = &rows[..] else { return };
        single.iter().zip(pair).for_each(|(one, other)| printer.note(&format!("  {one}  {other}")));
        if !single.is_empty() {
            let prompts: Vec<String> =
                drawings.iter().map(|one| format!("{:<1$}", one.prompt, SIDE)).collect();
            printer.note(&format!("  {}", prompts.join("  ").trim_end()));
        }
    }
}

fn score_json(score: &Score) -> Value {
    json!({
        "what": score.what, "right": score.seen, "percent": score.seen.percent(), "held-out": score.held_out,
        "held-out-percent": score.held_out.percent(), "goal": score.goal, "aim": score.aim,
    })
}

fn score_line(score: &Score) -> String {
    let percent = |percent: Option<f64>| percent.map_or("-".to_owned(), |percent| format!("{percent:.0} %"));
    format!(
        "  {:<34} {:>5}  goal {:>2} %, aim {:>2} %, held out {:>5}",
        score.what,
        percent(score.seen.percent()),
        score.goal,
        score.aim,
        percent(score.held_out.percent())
    )
}

/// The values of some keys over the steps of a log in JSON lines.
fn logged(path: &Path, keys: &[&str]) -> anyhow::Result<Vec<Vec<(f64, f64)>>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let points = |key: &&str| {
        let point = |line: &Value| Some((line["step"].as_f64()?, line[*key].as_f64()?));
        lines.iter().filter_map(point).collect()
    };
    Ok(keys.iter().map(points).collect())
}

fn program() -> String {
    format!("transfusion {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_the_version_of_burn_that_is_locked() {
        let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        assert!(lock.contains(&format!("name = \"burn\"\nversion = \"{BURN}\"\n")), "burn is not {BURN}");
    }

    #[test]
    fn logs_become_points() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(
            &path,
            "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"loss\":1.5}\n",
        )
        .unwrap();
        assert_eq!(logged(&path, &["loss"]).unwrap(), [vec![(1.0, 2.5), (3.0, 1.5)]]);
    }

    #[test]
    fn scores_fit_a_narrow_terminal() {
        let questions = Questions::new(0, 3, 2);
        let (pictures, prompts) = (questions.pictures(), questions.prompts());
        for score in questions.judge(pictures, prompts).scores() {
            assert!(score_line(&score).len() <= 80, "{}", score_line(&score));
        }
    }
}
