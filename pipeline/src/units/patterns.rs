//! The globs and names that an address stands for, and the files that match them.

use std::collections::HashMap;

use object_store::ObjectMeta;
use object_store::path::Path;

use super::aside::{Aside, Passed};
use super::folder::{self, Below, OPTIONS};

/// Characters of globs.
pub(super) const GLOB: [char; 4] = ['*', '?', '[', '{'];

/// Those of them that stand in names of files too.
pub(super) const IN_NAMES: [char; 2] = ['[', '{'];

/// Patterns that one address may stand for by its braces.
pub(super) const MOST_GLOBS: usize = 1000;

/// Why a glob leads to no files.
pub(super) enum Unmatched {
    /// It is none.
    Pattern(glob::PatternError),
    /// A file that its braces name is not there.
    Name(String),
    /// Each of its choices would have to be compared with each file.
    TooMany,
}

/// Globs and whole names, as the braces of an address give them.
struct Patterns<'a> {
    /// With what they were made of.
    globs: Vec<(glob::Pattern, &'a str)>,
    /// Whether each of the names has been met.
    names: HashMap<&'a str, bool>,
}

/// Whether a path is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    Yes,
    /// Some glob would match it, were a part of it not hidden.
    Hidden,
    No,
}

impl<'a> Patterns<'a> {
    fn new(patterns: &'a [String]) -> Result<Self, Unmatched> {
        let (globs, names): (Vec<&String>, Vec<&String>) =
            patterns.iter().partition(|pattern| pattern.contains(GLOB));
        if globs.len() > MOST_GLOBS {
            return Err(Unmatched::TooMany);
        }
        let glob = |pattern: &'a String| {
            let glob = glob::Pattern::new(&pattern.replace("[^", "[!")).map_err(Unmatched::Pattern)?;
            Ok((glob, pattern.as_str()))
        };
        let globs = globs.into_iter().map(glob).collect::<Result<_, _>>()?;
        Ok(Self { globs, names: names.into_iter().map(|name| (name.as_str(), false)).collect() })
    }

    fn ask(&mut self, path: &str) -> Match {
        if let Some(met) = self.names.get_mut(path) {
            *met = true;
            return Match::Yes;
        }
        let whatever = glob::MatchOptions { require_literal_leading_dot: false, ..OPTIONS };
        let mut asked = Match::No;
        let matches = |(glob, _): &&(glob::Pattern, &str)| glob.matches_with(path, whatever);
        for (_, pattern) in self.globs.iter().filter(matches) {
            asked = Match::Hidden;
            if folder::asks_for_hidden(pattern, path) {
                return Match::Yes;
            }
        }
        asked
    }
}

/// The files that match one of the patterns. What is asked for by its whole name and missing is not passed over.
pub(super) fn matching(
    metas: Vec<ObjectMeta>,
    odd: Vec<(Aside, String)>,
    prefix: &Path,
    patterns: &[String],
    passed: &mut Passed,
) -> Result<Vec<Below>, Unmatched> {
    let mut wanted = Patterns::new(patterns)?;
    let mut chosen = Vec::new();
    for meta in metas {
        let below = below(prefix, &meta.location);
        match wanted.ask(&below) {
            Match::Yes => chosen.push((below, meta)),
            Match::Hidden => passed.add(Aside::Hidden, &below),
            Match::No => {}
        }
    }
    if let Some(missing) = patterns.iter().find(|pattern| wanted.names.get(pattern.as_str()) == Some(&false))
    {
        return Err(Unmatched::Name(missing.clone()));
    }
    for (why, name) in odd {
        // Of a folder nobody knows what it would have held.
        if matches!(why, Aside::Loop | Aside::Closed) || wanted.ask(&name) != Match::No {
            passed.add(why, &name);
        }
    }
    Ok(chosen)
}

pub(super) fn parent_and_name(path: &str) -> (Path, String) {
    match path.rsplit_once('/') {
        Some((parent, name)) => (raw_path(parent), name.to_owned()),
        None => (Path::default(), path.to_owned()),
    }
}

pub(super) fn raw_path(text: &str) -> Path {
    // The text is a part of a valid path, so it is one.
    Path::parse(text).unwrap_or_default()
}

/// The fixed segments before the first one with a glob character, and the rest.
pub(super) fn split_glob(path: &str) -> (Path, String) {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let fixed = segments.iter().position(|segment| segment.contains(GLOB)).unwrap_or(segments.len());
    (raw_path(&segments[..fixed].join("/")), segments[fixed..].join("/"))
}

pub(super) fn below(prefix: &Path, path: &Path) -> String {
    let (prefix, path) = (prefix.as_ref(), path.as_ref());
    path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/').to_owned()
}
