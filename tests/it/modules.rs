//! Which modules of a crate name which others, read from `use` items and from paths in the code, and the circles in that.
//!
//! A module is named with its path below the crate, `read::json`; the crate's root is the empty name. Comments, texts and
//! modules marked `#[cfg(test)]` are left out, everything else is read to the file's end. A path leads to the module
//! that it names, and where that module passes the name on (`pub use`), also to the module that the name comes from. A
//! module that names one it lies in (`super::Error`) is no arrow; one that names a sibling by way of it is.

use std::collections::{BTreeMap, BTreeSet};

/// Modules with the modules they name.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The arrows between the modules of a crate, from the paths of its files below `src` and their texts.
pub(crate) fn graph(files: &[(String, String)]) -> Graph {
    let modules: BTreeMap<String, Names> =
        files.iter().map(|(path, text)| (module(path), names(text))).collect();
    let arrows = |(name, names): (&String, &Names)| {
        let mut found = BTreeSet::new();
        names.paths.iter().for_each(|path| follow(&modules, name, path, &mut found));
        found.retain(|target| target != name && !is_below(name, target));
        (name.clone(), found)
    };
    modules.iter().map(arrows).collect()
}

/// Groups of modules each of which reaches all others of its group, the largest first.
pub(crate) fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|name| (name, reachable(graph, name))).collect();
    let circle = |name: &String| -> BTreeSet<String> {
        let others = reached[name].iter().filter(|other| reached[*other].contains(name));
        others.map(|other| (*other).clone()).collect()
    };
    let found: BTreeSet<BTreeSet<String>> = graph.keys().map(circle).filter(|c| c.len() > 1).collect();
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    found
}

/// What is wrong with floors: a use of a later floor by an earlier one, a folder or file of the crate's root that is on
/// no floor, a floor that is not there.
pub(crate) fn faults(graph: &Graph, floors: &[&str]) -> Vec<String> {
    let floor = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let place = |name: &str| floors.iter().position(|known| *known == floor(name));
    let present: BTreeSet<String> = graph.keys().map(|name| floor(name)).filter(|f| !f.is_empty()).collect();
    let unknown = present.iter().filter(|name| !floors.contains(&name.as_str()));
    let absent = floors.iter().filter(|name| !present.contains(**name));
    let mut found: Vec<String> = unknown.map(|name| format!("`{name}` is on no floor")).collect();
    found.extend(absent.map(|name| format!("the floor `{name}` is not there")));
    for (name, targets) in graph.iter().filter(|(name, _)| !name.is_empty()) {
        let above = targets.iter().filter(|target| place(target) > place(name));
        found.extend(above.map(|target| format!("`{name}` uses `{target}`, a later floor")));
    }
    found
}

/// What a file says of modules.
#[derive(Default)]
struct Names {
    /// Paths that it names, from where it stands.
    paths: BTreeSet<Vec<String>>,
    /// Names that it passes on, with the paths they come from.
    passed_on: BTreeMap<String, Vec<String>>,
}

fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs");
    let name = ["mod", "lib", "main"].iter().find_map(|root| path.strip_suffix(root));
    let is_root = |name: &str| name.is_empty() || name.ends_with('/');
    name.filter(|name| is_root(name)).unwrap_or(path).trim_end_matches('/').replace('/', "::")
}

fn is_below(name: &str, parent: &str) -> bool {
    parent.is_empty() || name.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::"))
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}::{name}") }
}

/// Adds the modules that a path leads to, seen from the module `from`.
fn follow(modules: &BTreeMap<String, Names>, from: &str, path: &[String], found: &mut BTreeSet<String>) {
    let mut open = vec![(from.to_owned(), path)];
    let mut seen = BTreeSet::new();
    while let Some((from, path)) = open.pop().filter(|step| seen.insert(step.clone())) {
        let (here, rest) = walk(modules, &from, path);
        // Nothing of it names a module: it begins with another crate, or an item of this very file.
        if rest.len() == path.len() {
            continue;
        }
        let passed_on = rest.first().and_then(|name| modules.get(&here)?.passed_on.get(name));
        found.insert(here.clone());
        open.extend(passed_on.map(|origin| (here, origin.as_slice())));
    }
}

/// The module that a path leads to, with what of the path is left behind it.
fn walk<'a>(modules: &BTreeMap<String, Names>, from: &str, path: &'a [String]) -> (String, &'a [String]) {
    let (mut here, mut rest) = (from.to_owned(), path);
    while let Some((first, behind)) = rest.split_first() {
        here = match first.as_str() {
            "crate" => String::new(),
            "self" => here,
            "super" => here.rsplit_once("::").map_or_else(String::new, |(parent, _)| parent.to_owned()),
            name if modules.contains_key(&join(&here, name)) => join(&here, name),
            _ => break,
        };
        rest = behind;
    }
    (here, rest)
}

