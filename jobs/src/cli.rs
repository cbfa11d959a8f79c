//! The flags, as clap derives them. No logic here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::settings::words::{between, within};
use crate::terminal::When;

/// Train one transformer on text and images: next-token loss on text, diffusion loss on images.
#[derive(Debug, Parser)]
#[command(name = "transfusion", version, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Report on stdout as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Cores to use [default: all]
    #[arg(long, global = true, value_name = "N", value_parser = within::<u16>(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Device that computes [default: the config's, else cpu]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Log more on stderr; twice for debug, three times for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour; NO_COLOR turns it off too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(DemoArgs),
    Preprocess(PreprocessArgs),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    /// The image codec: train one, encode and decode pictures
    #[command(subcommand)]
    Vae(VaeCommand),
    Train(TrainArgs),
    Sample(Box<SampleArgs>),
    Reference(ReferenceArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Draw a corpus, train on it with all the jobs below, and report
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder for all that is made; a stopped demo goes on, the parts of another in it are replaced
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, default_value = "out/demo")]
    pub(crate) output: PathBuf,
    /// Minutes that all of it takes about, 1 to 600: a few steps are timed, and as many done as fill them
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = within::<u32>(1..=600))]
    pub(crate) minutes: u32,
    /// Steps of the model, whatever time they take
    #[arg(long, value_name = "N", conflicts_with_all = ["minutes", "quick"],
          value_parser = within::<u64>(1..=100_000_000))]
    pub(crate) steps: Option<u64>,
    /// Steps of the codec [default: 2250]
    #[arg(long, value_name = "N", requires = "steps", value_parser = within::<u64>(1..=100_000_000))]
    pub(crate) codec_steps: Option<u64>,
    /// Do everything once in under a minute, too short to learn much
    #[arg(long, conflicts_with = "minutes")]
    pub(crate) quick: bool,
    /// Write only `samples/`, a small corpus for the configs that come with the program, where there is none
    #[arg(long, conflicts_with_all = ["output", "minutes", "steps", "quick", "seed"])]
    pub(crate) samples: bool,
    /// Seed of pictures, weights, noise and questions
    #[arg(long, value_name = "SEED", default_value_t = 0, value_parser = within::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,
}

/// Pack raw text and images into shards
#[derive(Debug, Args)]
pub(crate) struct PreprocessArgs {
    /// Config file, or the name of a built-in one
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: String,
    /// Override a key: `context=4096`, `source.pairs.uri=s3://...`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Read a sample and predict rows, tokens, shards, bytes, time and memory; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Run only those refused rows of a finished dataset again that may pass now
    #[arg(long)]
    pub(crate) retry_rejects: bool,
    /// Show the whole plan as DataFusion runs it, write nothing
    #[arg(long)]
    pub(crate) explain: bool,
}

/// What to do with an image codec.
#[derive(Debug, Subcommand)]
pub(crate) enum VaeCommand {
    /// Train a codec on the pictures of sources
    Train(VaeTrainArgs),
    /// Encode a picture as a latent in a .safetensors file
    Encode(VaeCodecArgs),
    /// Decode a latent to a PNG file
    Decode(VaeCodecArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VaeTrainArgs {
    /// Config file, or the name of a built-in one
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: String,
    /// Override a key: `steps=1000`, `source.pairs.uri=s3://...`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VaeCodecArgs {
    /// Folder of the codec
    #[arg(value_name = "CODEC", value_hint = ValueHint::DirPath)]
    pub(crate) codec: String,
    /// File to read
    #[arg(value_name = "IN", value_hint = ValueHint::FilePath)]
    pub(crate) input: String,
    /// File to write
    #[arg(value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Side in pixels that a picture is cropped to [default: what the codec was trained on]
    #[arg(long, value_name = "PIXELS", value_parser = within::<u32>(1..=16_384))]
    pub(crate) size: Option<u32>,
}

/// Train on packed shards
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Config file, or the name of a built-in one
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub(crate) config: String,
    /// Override a key: `steps=1000`, `data.0.weight=2`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Go on from the newest whole checkpoint, if there is one
    #[arg(long)]
    pub(crate) resume: bool,
    /// Show model, memory and data, with --verbose the resolved config too; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Look into a dataset or a shard: schema, statistics, one row drawn, SQL
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Dataset folder or `.arrow` shard: a path, s3://, gs://, az:// or https://
    #[arg(value_name = "URI", value_hint = ValueHint::AnyPath)]
    pub(crate) uri: String,
    /// Draw one row, counted from 0 over the whole dataset
    #[arg(long, value_name = "N", conflicts_with_all = ["sql"], value_parser = within::<u64>(0..=u64::MAX))]
    pub(crate) row: Option<u64>,
    /// Show text as separate tokenizer pieces
    #[arg(long, requires = "row")]
    pub(crate) pieces: bool,
    /// Show all text of a row instead of its beginning and end
    #[arg(long, requires = "row")]
    pub(crate) full: bool,
    /// Tokenizer to decode a lone shard with [default: the dataset's own]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) tokenizer: Option<String>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "sql")]
    pub(crate) html: Option<PathBuf>,
    /// Run a query over the table `rows` (columns tokens, spans, images, sources)
    #[arg(long, value_name = "QUERY")]
    pub(crate) sql: Option<String>,
    /// Show the rows that were refused, all or those of one reason; also of an unfinished dataset
    #[arg(long, value_name = "REASON", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with_all = ["row", "sql", "html"])]
    pub(crate) rejects: Option<String>,
}

/// Check every checksum and every invariant of a dataset, a shard, a run or a checkpoint
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Dataset, `.arrow` shard, run or checkpoint: a path, s3://, gs://, az:// or https://
    #[arg(value_name = "URI", value_hint = ValueHint::AnyPath)]
    pub(crate) uri: String,
}

