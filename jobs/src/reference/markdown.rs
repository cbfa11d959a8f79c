//! The pages, as Markdown that reads well in a terminal too.

use super::commands::{Argument, Command};
use super::keys::{Fallback, Key, Table};
use crate::terminal::wrapped;

/// Columns of a page.
const WIDTH: usize = 110;

/// The page of a config. `topic` is its name in commands and files.
pub(super) fn config(topic: &str, presets: &[&str], tables: &[Table]) -> String {
    let mut page = format!("# {}\n\n", config_title(topic));
    let known: Vec<String> = presets.iter().map(|name| format!("`{name}`")).collect();
    let intro = format!(
        "Written by `transfusion reference {topic}` from the program itself. For editors there is a JSON Schema, \
         `docs/schema/{topic}.json` or `transfusion reference {topic} --json`, which a file names in its first line: \
         `#:schema PATH`. Built in, to be used by name: {}.",
        known.join(", ")
    );
    paragraph(&mut page, &intro);
    for table in tables {
        if !table.heading.is_empty() {
            page += &format!("\n## {}\n", table.heading);
            table.about.split("\n\n").filter(|about| !about.is_empty()).for_each(|about| {
                page.push('\n');
                paragraph(&mut page, about);
            });
        }
        page.push('\n');
        table.keys.iter().for_each(|key| entry(&mut page, key));
    }
    page
}

const fn config_title(topic: &str) -> &str {
    match topic.as_bytes() {
        b"preprocess" => "Keys of a preprocessing config",
        b"train" => "Keys of a training config",
        b"vae" => "Keys of the config of a codec's training",
        _ => "Keys of a model",
    }
}

fn entry(page: &mut String, key: &Key) {
    let unit = key.unit.as_ref().filter(|unit| *unit != "none").map(|unit| format!("unit: {unit}"));
    let default = match &key.default {
        Fallback::Value(value) => Some(format!("default `{value}`")),
        Fallback::Required => Some("required".to_owned()),
        Fallback::Unset => Some("not set by default".to_owned()),
    };
    let kind = match &key.range {
        Some(range) => format!("{} {range}", key.kind),
        None => key.kind.clone(),
    };
    let facts: Vec<String> = [Some(kind), unit, default].into_iter().flatten().collect();
    let text = format!("**`{}`** ({}): {}", key.name, facts.join("; "), key.about.replace("\n\n", " "));
    item(page, 0, &text);
    let plain: Vec<String> = key
        .values
        .iter()
        .filter(|(_, about)| about.is_empty())
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if !plain.is_empty() {
        item(page, 2, &format!("Known names: {}.", plain.join(", ")));
    }
    for (name, about) in key.values.iter().filter(|(_, about)| !about.is_empty()) {
        item(page, 2, &format!("`{name}`: {}", about.replace("\n\n", " ")));
    }
}

/// The page of all commands.
pub(super) fn commands(commands: &[Command]) -> String {
    let mut page = "# Commands\n\n".to_owned();
    let intro = "Written by `transfusion reference commands` from the program itself. Data goes to stdout, text for people to \
                 stderr. A command ends with 0 when it is done, 1 when the answer is no (`verify` found damage), 2 for \
                 a wrong argument or config and for a failure, 130 and 143 after a signal.";
    paragraph(&mut page, intro);
    for (place, command) in commands.iter().enumerate() {
        let title =
            if place == 0 { "Flags of every command".to_owned() } else { format!("`{}`", command.name) };
        page += &format!("\n## {title}\n");
        if place > 0 {
            page.push('\n');
            paragraph(&mut page, &format!("{}.", command.about));
            page += &format!("\n```text\n{}\n```\n", command.usage);
        }
        if !command.arguments.is_empty() {
            page.push('\n');
        }
        command.arguments.iter().for_each(|argument| flag(&mut page, argument));
    }
    page
}

fn flag(page: &mut String, argument: &Argument) {
    let values: Vec<String> = argument.values.iter().map(|value| format!("`{value}`")).collect();
    let facts = [
        argument.default.as_ref().map(|default| format!("default: {default}")),
        Some(format!("one of {}", values.join(", "))).filter(|_| !values.is_empty()),
        argument.repeatable.then(|| "repeatable".to_owned()),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join("; ")) };
    item(page, 0, &format!("**`{}`**{facts}: {}", argument.written, argument.help));
}

/// Adds a text in lines no longer than the page is wide.
fn paragraph(page: &mut String, text: &str) {
    *page += &format!("{}\n", wrapped(text, WIDTH, 0));
}

/// Adds an item of a list, `depth` columns further in.
fn item(page: &mut String, depth: usize, text: &str) {
    let lines = wrapped(&format!("- {text}"), WIDTH - depth, 2);
    lines.lines().for_each(|line| *page += &format!("{:depth$}{line}\n", ""));
}
