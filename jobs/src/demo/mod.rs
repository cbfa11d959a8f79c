//! `demo`: everything the program does, on a corpus it draws itself.
//!
//! Nothing here is a way around the jobs: pictures are drawn into Parquet files, three config files are written, and
//! the very functions behind `vae train`, `preprocess` and `train` read them. What is left is asked of the model
//! through the trainer's sampler, as `sample` does, many prompts at once, and scored without a model ([`scorer`]).
//! The report is one HTML page ([`report`]).

mod artist;
mod corpus;
mod drawing;
mod estimate;
mod evaluation;
mod packed;
mod progress;
mod recipe;
mod report;
mod scene;
mod scorer;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use schemas::{Order, Row, Tokenizer};
use serde_json::json;
use trainer::checkpoint::{Checkpoint, Which};
use trainer::codec::Codec;
use trainer::config::TrainConfig;
use trainer::device::device;

use self::artist::{Artist, from_planes};
use self::drawing::{Corpus, Subset};
use self::evaluation::{Answers, Questions, ScoreLine};
use self::progress::Growth;
use self::recipe::{Folder, Recipe};
use self::report::{Curve, Report, RowDrawing, Score, Stage, Timeline, duration};
use crate::cli::DemoArgs;
use crate::dataset::{Dataset, row_of};
use crate::draw::{bytes, count, thousands};
use crate::errors::{Outcome, hinted};
use crate::sample::Made;
use crate::session::Session;
use crate::settings::{self, Kind};
use crate::signals::Stop;
use crate::train::Sampling;
use crate::vae::VaeConfig;
use crate::{machine, preprocess, store, train, vae};

/// Marks a folder as a demo's, whose parts a later demo may replace.
const MARK: &str = "demo.json";
/// What a demo writes beside the mark, the report and the scores.
const PARTS: [&str; 6] = ["pictures", "codec", "dataset", "run", "samples", "examples"];
/// Least share of true drawings, in per cent, that a scorer must call right to be believed.
const TRUSTED: f64 = 99.0;
/// The version of Burn, which has no constant for it; a test compares it with the lock file.
const BURN: &str = "0.22.1";

/// Runs the command.
pub(crate) fn run(args: &DemoArgs, session: &Session) -> anyhow::Result<Outcome> {
    let recipe = if args.quick { Recipe::quick(args.seed) } else { Recipe::full(args.seed) };
    let folder = store::local_folder("--output", &args.output)?;
    claim(&folder)?;
    let stop = Stop::listen()?;
    let mut demo = Demo { recipe, folder: Folder(&folder), session, stop: &stop, stages: vec![] };
    demo.announce()?;
    match demo.run() {
        Ok(()) => Ok(Outcome::Done),
        Err(error) => match stop.signal() {
            Some(signal) => {
                session.printer.note(&format!("stopped; what is finished lies in {}", folder.display()));
                Ok(Outcome::Stopped(signal))
            }
            None => Err(error),
        },
    }
}

/// Makes the folder a demo's. One that holds something else is left alone.
fn claim(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder `{shown}`"))?;
    let empty =
        fs::read_dir(folder).with_context(|| format!("cannot read the folder `{shown}`"))?.next().is_none();
    if !empty && !folder.join(MARK).is_file() {
        return Err(hinted(
            anyhow!("`{shown}` holds files that are not of a demo"),
            "give an empty or a new folder with `--output DIR`",
        ));
    }
    for part in PARTS.map(|part| folder.join(part)) {
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("cannot remove `{}`", part.display()))?;
        }
    }
    write(&folder.join(MARK), format!("{}\n", json!({ "program": program() })).as_bytes())
}

/// A demo under way.
struct Demo<'a> {
    recipe: Recipe,
    folder: Folder<'a>,
    session: &'a Session,
    stop: &'a Stop,
    stages: Vec<Stage>,
}