/// Draw prompts and describe pictures from a checkpoint
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct SampleArgs {
    /// A run (its newest whole checkpoint) or a step folder in it
    #[arg(value_name = "CHECKPOINT", value_hint = ValueHint::DirPath)]
    pub(crate) checkpoint: String,
    /// Text to draw, or with --text to continue; repeatable
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Vec<String>,
    /// File with one prompt a line; empty lines are passed over
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) prompts: Option<String>,
    /// Picture to describe, or to put before each prompt; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) image: Vec<String>,
    /// Write text only, draw nothing
    #[arg(long)]
    pub(crate) text: bool,
    /// Samples a prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within::<u32>(1..=1_000_000))]
    pub(crate) count: u32,
    /// Folder without samples for PNG files and samples.json, a path or s3:// [default: RUN/samples/STEP-1, -2, ...]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<String>,
    /// Denoising steps of a picture
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = within::<u32>(1..=1_000_000))]
    pub(crate) steps: u32,
    /// Weight of classifier-free guidance, 0 to 100; 1 is none
    #[arg(long, value_name = "W", default_value_t = 3.0, value_parser = between(0.0..=100.0))]
    pub(crate) guidance: f64,
    /// How to go from one denoising step to the next
    #[arg(long, value_name = "METHOD", default_value = "ddpm")]
    pub(crate) method: Method,
    /// Temperature of text; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = between(0.0..=1000.0))]
    pub(crate) temperature: f64,
    /// Share of the probability that text is drawn from, above 0 to 1
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = between(0.0..=1.0))]
    pub(crate) top_p: f64,
    /// New tokens at most [default: 256 or what fits a row, 0 behind a drawn picture]
    #[arg(long, value_name = "N", value_parser = within::<u32>(0..=16_777_216))]
    pub(crate) max_tokens: Option<u32>,
    /// Seed of every draw
    #[arg(long, value_name = "SEED", default_value_t = 0, value_parser = within::<u64>(0..=u64::MAX))]
    pub(crate) seed: u64,
    /// Side of the pictures in pixels [default: that of the run's dataset]
    #[arg(long, value_name = "PIXELS", value_parser = within::<u32>(1..=16_384))]
    pub(crate) size: Option<u32>,
    /// Folder of the codec [default: the checkpoint's copy]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) codec: Option<PathBuf>,
    /// Averaged weights where the run keeps them, or the last
    #[arg(long, value_name = "WHICH", default_value = "best")]
    pub(crate) weights: Weights,
}

/// How to go from one denoising step to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    // Ancestral sampling.
    Ddpm,
    // Denoising diffusion implicit models.
    Ddim,
}

impl From<Method> for trainer::sample::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Ddpm => Self::Ddpm,
            Method::Ddim => Self::Ddim,
        }
    }
}

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    // The average where there is one, else the last.
    Best,
    Last,
}

/// Print every key of a config with its default, or every command
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Which config, or the commands; with --json a config's JSON Schema for editors
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: Topic,
}

/// What there is a reference of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Topic {
    Preprocess,
    Train,
    Vae,
    Model,
    Commands,
}

/// Print the completions of a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Print the manual page, or write one page a command
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder to write the pages of all commands to [default: print the main page]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
}
