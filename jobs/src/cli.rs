//! The flags, as clap derives them. No logic here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

/// Train one transformer on text and images: next-token loss on text, diffusion loss on images.
#[derive(Debug, Parser)]
#[command(name = "transfusion", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Report on stdout as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Cores to use [default: all]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Device that computes
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Log more on stderr; twice for debug, three times for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colour; NO_COLOR turns it off too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// In a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Look into a dataset or a shard: schema, statistics, one row drawn, SQL
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Dataset folder or `.arrow` shard: a path, s3://, gs://, az:// or https://
    #[arg(value_name = "URI", value_hint = ValueHint::AnyPath)]
    pub(crate) uri: String,
    /// Draw one row, counted from 0 over the whole dataset
    #[arg(long, value_name = "N", conflicts_with_all = ["sql"])]
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
}

/// Check every checksum and every invariant of a dataset, a shard, a run or a checkpoint
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Dataset, `.arrow` shard, run or checkpoint: a path, s3://, gs://, az:// or https://
    #[arg(value_name = "URI", value_hint = ValueHint::AnyPath)]
    pub(crate) uri: String,
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