fn reachable<'a>(graph: &'a Graph, from: &'a String) -> BTreeSet<&'a String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            open.extend(graph.get(name).into_iter().flatten());
        }
    }
    seen
}

fn names(text: &str) -> Names {
    let words = without_tests(words(text));
    let mut names = Names::default();
    let mut place = 0;
    while place < words.len() {
        let before = place.checked_sub(1).map_or("", |before| words[before].as_str());
        let is_path = |word: &str| ["crate", "super", "self"].contains(&word);
        if words[place] == "use" && words.get(place + 1).is_some_and(|next| next != "<") {
            let end = words[place..].iter().position(|word| word == ";").map_or(words.len(), |n| place + n);
            let is_public = before == "pub" || before == ")";
            tree(&words[place + 1..end], &[], is_public, &mut names);
            place = end;
        } else if is_path(&words[place]) && before != "::" && words.get(place + 1).is_some_and(|n| n == "::")
        {
            let path: Vec<String> = words[place..].iter().step_by(2).cloned().collect();
            let joints = words[place..].iter().skip(1).step_by(2).take_while(|word| *word == "::").count();
            names.paths.insert(path[..=joints.min(path.len() - 1)].to_vec());
            place += 2 * joints;
        }
        place += 1;
    }
    names
}

/// Reads the tree of a `use` item: `a::b`, `a as b`, `a::{b, c::{d, e}}`.
fn tree(words: &[String], before: &[String], is_public: bool, names: &mut Names) {
    let open = words.iter().position(|word| word == "{").unwrap_or(words.len());
    let is_part = |word: &&String| *word != "::" && *word != "as";
    if open == words.len() {
        let renamed = words.iter().position(|word| word == "as").unwrap_or(words.len());
        let mut path = before.to_vec();
        path.extend(words[..renamed].iter().filter(is_part).cloned());
        let name = words.last().filter(|name| *name != "self").or(path.iter().rev().find(|n| *n != "self"));
        if let Some(name) = name.filter(|_| is_public) {
            names.passed_on.insert(name.clone(), path.clone());
        }
        names.paths.insert(path);
        return;
    }
    let mut path = before.to_vec();
    path.extend(words[..open].iter().filter(is_part).cloned());
    let (mut depth, mut start) = (0, open + 1);
    for (place, word) in words.iter().enumerate().skip(open + 1) {
        let is_end = depth == 0 && (word == "," || word == "}");
        if is_end && place > start {
            tree(&words[start..place], &path, is_public, names);
        }
        start = if is_end { place + 1 } else { start };
        depth += i32::from(word == "{") - i32::from(word == "}");
    }
}

/// Leaves out the modules that are marked for tests.
fn without_tests(words: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut product = Vec::new();
    let mut place = 0;
    while place < words.len() {
        let is_marked = words[place..].iter().take(MARK.len()).eq(MARK.iter());
        let end = is_marked.then(|| end_of_module(&words, place + MARK.len())).flatten();
        match end {
            Some(end) => place = end,
            None => {
                product.push(words[place].clone());
                place += 1;
            }
        }
    }
    product
}

/// Where the module that begins here ends, if a module begins here.
fn end_of_module(words: &[String], start: usize) -> Option<usize> {
    let head = words[start..].iter().position(|word| word == "{" || word == ";")? + start;
    // Attributes and a visibility may stand before it, other items have other words before their body.
    let is_module = words[..head].len() >= 2 && words[head - 2] == "mod";
    if !is_module || words[head] == ";" {
        return is_module.then_some(head + 1);
    }
    let mut depth = 0;
    let end = words[head..].iter().position(|word| {
        depth += i32::from(word == "{") - i32::from(word == "}");
        depth == 0
    });
    Some(end.map_or(words.len(), |end| head + end + 1))
}