impl Demo<'_> {
    /// Says what will happen and how long it takes here.
    fn announce(&self) -> anyhow::Result<()> {
        let estimate = estimate::estimate(&self.recipe, self.session)?;
        self.session.printer.event(&json!({ "event": "estimate", "seconds": estimate.total() }))?;
        self.note(&format!(
            "a codec, a tokenizer and a model will learn from {} drawn pictures, then draw and describe new ones",
            thousands(self.recipe.pictures)
        ));
        self.note(&format!(
            "this takes about {} here: pictures {}, codec {}, model {}, questions {}",
            duration(estimate.total()),
            duration(estimate.data),
            duration(estimate.codec),
            duration(estimate.train),
            duration(estimate.questions),
        ));
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.check_scorer()?;
        self.write_configs()?;
        self.draw_pictures()?;
        let codec = self.train_codec()?;
        self.pack()?;
        let (row, tokenizer) = self.session.runtime.block_on(self.packed_row(&codec))?;
        let (checkpoint, timeline) = self.train_model()?;
        let (answers, parameters) = self.ask(&codec, &tokenizer, &checkpoint)?;
        let seconds = begin.elapsed().as_secs_f64();
        let scores = answers.scores();
        let report = self.report(&answers, scores.clone(), timeline, row, parameters, seconds)?;
        self.finish(&scores, &report, seconds)
    }

    fn note(&self, line: &str) {
        if self.session.printer.shows_progress() {
            self.session.printer.note(line);
        }
    }

    /// Does a step, and writes down what it did and how long it took.
    fn stage<T>(
        &mut self,
        name: &str,
        command: Option<String>,
        work: impl FnOnce(&Self) -> anyhow::Result<(T, String)>,
    ) -> anyhow::Result<T> {
        if self.stop.signal().is_some() {
            return Err(anyhow!("stopped before `{name}`"));
        }
        if let Some(command) = &command {
            self.note(&format!("{name}: {command}"));
        }
        let begin = Instant::now();
        let (made, what) = work(self)?;
        let seconds = begin.elapsed().as_secs_f64();
        self.note(&format!("{name}: {what}, {}", duration(seconds)));
        self.stages.push(Stage { name: name.to_owned(), what, command, seconds });
        Ok(made)
    }

    fn check_scorer(&mut self) -> anyhow::Result<()> {
        self.stage("scorer", None, |demo| {
            let check = Questions::scorer_check(demo.recipe.seed, demo.recipe.scorer_drawings);
            let percent = check.percent().unwrap_or_default();
            if percent < TRUSTED {
                return Err(anyhow!(
                    "the scorer calls {percent:.1} % of true drawings right, expected {TRUSTED} % or more"
                ));
            }
            Ok((
                (),
                format!(
                    "{} of {} true drawings are called right",
                    thousands(check.right as u64),
                    thousands(check.of as u64)
                ),
            ))
        })
    }

    fn write_configs(&self) -> anyhow::Result<()> {
        let Self { recipe, folder, .. } = self;
        for (name, text) in [
            ("codec.toml", recipe.codec_toml(folder)),
            ("preprocess.toml", recipe.preprocess_toml(folder)),
            ("train.toml", recipe.train_toml(folder)),
        ] {
            write(&folder.0.join(name), text.as_bytes())?;
        }
        Ok(())
    }

    fn draw_pictures(&mut self) -> anyhow::Result<()> {
        self.stage("pictures", None, |demo| {
            let corpus = Corpus { seed: demo.recipe.seed, subset: Subset::Training };
            let size = corpus::write(&corpus, demo.recipe.pictures, &demo.folder.0.join("pictures"))?;
            let examples = Corpus { seed: demo.recipe.seed.wrapping_add(1 << 40), subset: Subset::Pairs };
            fs::create_dir_all(demo.folder.0.join("examples"))
                .context("cannot create the folder of examples")?;
            write(&demo.folder.0.join("examples/pair.png"), &examples.sample(0).picture.png())?;
            Ok(((), format!("{} with captions, {}", count(demo.recipe.pictures, "picture"), bytes(size))))
        })
    }

    fn train_codec(&mut self) -> anyhow::Result<Codec> {
        let config = self.folder.shown("codec.toml");
        self.stage("codec", Some(format!("transfusion vae train {config}")), |demo| {
            let settings: VaeConfig = settings::load(Kind::Vae, &config, &[])?;
            vae::learn(&settings, demo.session, demo.stop)?;
            let codec = Codec::load(&demo.folder.0.join("codec"), &device(&demo.session.device)?)?;
            let kept = Questions::survivors(demo.recipe.seed, demo.recipe.codec_drawings, |picture| {
                artist::through(&codec, picture)
            })?;
            let what = format!(
                "{} parameters, {} of {} pictures; {} of {} drawings are still right after it",
                thousands(codec.weight_bytes() as u64 / 4),
                count(demo.recipe.codec_steps, "step"),
                recipe::CODEC_BATCH,
                kept.right,
                kept.of
            );
            Ok((codec, what))
        })
    }

    fn pack(&mut self) -> anyhow::Result<()> {
        let config = self.folder.shown("preprocess.toml");
        self.stage("dataset", Some(format!("transfusion preprocess {config}")), |demo| {
            let settings = settings::load(Kind::Preprocess, &config, &[])?;
            let all = preprocess::pack(settings, false, demo.session, demo.stop)?.statistics;
            let positions = all.tokens + all.patches + all.padding;
            let what = format!(
                "{} in {} of {}, {:.1} % padding",
                count(all.documents, "document"),
                count(all.rows, "row"),
                recipe::CONTEXT,
                100.0 * all.padding as f64 / positions.max(1) as f64
            );
            Ok(((), what))
        })
    }

    /// The first of the early rows that has both orders, taken apart; and the tokenizer that was trained.
    async fn packed_row(&self, codec: &Codec) -> anyhow::Result<(RowDrawing, Tokenizer)> {
        let place = self.session.stores.place(&self.folder.shown("dataset"))?;
        let dataset = Dataset::open(&place).await?.ok_or_else(|| anyhow!("the dataset has no manifest"))?;
        let (tokenizer, shard) = (dataset.tokenizer().await?, dataset.shard(0).await?);
        let has = |row: &Row, order| row.sources().iter().any(|source| source.order == order);
        let both = |row: &Row| has(row, Order::CaptionFirst) && has(row, Order::ImageFirst);
        let (mut number, mut chosen) = (0, row_of(&shard, 0)?);
        for candidate in 1..20 {
            if chosen.as_ref().is_none_or(&both) {
                break;
            }
            (number, chosen) = (candidate, row_of(&shard, candidate)?);
        }
        let row = chosen.or(row_of(&shard, 0)?).ok_or_else(|| anyhow!("the first shard has no rows"))?;
        let place = format!("{}, row {number}", dataset.manifest.shards[0].path);
        let drawing = packed::row_drawing(&row, shard.metadata(), &tokenizer, place, |latent| {
            let values: Vec<f32> = latent.values.iter().map(|value| value.to_f32()).collect();
            let (height, width) = (usize::from(latent.height), usize::from(latent.width));
            codec.decode(&values, 1, height, width).map(|planes| from_planes(&planes))
        });
        Ok((drawing.context("the codec failed")?, tokenizer))
    }

    fn train_model(&mut self) -> anyhow::Result<(Checkpoint, Timeline)> {
        let config = self.folder.shown("train.toml");
        self.stage("model", Some(format!("transfusion train {config}")), |demo| {
            let settings: TrainConfig = settings::load(Kind::Train, &config, &[])?;
            let plan = train::plan(settings, false, demo.session)?;
            let (described, sampling) = (plan.describe(), Sampling::new(&plan, demo.session)?);
            let folder = demo.folder.0.join("samples");
            let growth = Growth::new(&demo.session.printer, demo.recipe.seed, folder)?;
            let seen = |step, made: &[Made]| growth.add(step, made);
            let ended = train::train(plan, sampling, demo.session, demo.stop, &seen)?;
            if ended.stopped {
                return Err(anyhow!("stopped at step {}", ended.step));
            }
            let what = format!(
                "{} parameters, {} of {} rows ({:.1} epochs)",
                thousands(described.parameters),
                count(described.steps, "step"),
                described.batch,
                described.datasets.first().map_or(0.0, |data| data.epochs)
            );
            let (checkpoint, _) = Checkpoint::open(&ended.checkpoint)?;
            Ok(((checkpoint, growth.finish()?), what))
        })
    }

    fn ask(
        &mut self,
        codec: &Codec,
        tokenizer: &Tokenizer,
        checkpoint: &Checkpoint,
    ) -> anyhow::Result<(Answers, u64)> {
        let questions = Questions::new(self.recipe.seed, self.recipe.seen, self.recipe.held_out);
        let run = self.folder.shown("run");
        let prompt = questions.prompts().first().cloned().unwrap_or_default();
        let command = format!(
            "transfusion sample {run} --prompt \"{prompt}\" --method ddim --steps {} --guidance {}\n\
             transfusion sample {run} --image {} --text",
            recipe::DENOISING,
            recipe::GUIDANCE,
            self.folder.shown("examples/pair.png")
        );
        self.stage("questions", Some(command), |demo| {
            let model = checkpoint.model(Which::Best, &device(&demo.session.device)?)?;
            let objective = checkpoint.config().diffusion.plan()?;
            let artist =
                Artist { model: &model, tokenizer, codec, objective: &objective, seed: demo.recipe.seed };
            let (drawings, captions) =
                (artist.draw(&questions.prompts())?, artist.describe(&questions.pictures())?);
            let what = format!(
                "{} and {}",
                count(drawings.len() as u64, "drawing"),
                count(captions.len() as u64, "caption")
            );
            let parameters = model.plan().parameters().total();
            Ok(((questions.judge(drawings, captions), parameters), what))
        })
    }

    fn report(
        &self,
        answers: &Answers,
        scores: Vec<Score>,
        timeline: Timeline,
        row: RowDrawing,
        parameters: u64,
        seconds: f64,
    ) -> anyhow::Result<String> {
        let report = Report {
            summary: self.summary(parameters, seconds),
            facts: self.facts(),
            scores,
            curves: self.curves()?,
            timeline,
            drawn: answers.drawings(14, 7),
            told: answers.captions(7, 7),
            row,
            stages: self.stages.clone(),
            deviations: recipe::deviations(),
        };
        let path = self.folder.0.join("report.html");
        write(&path, report.html().as_bytes())?;
        Ok(path.display().to_string())
    }

    fn summary(&self, parameters: u64, seconds: f64) -> Vec<String> {
        let (parameters, seconds) = (thousands(parameters), duration(seconds));
        let lead = if self.recipe.is_quick() {
            format!(
                "A quick run: every step once in {seconds}, far too short for the model to learn to draw."
            )
        } else {
            format!("A model of {parameters} parameters learned to draw and to describe shapes in {seconds}.")
        };
        vec![
            lead,
            format!(
                "One transformer reads and writes both: text token by token, pictures as 16 patches that it denoises \
                 together (Transfusion, arXiv 2408.11039). {} captioned pictures were drawn for it; a codec, a \
                 tokenizer and the model were then trained from nothing, by the jobs that work on real corpora.",
                thousands(self.recipe.pictures)
            ),
        ]
    }

    fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: String| (name.to_owned(), value);
        vec![
            fact("program", program()),
            fact("tensors", format!("Burn {BURN}, backend flex, f32")),
            fact(
                "plans and shards",
                format!("DataFusion {}, Arrow {}", datafusion::DATAFUSION_VERSION, arrow::ARROW_VERSION),
            ),
            fact("processor", machine::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned())),
            fact("threads", self.session.threads.to_string()),
            fact("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
            fact("build", if cfg!(debug_assertions) { "dev profile" } else { "release profile" }.to_owned()),
            fact("seed", self.recipe.seed.to_string()),
            fact("folder", self.folder.0.display().to_string()),
        ]
    }

    fn curves(&self) -> anyhow::Result<Vec<Curve>> {
        let run = logged(&self.folder.0.join("run/log.jsonl"), &["text_loss", "image_loss"])?;
        let codec = logged(&self.folder.0.join("codec/log.jsonl"), &["loss"])?;
        let titles =
            [("Text", "nats a token"), ("Image", "weighted squared error"), ("Codec", "L1 + MSE + KL")];
        let points = run.into_iter().chain(codec);
        let curve = |((title, unit), points): ((&str, &str), _)| Curve {
            title: title.into(),
            unit: unit.into(),
            points,
        };
        Ok(titles.into_iter().zip(points).map(curve).collect())
    }

    fn finish(&self, scores: &[Score], report: &str, seconds: f64) -> anyhow::Result<()> {
        let lines: Vec<ScoreLine> = scores.iter().map(ScoreLine::from).collect();
        let document = json!({
            "event": "finished", "seconds": seconds, "scores": lines, "report": report, "seed": self.recipe.seed,
            "steps": self.recipe.steps, "pictures": self.recipe.pictures,
        });
        let text = serde_json::to_string_pretty(&document)?;
        write(&self.folder.0.join("scores.json"), format!("{text}\n").as_bytes())?;
        let printer = &self.session.printer;
        printer.event(&document)?;
        if printer.json() {
            return Ok(());
        }
        scores.iter().for_each(|score| printer.note(&score_line(score)));
        printer.note(&format!("took {}", duration(seconds)));
        printer.data(&format!("{report}\n"))
    }
}

