//! The `transfusion` command line: it reads arguments, configs, environment and clock, hands stores, seeds and
//! observers to the two libraries, and shows what they report.
//!
//! One file a job (`inspect`, `verify`, `preprocess`, `train`, ...), each a list of steps. Around them stand
//! [`cli`] (flags), [`settings`] (config files and `--set`), [`store`] (URIs and credentials), [`printer`] (the only
//! place that prints), [`errors`] (how a failure reads) and [`signals`].

mod cli;
mod codec;
mod completions;
mod dataset;
mod demo;
mod draw;
mod errors;
mod inspect;
mod machine;
mod preprocess;
mod printer;
mod progress;
mod reference;
mod sample;
mod session;
mod settings;
mod signals;
mod store;
mod train;
mod vae;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::session::Session;

fn main() -> ExitCode {
    // Before clap could show one.
    if let Err(error) = store::refuse_in_arguments(std::env::args_os().skip(1)) {
        return errors::report(&Printer::new(&cli::Global::default()), &error);
    }
    let cli = Cli::parse();
    let printer = Printer::new(&cli.global);
    match run(cli, &printer) {
        Ok(outcome) => outcome.code(),
        Err(error) => errors::report(&printer, &error),
    }
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