/// The words of a source text: names, `::`, and single marks. Comments and texts are left out.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => comment(rest),
            '"' => quoted(rest, '"'),
            '\'' => character(rest),
            _ if raw(rest).is_some() => raw(rest).unwrap_or_default(),
            _ if is_name(first) => {
                let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                words.push(rest[..length].to_owned());
                length
            }
            _ if rest.starts_with("::") => {
                words.push("::".to_owned());
                2
            }
            _ => {
                if !first.is_whitespace() {
                    words.push(first.to_string());
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    words
}

/// The length of a block comment, others inside it included.
fn comment(text: &str) -> usize {
    let (mut depth, mut place) = (0, 0);
    while place < text.len() {
        let change = i32::from(text[place..].starts_with("/*")) - i32::from(text[place..].starts_with("*/"));
        depth += change;
        place += if change == 0 { text[place..].chars().next().map_or(1, char::len_utf8) } else { 2 };
        if depth == 0 {
            break;
        }
    }
    place
}

/// The length of what begins with a quotation mark and ends with one.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == mark => return place + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character, `'a'`, or of the mark of a lifetime, `'a`.
fn character(text: &str) -> usize {
    let mut behind = text.chars().skip(1);
    let is_character = behind.next() == Some('\\') || behind.next() == Some('\'');
    if is_character { quoted(text, '\'') } else { 1 }
}

/// The length of a text that begins like `r#"` or `br"`.
fn raw(text: &str) -> Option<usize> {
    let behind = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let body = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |place| text.len() - body.len() + place + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(files: &[(&str, &str)]) -> Graph {
        let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        graph(&files.iter().map(owned).collect::<Vec<_>>())
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn every_way_to_name_a_module_is_an_arrow() {
        let empty = ["b.rs", "b/d.rs", "c.rs", "e.rs", "f/mod.rs", "f/g.rs", "h.rs", "i.rs", "j.rs"];
        let mut files: Vec<(&str, &str)> = empty.iter().map(|path| (*path, "")).collect();
        let text = "use crate::{b::{self as z, d::{X, Y}}, c as k};\n#[cfg(test)]\nuse super::e;\n\
                    fn p<'a>(q: &'a str) -> super::f::g::G { crate::h::run('\\'', '\"', \"crate::no::x\") }\n\
                    // crate::no\n/* crate::no /* */ crate::no */\nconst R: &str = r#\"\" crate::no \"#;\n\
                    #[cfg(test)]\n#[allow(x)]\nmod tests {\n    use crate::no;\n    fn t() { if a {} }\n}\n\
                    fn last() { i::x(); $crate::i::x() }\npub(crate) use crate::j::J;\n";
        files.extend([("a.rs", text), ("no.rs", ""), ("lib.rs", "mod a;")]);
        let expected = set(&["b", "b::d", "c", "e", "f::g", "h", "i", "j"]);
        assert_eq!(crate_of(&files)["a"], expected);
    }

    #[test]
    fn a_parent_is_no_arrow_and_a_sibling_by_way_of_it_is() {
        let files = [
            ("lib.rs", "mod a;\npub use a::Named;"),
            ("a/mod.rs", "mod b;\nmod c;\npub use self::b::{Named, Other as Renamed};\npub struct Own;"),
            ("a/b.rs", "use super::Own;"),
            ("a/c.rs", "use super::{Own, Renamed};"),
            ("d.rs", "use crate::Named;"),
            ("e.rs", "use crate::a::Own;"),
        ];
        let graph = crate_of(&files);
        assert_eq!(graph["a::b"], set(&[]));
        assert_eq!(graph["a::c"], set(&["a::b"]));
        assert_eq!(graph["d"], set(&["a", "a::b"]));
        assert_eq!(graph["e"], set(&["a"]));
        assert_eq!(circles(&graph), Vec::<BTreeSet<String>>::new());
    }

    #[test]
    fn circles_are_found_whole() {
        let files = [
            ("lib.rs", "mod a;"),
            ("a.rs", "use crate::b::x;"),
            ("b.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n}\nuse crate::c::d;\n"),
            ("c/mod.rs", ""),
            ("c/d.rs", "fn f() { super::super::a::x(); }"),
            ("e.rs", "use crate::a;\nuse crate::f;"),
            ("f.rs", "fn f() -> crate::e::E {}"),
            ("g.rs", "use crate::e;"),
        ];
        assert_eq!(circles(&crate_of(&files)), [set(&["a", "b", "c::d"]), set(&["e", "f"])]);
    }

    #[test]
    fn floors_use_earlier_ones_only() {
        let files = [
            ("lib.rs", "mod a;\npub use b::B;"),
            ("a.rs", "use crate::B;"),
            ("b/mod.rs", "use crate::a::A;"),
            ("b/c.rs", "use crate::d;"),
            ("d.rs", ""),
        ];
        let found = faults(&crate_of(&files), &["a", "b", "x"]);
        let expected = ["`d` is on no floor", "the floor `x` is not there", "`a` uses `b`, a later floor"];
        assert_eq!(found, expected);
        let found = faults(&crate_of(&files), &["b", "a", "d"]);
        assert_eq!(found, ["`b` uses `a`, a later floor", "`b::c` uses `d`, a later floor"]);
    }
}