fn score_line(score: &Score) -> String {
    let percent = |tally: report::Tally| {
        tally.percent().map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %"))
    };
    format!(
        "  {:<36} {:>6}   goal {:>3} %, aim {:>3} %, held out {}",
        score.what,
        percent(score.seen),
        score.goal,
        score.aim,
        percent(score.held_out)
    )
}

/// The values of some keys over the steps of a log in JSON lines.
fn logged(path: &Path, keys: &[&str]) -> anyhow::Result<Vec<Vec<(f64, f64)>>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let lines: Vec<serde_json::Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let points = |key: &&str| {
        let point = |line: &serde_json::Value| Some((line["step"].as_f64()?, line[*key].as_f64()?));
        lines.iter().filter_map(point).collect()
    };
    Ok(keys.iter().map(points).collect())
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write `{}`", path.display()))
}

fn program() -> String {
    format!("transfusion {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "all of it").unwrap();
        let error = claim(folder.path()).unwrap_err();
        assert!(error.to_string().contains("not of a demo"), "{error}");
        assert!(!folder.path().join(MARK).exists());
    }

    #[test]
    fn a_demo_replaces_its_own_parts_only() {
        let folder = tempfile::tempdir().unwrap();
        let demo = folder.path().join("demo");
        claim(&demo).unwrap();
        fs::create_dir_all(demo.join("run/checkpoints")).unwrap();
        fs::write(demo.join("notes.txt"), "mine").unwrap();
        claim(&demo).unwrap();
        assert!(!demo.join("run").exists() && demo.join("notes.txt").exists());
    }

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
}
