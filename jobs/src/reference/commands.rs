//! The commands and their flags, from clap.

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, CommandFactory};
use serde::Serialize;

use crate::cli::Cli;

/// A command.
#[derive(Debug, Serialize)]
pub(super) struct Command {
    /// With the program's: `transfusion vae train`.
    pub(super) name: String,
    pub(super) about: String,
    pub(super) usage: String,
    /// Its own arguments and flags; the first command has those of all commands.
    pub(super) arguments: Vec<Argument>,
}

/// An argument or a flag.
#[derive(Debug, Serialize)]
pub(super) struct Argument {
    /// As it is written: `<CONFIG>`, `-q, --quiet`, `--set <KEY=VALUE>`.
    pub(super) written: String,
    pub(super) help: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default: Option<String>,
    /// The values it takes, where they are a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) values: Vec<String>,
    pub(super) repeatable: bool,
}

/// All commands, the program itself first.
pub(super) fn all() -> Vec<Command> {
    let mut program = Cli::command();
    program.build();
    let mut found = Vec::new();
    visit(&mut program, &mut found);
    found
}

fn visit(command: &mut clap::Command, found: &mut Vec<Command>) {
    let is_program = found.is_empty();
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let arguments = command.get_arguments().filter(|arg| is_program || !arg.is_global_set());
    let arguments: Vec<Argument> = arguments.filter(|arg| !is_built_in(arg)).map(argument).collect();
    let about = command.get_about().map(StyledStr::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string().trim_start_matches("Usage: ").to_owned();
    found.push(Command { name, about, usage, arguments });
    command.get_subcommands_mut().for_each(|command| visit(command, found));
}

/// `--help` and `--version` explain themselves.
fn is_built_in(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

fn argument(arg: &Arg) -> Argument {
    let help = arg.get_help().map(StyledStr::to_string).unwrap_or_default();
    let default =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(", ");
    // A default that clap does not know stands in the help.
    let (help, noted) = match help.strip_suffix(']').and_then(|help| help.split_once(" [default: ")) {
        Some((help, default)) => (help.to_owned(), Some(default.to_owned())),
        None => (help, None),
    };
    let help = help.trim_end_matches("; repeatable").to_owned();
    let takes_value = arg.get_action().takes_values();
    let values = if takes_value { arg.get_possible_values() } else { Vec::new() };
    Argument {
        written: written(arg, takes_value),
        help,
        default: Some(default).filter(|default| takes_value && !default.is_empty()).or(noted),
        values: values.iter().map(|value| value.get_name().to_owned()).collect(),
        repeatable: matches!(arg.get_action(), ArgAction::Append | ArgAction::Count),
    }
}

fn written(arg: &Arg, takes_value: bool) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| format!("<{name}>"));
    let value = value.filter(|_| takes_value).unwrap_or_default();
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    let flag = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    match (flag.is_empty(), value.is_empty()) {
        (true, _) => value,
        (false, true) => flag,
        (false, false) if arg.is_require_equals_set() => format!("{flag}[={value}]"),
        (false, false) => format!("{flag} {value}"),
    }
}
