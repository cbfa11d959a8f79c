//! The `transfusion` command line: it reads arguments, configs, environment and clock, hands stores, seeds and
//! observers to the two libraries, and shows what they report.
//!
//! One file a job (`inspect`, `verify`, `preprocess`, `train`, ...), each a list of steps; [`demo`] calls the others.
//! Below them, each floor knowing those before it:
//!
//! | floor | what it is for |
//! | --- | --- |
//! | [`shapes`], [`page`], [`terminal`] | a benchmark, HTML, text for people: nothing of the crate |
//! | [`errors`] | how a command ends |
//! | [`store`], [`settings`], [`signals`], [`machine`] | URIs and credentials, config files, Ctrl-C, the processor |
//! | [`failure`], [`cli`] | how an error reads, the flags |
//! | [`session`] | what every job is handed |
//! | [`dataset`], [`codec`] | opened for any job |

mod cli;
mod codec;
mod completions;
mod dataset;
mod demo;
mod errors;
mod failure;
mod inspect;
mod machine;
mod page;
mod preprocess;
mod reference;
mod sample;
mod session;
mod settings;
mod shapes;
mod signals;
mod store;
mod terminal;
mod train;
mod vae;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, Global};
use crate::errors::Outcome;
use crate::session::Session;
use crate::terminal::{Printer, Style};

fn main() -> ExitCode {
    // Before clap could show one.
    if let Err(error) = store::refuse_in_arguments(std::env::args_os().skip(1)) {
        return failure::report(&Printer::new(Style::default()), &error);
    }
    let cli = Cli::parse();
    let printer = Printer::new(style(&cli.global));
    match run(cli, &printer) {
        Ok(outcome) => outcome.code(),
        Err(error) => failure::report(&printer, &error),
    }
}

fn style(flags: &Global) -> Style {
    Style { json: flags.json, quiet: flags.quiet, verbose: flags.verbose > 0, colour: flags.color }
}

fn run(cli: Cli, printer: &Printer) -> anyhow::Result<Outcome> {
    let session = || Session::new(&cli.global, printer.clone());
    match cli.command {
        Command::Demo(args) => demo::run(&args, &session()?),
        Command::Preprocess(args) => preprocess::run(&args, &session()?),
        Command::Train(args) => train::run(&args, &session()?),
        Command::Vae(command) => vae::run(&command, &session()?),
        Command::Sample(args) => sample::run(&args, &session()?),
        Command::Inspect(args) => inspect::run(&args, &session()?),
        Command::Verify(args) => verify::run(&args, &session()?),
        Command::Reference(args) => reference::run(&args, printer),
        Command::Completions(args) => completions::shell(&args, printer),
        Command::Man(args) => completions::man(&args, printer),
    }
}
