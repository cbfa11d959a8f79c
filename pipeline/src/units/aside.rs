//! Files that an address leads to and that are not read: never silent, but counted and named.

use crate::host::passed_over::PassedOver;
use std::collections::{BTreeMap, BTreeSet};

/// Why a file is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aside {
    Hidden,
    About,
    OtherForm,
    Unknown,
    Unfinished,
    NoPicture,
    DeadLink,
    Loop,
    Special,
    Closed,
    BadName,
}

impl Aside {
    /// The name of the reason, what one such entry is, and what several are.
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::Hidden => {
                ["hidden", "name that begins with `.` or `_`", "names that begin with `.` or `_`"]
            }
            Self::About => ["about", "file about the data", "files about the data"],
            Self::OtherForm => {
                ["other_form", "file of another form than the data", "files of another form than the data"]
            }
            Self::Unknown => {
                ["unknown_form", "file of a form that is not known", "files of a form that is not known"]
            }
            Self::Unfinished => ["unfinished", "unfinished file", "unfinished files"],
            Self::NoPicture => ["no_picture", "text without a picture", "texts without a picture"],
            Self::DeadLink => ["dead_link", "link that leads nowhere", "links that lead nowhere"],
            Self::Loop => ["link_loop", "link to a folder around it", "links to folders around them"],
            Self::Special => ["special", "socket, pipe or device", "sockets, pipes or devices"],
            Self::Closed => {
                ["closed", "entry that may not be looked at", "entries that may not be looked at"]
            }
            Self::BadName => ["bad_name", "name that no store can have", "names that no store can have"],
        }
    }
}

impl Aside {
    const fn is_loss(self) -> bool {
        !matches!(self, Self::Hidden | Self::About | Self::OtherForm)
    }
}

/// Names that are shown for a reason.
const SHOWN: usize = 3;

/// What is passed over while files are listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed(BTreeMap<Aside, (u64, BTreeSet<String>)>);

impl Passed {
    pub(crate) fn add(&mut self, why: Aside, name: &str) {
        let (count, names) = self.0.entry(why).or_default();
        *count += 1;
        // What a terminal would take for a command is escaped.
        names.insert(name.chars().flat_map(shown).collect());
        if names.len() > SHOWN {
            names.pop_last();
        }
    }

    pub(crate) fn of_source(&self, source: &str) -> Vec<PassedOver> {
        let passed = |(why, (files, names)): (&Aside, &(u64, BTreeSet<String>))| PassedOver {
            source: source.to_owned(),
            reason: why.words()[0].to_owned(),
            what: why.words()[if *files == 1 { 1 } else { 2 }].to_owned(),
            files: *files,
            names: names.iter().cloned().collect(),
            warning: why.is_loss(),
        };
        self.0.iter().map(passed).collect()
    }
}

fn shown(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_the_book() {
        use Aside::*;
        let page = include_str!("../../../docs/rejects.md");
        for why in [
            Hidden, About, OtherForm, Unknown, Unfinished, NoPicture, DeadLink, Loop, Special, Closed,
            BadName,
        ] {
            let row = format!("| `{}` |", why.words()[0]);
            let line = page.lines().find(|line| line.starts_with(&row)).expect(&row);
            let warns = line.split('|').nth(3).map(str::trim);
            assert_eq!(warns, Some(if why.is_loss() { "yes" } else { "no" }), "{line}");
        }
    }

    #[test]
    fn the_first_names_are_shown_and_all_are_counted() {
        let mut passed = Passed::default();
        ["c", "b\r", "d", "a"].iter().for_each(|name| passed.add(Aside::Hidden, name));
        let described = passed.of_source("s")[0].describe();
        assert_eq!(described, "4 names that begin with `.` or `_` (`a`, `b\\r`, `c`, ...)");
    }
}
