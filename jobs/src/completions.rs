//! `completions` and `man`: generated from the flags, never written by hand.

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::errors::Outcome;
use crate::store;
use crate::terminal::Printer;

/// Prints the completions of a shell.
pub(crate) fn shell(args: &CompletionsArgs, printer: &Printer) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "transfusion", &mut script);
    printer.data(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}

/// Prints the main page, or writes the pages of all commands.
pub(crate) fn man(args: &ManArgs, printer: &Printer) -> anyhow::Result<Outcome> {
    match &args.output {
        Some(folder) => {
            let folder = store::local_folder("--output", folder)?;
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
                .with_context(|| format!("cannot write manual pages to `{}`", folder.display()))?;
            printer.note(&format!("manual pages: {}", folder.display()));
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            printer.data(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Outcome::Done)
}
