//! The only place that prints: stdout is data, stderr is for people. Lines for people and events of a job pass
//! [`without_secrets`]; the content of a dataset is printed as it is.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressDrawTarget};
use schemas::address::without_secrets;
use serde::Serialize;

use super::palette::Palette;
use super::text::folded;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    // In a terminal.
    #[default]
    Auto,
    Always,
    Never,
}

/// How much is printed, and how.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    /// Data and events as JSON.
    pub(crate) json: bool,
    /// Errors only.
    pub(crate) quiet: bool,
    /// The log stands between the lines, so no bar moves in place.
    pub(crate) verbose: bool,
    /// When to use colour.
    pub(crate) colour: When,
}

/// What may be printed where. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    settings: Arc<Settings>,
    bars: MultiProgress,
}

#[derive(Debug)]
struct Settings {
    json: bool,
    quiet: bool,
    /// Colour on stdout.
    colour_out: bool,
    /// Colour on stderr.
    colour_err: bool,
    /// Bars move in place; otherwise progress is a line now and then.
    live: bool,
    width: usize,
}

impl Printer {
    /// By a style, `NO_COLOR` and what stdout and stderr are.
    pub(crate) fn new(style: Style) -> Self {
        let colour = |terminal: bool| match style.colour {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let live = io::stderr().is_terminal() && !style.quiet && !style.json && !style.verbose;
        let target = if live { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let settings = Settings {
            json: style.json,
            quiet: style.quiet,
            colour_out: colour(io::stdout().is_terminal()),
            colour_err: colour(io::stderr().is_terminal()),
            live,
            width: terminal_width(),
        };
        Self { settings: Arc::new(settings), bars: MultiProgress::with_draw_target(target) }
    }

    /// Whether stdout carries JSON.
    pub(crate) fn json(&self) -> bool {
        self.settings.json
    }

    /// Whether progress lines are wanted on stderr.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.settings.quiet && !self.settings.json
    }

    /// Whether bars can move in place on stderr.
    pub(crate) fn live(&self) -> bool {
        self.settings.live
    }

    /// The place of all progress bars.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Columns of the terminal: those that `COLUMNS` names, else those of stdout or stderr, 80 where neither is one.
    pub(crate) fn width(&self) -> usize {
        self.settings.width
    }

    /// Colours of stdout.
    pub(crate) fn palette(&self) -> Palette {
        Palette::new(self.settings.colour_out)
    }

    /// Colours of stderr.
    pub(crate) fn palette_of_notes(&self) -> Palette {
        Palette::new(self.settings.colour_err)
    }

    /// Text to stdout.
    pub(crate) fn data(&self, text: &str) -> anyhow::Result<()> {
        self.bars.suspend(|| write_all(&mut io::stdout().lock(), text)).context("cannot write to stdout")
    }

    /// One JSON document to stdout, for a command whose whole answer it is.
    pub(crate) fn document(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.data(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// One JSON event a line on stdout, with `--json` only.
    pub(crate) fn event(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if !self.settings.json {
            return Ok(());
        }
        self.data(&format!("{}\n", without_secrets(&serde_json::to_string(value)?)))
    }

    /// A line for people.
    pub(crate) fn note(&self, line: &str) {
        if !self.settings.quiet {
            self.say(line);
        }
    }

    /// A sentence for people, broken at spaces where it is longer than the narrowest terminal.
    pub(crate) fn paragraph(&self, line: &str) {
        folded(line).iter().for_each(|line| self.note(line));
    }

    /// A warning for people.
    pub(crate) fn warn(&self, line: &str) {
        let label = Palette::new(self.settings.colour_err).warning("warning:");
        self.note(&format!("{label} {line}"));
    }

    /// An error: what failed and its causes, then what to do.
    pub(crate) fn error(&self, lines: &[String], hints: &[String]) {
        let palette = Palette::new(self.settings.colour_err);
        for (index, line) in lines.iter().enumerate() {
            match index {
                0 => self.say(&format!("{} {line}", palette.error("error:"))),
                _ => self.say(&format!("  caused by: {line}")),
            }
        }
        hints.iter().for_each(|hint| self.say(&format!("{} {hint}", palette.hint("hint:"))));
    }

    fn say(&self, line: &str) {
        // A closed stderr is no reason to fail: nobody is there to read it.
        let line = format!("{}\n", without_secrets(line));
        let _ = self.bars.suspend(|| write_all(&mut io::stderr().lock(), &line));
    }
}

fn write_all(output: &mut impl Write, text: &str) -> io::Result<()> {
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn terminal_width() -> usize {
    let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
    let measured = || {
        terminal_size::terminal_size_of(io::stdout())
            .or_else(|| terminal_size::terminal_size_of(io::stderr()))
    };
    let columns = named.or_else(|| measured().map(|(width, _)| usize::from(width.0)));
    columns.unwrap_or(80).clamp(40, 160)
}
