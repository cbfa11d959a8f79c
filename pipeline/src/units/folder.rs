//! Which files of a folder are its data.
//!
//! Published datasets hold more than rows: descriptions, licences, checksums, statistics, tables of what an archive
//! was made from. Of a folder, and of a glob that names no form (`data/*`), one form of files is read: archives, tables,
//! pictures with their captions, or texts, and the rest is counted and named. Where two forms could be the data, or where
//! splits for different uses lie side by side, nothing is guessed: the globs that tell them apart are shown.

use std::collections::{BTreeMap, HashSet};

use object_store::ObjectMeta;

use crate::config::{Format, Shape, SourceConfig};
use crate::units::aside::{Aside, Passed};
use crate::units::form::{form_of, format_of};
use crate::units::names::{
    Split, extension, file_name, has_extension, is_about, is_description, is_hidden, is_picture,
    is_unfinished, stem,
};

/// The tables that describe the pictures of a folder, the first that is there.
pub(crate) const TABLES: [&str; 6] = [
    "captions.jsonl",
    "metadata.jsonl",
    "captions.csv",
    "metadata.csv",
    "captions.parquet",
    "metadata.parquet",
];

/// Extensions of texts and fields that may stand beside a picture of the same name.
const BESIDE: [&str; 4] = ["txt", "text", "caption", "json"];

/// A file and its path below the source's fixed prefix.
pub(crate) type Below = (String, ObjectMeta);

/// Files of which it is not clear which are meant.
#[derive(Debug)]
pub(crate) struct Unclear {
    /// What they are: `forms` or `splits`.
    pub(crate) of: &'static str,
    /// Each kind of them: its name, how many, and a glob below the folder that takes no others.
    pub(crate) kinds: Vec<(String, usize, Option<String>)>,
}

/// What a file of a folder is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    /// Rows of that form.
    Rows(Format),
    /// JSON that may hold rows of that form, or describe other files.
    Json(Format),
    /// A document, or what a person should read.
    Text,
    Picture,
    /// None of the data: why.
    Aside(Aside),
}

impl FileKind {
    fn of(source: &SourceConfig, path: &str) -> Self {
        if is_unfinished(path) {
            return Self::Aside(Aside::Unfinished);
        }
        if extension(path).is_some_and(|extension| is_picture(&extension.name)) {
            return Self::Picture;
        }
        // Pictures may have captions beside them in files that are none elsewhere.
        if source.shape == Shape::Pair && has_extension(path, "caption") {
            return Self::Text;
        }
        match form_of(source.shape, path) {
            Some(Format::Text) => Self::Text,
            Some(format @ (Format::JsonLines | Format::Coco)) if is_plain_json(path) => Self::Json(format),
            Some(format) => Self::Rows(format),
            None if is_about(path) => Self::Aside(Aside::About),
            None => Self::Aside(Aside::Unknown),
        }
    }
}

fn is_plain_json(path: &str) -> bool {
    extension(path).is_some_and(|extension| extension.name == "json" && !extension.compressed)
}

/// A file of a folder with its kind.
struct Candidate {
    below: String,
    meta: ObjectMeta,
    kind: FileKind,
}

/// The files of a folder that are its data.
///
/// # Errors
///
/// If that is not clear.
pub(crate) fn choose(
    source: &SourceConfig,
    files: Vec<Below>,
    passed: &mut Passed,
) -> Result<Vec<Below>, Unclear> {
    let mut choice = FolderChoice { source, files: Vec::new(), passed };
    for (below, meta) in files {
        let kind = FileKind::of(source, &below);
        choice.files.push(Candidate { below, meta, kind });
    }
    match source.format {
        Some(format) => choice.of_format(format),
        None => choice.one_form()?,
    }
    let files = choice.files;
    let chosen: Vec<Below> = files.into_iter().map(|file| (file.below, file.meta)).collect();
    one_split(source, &chosen)?;
    Ok(chosen)
}

struct FolderChoice<'a> {
    source: &'a SourceConfig,
    files: Vec<Candidate>,
    passed: &'a mut Passed,
}

impl FolderChoice<'_> {
    /// Takes files out for a reason.
    fn drop(&mut self, why: Aside, is_out: impl Fn(&Candidate) -> bool) {
        let passed = &mut *self.passed;
        self.files.retain(|file| {
            let out = is_out(file);
            if out {
                passed.add(why, &file.below);
            }
            !out
        });
    }

    /// Of files whose form is given those are taken that are not named for another one, unless all are.
    fn of_format(&mut self, format: Format) {
        self.drop(Aside::Unfinished, |file| file.kind == FileKind::Aside(Aside::Unfinished));
        self.drop(Aside::About, |file| file.kind == FileKind::Aside(Aside::About));
        let other = |file: &Candidate| match file.kind {
            FileKind::Rows(named) | FileKind::Json(named) => {
                named != format && !(format == Format::JsonLines && named == Format::Coco)
            }
            FileKind::Text => format != Format::Text,
            FileKind::Picture => format != Format::Pictures,
            FileKind::Aside(_) => false,
        };
        if self.files.iter().any(|file| !other(file)) {
            self.drop(Aside::OtherForm, other);
        }
        self.drop_notes();
    }

    /// Of a folder of texts, what stands at its top and is about them is none of them.
    fn drop_notes(&mut self) {
        let is_note = |file: &Candidate| {
            file.kind == FileKind::Text && is_about(&file.below) && !file.below.contains('/')
        };
        if self.files.iter().any(|file| file.kind == FileKind::Text && !is_note(file)) {
            self.drop(Aside::About, is_note);
        }
    }

    fn one_form(&mut self) -> Result<(), Unclear> {
        // Folders of stores may be objects without a byte; nothing is lost with them.
        self.files.retain(|file| {
            let is_mark = file.meta.size == 0 && extension(&file.below).is_none();
            !(is_mark && file.kind == FileKind::Aside(Aside::Unknown))
        });
        for why in [Aside::Unfinished, Aside::About, Aside::Unknown] {
            self.drop(why, |file| file.kind == FileKind::Aside(why));
        }
        if self.source.shape.has_images() && self.takes_tables() {
            return Ok(());
        }
        let captioned = self.source.shape == Shape::Pair && self.joins_captions();
        self.drop_tables_of_archives(captioned);
        self.drop(Aside::About, |file| matches!(file.kind, FileKind::Json(_)) && is_description(&file.below));
        match self.forms(captioned).as_slice() {
            [] => self.weak_form(),
            [group] => {
                self.keep(*group);
                Ok(())
            }
            several => Err(self.unclear(several)),
        }
    }

    /// Whether the folder has tables of captions beside pictures; then they are taken. Of those of one folder the first.
    fn takes_tables(&mut self) -> bool {
        let place =
            |file: &Candidate| TABLES.iter().position(|table| *table == file_name(&file.below)).unwrap_or(9);
        let folder =
            |file: &Candidate| file.below.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        if !self.files.iter().any(|file| file.kind == FileKind::Picture) {
            return false;
        }
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        for file in self.files.iter().filter(|file| place(file) < TABLES.len()) {
            let known = first.entry(folder(file)).or_insert(usize::MAX);
            *known = place(file).min(*known);
        }
        if first.is_empty() {
            return false;
        }
        self.files.retain(|file| file.kind != FileKind::Picture);
        self.drop(Aside::OtherForm, |file| {
            first.get(&folder(file)).is_none_or(|table| *table != place(file))
        });
        true
    }

    /// Whether pictures have captions or fields of the same name beside them; those are no files of their own then.
    fn joins_captions(&mut self) -> bool {
        let stems = self.picture_stems();
        let before = self.files.len();
        self.files.retain(|file| !is_beside(&file.below, &stems));
        before != self.files.len()
    }

    fn picture_stems(&self) -> HashSet<String> {
        let pictures = self.files.iter().filter(|file| file.kind == FileKind::Picture);
        pictures.filter_map(|file| Some(stem(&file.below)?.0.to_owned())).collect()
    }

    /// Tools write tables and statistics of what they put into an archive, or into a folder of pictures, beside it under
    /// its name.
    fn drop_tables_of_archives(&mut self, captioned: bool) {
        let mut names = HashSet::new();
        for file in &self.files {
            match file.kind {
                FileKind::Rows(Format::Tar) => {
                    names.extend(stem(&file.below).map(|(stem, _)| stem.to_owned()))
                }
                FileKind::Picture if captioned => {
                    names.extend(file.below.rsplit_once('/').map(|(folder, _)| folder.to_owned()));
                }
                _ => {}
            }
        }
        self.drop(Aside::About, |file| {
            let of_archive = stem(&file.below).map(|(stem, _)| stem.strip_suffix("_stats").unwrap_or(stem));
            let is_table = !matches!(file.kind, FileKind::Picture | FileKind::Rows(Format::Tar));
            is_table && of_archive.is_some_and(|stem| names.contains(stem))
        });
    }

    /// The groups of files that hold nothing but rows.
    fn forms(&self, captioned: bool) -> Vec<FormGroup> {
        let mut groups: Vec<FormGroup> = Vec::new();
        for file in &self.files {
            let group = match file.kind {
                FileKind::Rows(format) => FormGroup::of(format),
                FileKind::Picture if captioned => FormGroup::Form(Format::Pictures),
                _ => continue,
            };
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// Takes the files of a group, and names the others.
    fn keep(&mut self, group: FormGroup) {
        // JSON beside JSON lines holds rows as these do; beside other tables it describes them.
        let lines = self.files.iter().any(|file| file.kind == FileKind::Rows(Format::JsonLines));
        let is_kept = |file: &Candidate| match file.kind {
            FileKind::Rows(format) => FormGroup::of(format) == group,
            FileKind::Json(format) => group == FormGroup::Tables && lines && format == Format::JsonLines,
            FileKind::Text => group == FormGroup::Form(Format::Text),
            FileKind::Picture => group == FormGroup::Form(Format::Pictures),
            FileKind::Aside(_) => false,
        };
        // Pictures that lie beside tables are what these name.
        if self.source.shape.has_images() && group == FormGroup::Tables {
            self.files.retain(|file| file.kind != FileKind::Picture);
        }
        if group != FormGroup::Form(Format::Text) {
            self.drop(Aside::About, |file| file.kind == FileKind::Text && is_about(&file.below));
        }
        if group == FormGroup::Form(Format::Pictures) {
            self.drop(Aside::NoPicture, |file| file.kind == FileKind::Text);
        }
        self.drop(Aside::OtherForm, |file| !is_kept(file));
    }

    /// Without files that hold nothing but rows, JSON, texts or pictures alone are the data.
    fn weak_form(&mut self) -> Result<(), Unclear> {
        let has =
            |files: &[Candidate], kind: fn(&FileKind) -> bool| files.iter().any(|file| kind(&file.kind));
        let json = has(&self.files, |kind| matches!(kind, FileKind::Json(_)));
        if self.source.shape != Shape::Pair {
            let is_document = |file: &Candidate| file.kind == FileKind::Text && !is_about(&file.below);
            if json && self.files.iter().any(is_document) {
                return Err(self.unclear(&[FormGroup::Tables, FormGroup::Form(Format::Text)]));
            }
            self.keep_weak(if json {
                |kind| matches!(kind, FileKind::Json(_))
            } else {
                |kind| *kind == FileKind::Text
            });
            self.drop_notes();
            return Ok(());
        }
        if json {
            self.keep_weak(|kind| matches!(kind, FileKind::Json(_)));
            // COCO has files of instances and key points beside those of captions.
            let of_captions = |file: &Candidate| file_name(&file.below).contains("caption");
            if self.files.iter().any(of_captions) {
                self.drop(Aside::OtherForm, |file| !of_captions(file));
            }
        } else if has(&self.files, |kind| *kind == FileKind::Picture) {
            self.keep(FormGroup::Form(Format::Pictures));
        }
        Ok(())
    }

    fn keep_weak(&mut self, kept: fn(&FileKind) -> bool) {
        if self.source.shape.has_images() {
            self.files.retain(|file| file.kind != FileKind::Picture);
        }
        if !kept(&FileKind::Text) {
            self.drop(Aside::About, |file| file.kind == FileKind::Text && is_about(&file.below));
        }
        self.drop(Aside::OtherForm, |file| !kept(&file.kind));
    }

    fn unclear(&self, groups: &[FormGroup]) -> Unclear {
        let of = |group: FormGroup| -> Vec<&str> {
            let is_it = |file: &&Candidate| match file.kind {
                FileKind::Rows(format) | FileKind::Json(format) => FormGroup::of(format) == group,
                FileKind::Text => group == FormGroup::Form(Format::Text),
                FileKind::Picture => group == FormGroup::Form(Format::Pictures),
                FileKind::Aside(_) => false,
            };
            self.files.iter().filter(is_it).map(|file| file.below.as_str()).collect()
        };
        let all: Vec<&str> = self.files.iter().map(|file| file.below.as_str()).collect();
        let kind = |group: &FormGroup| {
            let files = of(*group);
            (group.name().to_owned(), files.len(), glob_of(&files, &all))
        };
        Unclear { of: "forms", kinds: groups.iter().map(kind).collect() }
    }
}

/// Forms that may be read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FormGroup {
    /// Tables of any form, whose columns are united.
    Tables,
    Form(Format),
}

impl FormGroup {
    const fn of(format: Format) -> Self {
        match format {
            Format::Parquet | Format::Arrow | Format::JsonLines | Format::Csv => Self::Tables,
            other => Self::Form(other),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Form(format) => format.name(),
        }
    }
}

/// Whether a file holds the caption or the fields of a picture with one of these stems.
pub(crate) fn is_beside(below: &str, stems: &HashSet<String>) -> bool {
    stem(below).is_some_and(|(stem, extension)| {
        BESIDE.contains(&extension.to_ascii_lowercase().as_str()) && stems.contains(stem)
    })
}

/// Refuses splits for different uses side by side.
fn one_split(source: &SourceConfig, chosen: &[Below]) -> Result<(), Unclear> {
    let is_one_row = |below: &str| {
        let format = format_of(source, below);
        matches!(format, Some(Format::Text | Format::Pictures))
    };
    let mut splits: BTreeMap<Split, Vec<&str>> = BTreeMap::new();
    for (below, _) in chosen {
        if let Some(split) = Split::of(below, is_one_row(below)) {
            splits.entry(split).or_default().push(below);
        }
    }
    if splits.len() < 2 {
        return Ok(());
    }
    let all: Vec<&str> = chosen.iter().map(|(below, _)| below.as_str()).collect();
    let kind =
        |(split, files): (&Split, &Vec<&str>)| (split.name().to_owned(), files.len(), glob_of(files, &all));
    Err(Unclear { of: "splits", kinds: splits.iter().map(kind).collect() })
}

/// A glob that matches these files and none of the others.
fn glob_of(files: &[&str], all: &[&str]) -> Option<String> {
    let [first, others @ ..] = files else { return None };
    if others.is_empty() {
        return Some(escaped(first));
    }
    let folders =
        common(files.iter().map(|file| file.rsplit_once('/').map_or("", |(folder, _)| folder)), '/');
    let names = || files.iter().map(|file| file_name(file));
    let start = names().fold(file_name(first), |start, name| &start[..same(start, name)]);
    // A number that all share says nothing: `train-0` of `train-00000`, `train-00001`.
    let start = start.split('.').next().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit());
    let ends: HashSet<&str> = names().map(|name| name.find('.').map_or("", |dot| &name[dot..])).collect();
    let end = if ends.len() == 1 { ends.into_iter().next().unwrap_or_default() } else { "" };
    let folder = if folders.is_empty() { String::new() } else { format!("{}/", escaped(&folders)) };
    let (start, end) = (escaped(start), escaped(end));
    let candidates = [
        format!("{folder}*{end}"),
        format!("{folder}{start}*{end}"),
        format!("{folder}**/*{end}"),
        format!("{folder}**/{start}*{end}"),
    ];
    let is_exact = |glob: &&String| {
        let Ok(pattern) = glob::Pattern::new(glob) else { return false };
        let wanted: HashSet<&str> = files.iter().copied().collect();
        !end.is_empty() && all.iter().all(|path| pattern.matches_with(path, OPTIONS) == wanted.contains(path))
    };
    candidates.iter().find(is_exact).cloned()
}

/// How a glob is compared with a path.
pub(crate) const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    // Hidden files are asked for by name.
    require_literal_leading_dot: true,
};

fn escaped(text: &str) -> String {
    glob::Pattern::escape(text)
}

/// The parts that all paths begin with.
fn common<'a>(mut paths: impl Iterator<Item = &'a str>, between: char) -> String {
    let mut parts: Vec<&str> = paths.next().unwrap_or_default().split(between).collect();
    for path in paths {
        let same = parts.iter().zip(path.split(between)).take_while(|(a, b)| *a == b).count();
        parts.truncate(same);
    }
    parts.join("/")
}

/// Bytes of the characters that both begin with.
fn same(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Whether a glob says of which form its files are: its last part ends in letters behind a dot.
pub(crate) fn names_a_form(pattern: &str) -> bool {
    let last = file_name(pattern);
    last.rsplit_once('.').is_some_and(|(_, end)| end.chars().any(char::is_alphanumeric))
}

/// The hidden parts of a path that a glob does not ask for: those at the place of which it has no such beginning.
pub(crate) fn asks_for_hidden(pattern: &str, path: &str) -> bool {
    // The library knows hidden names by a dot: for it those with `_` get one too, on both sides.
    let dotted = |text: &str| {
        let part = |part: &str| if part.starts_with('_') { format!(".{part}") } else { part.to_owned() };
        text.split('/').map(part).collect::<Vec<_>>().join("/")
    };
    if !path.split('/').any(is_hidden) {
        return true;
    }
    glob::Pattern::new(&dotted(pattern)).is_ok_and(|glob| glob.matches_with(&dotted(path), OPTIONS))
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    /// What is taken of a folder, and what is passed over; or what is unclear.
    fn chosen(source: &SourceConfig, paths: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let meta = |path: &&str| {
            let (location, last_modified) = (Path::parse(path).expect("a path"), Default::default());
            ((*path).to_owned(), ObjectMeta { location, last_modified, size: 5, e_tag: None, version: None })
        };
        let mut passed = Passed::default();
        match choose(source, paths.iter().map(meta).collect(), &mut passed) {
            Ok(files) => {
                let names = files.into_iter().map(|(below, _)| below).collect();
                Ok((names, passed.of_source("s").iter().flat_map(|passed| passed.names.clone()).collect()))
            }
            Err(unclear) => {
                let kind = |(kind, files, glob): &(String, usize, Option<String>)| {
                    format!("{files} {kind} {}", glob.as_deref().unwrap_or("-"))
                };
                let kinds: Vec<String> = unclear.kinds.iter().map(kind).collect();
                Err(format!("{}: {}", unclear.of, kinds.join(", ")))
            }
        }
    }

    fn source(shape: Shape) -> SourceConfig {
        SourceConfig { shape, ..SourceConfig::default() }
    }

    #[test]
    fn published_folders_are_their_data() {
        use Shape::{Interleaved, Pair, Text};
        let cases: [(Shape, &[&str], &[&str]); 15] = [
            (
                Text,
                &["data/train-0.parquet", "data/train-1.parquet"],
                &["README.md", "LICENSE.txt", "md5sums.txt", "dataset_infos.json", "notes.txt"],
            ),
            (
                Pair,
                &["0.tar", "1.tar"],
                &["0.parquet", "0_stats.json", "1.parquet", "1_stats.json", "README.md"],
            ),
            (
                Pair,
                &["00000/0.jpg", "00000/1.PNG"],
                &["00000.parquet", "00000_stats.json", "alone.txt", "x.npz"],
            ),
            (Text, &["00000.parquet"], &["00000_stats.json"]),
            (Pair, &["a.parquet"], &["label_names.json"]),
            (Pair, &["10_a/x.jpg", "20_b/y.webp"], &["meta_cap.json"]),
            (Pair, &["train/metadata.jsonl"], &["train/metadata.csv", "README.md"]),
            (
                Pair,
                &["annotations/captions_train2017.json"],
                &["annotations/instances_train2017.json", "annotations/person_keypoints_train2017.json"],
            ),
            (
                Text,
                &["a.jsonl", "b.json", "c.JSONL.GZ"],
                &["a.jsonl.part", "a.jsonl.md5", "dataset_info.json"],
            ),
            (Text, &["a.json", "b.json"], &["README.md"]),
            (Text, &["a.txt", "b.md", "c/README.md"], &["README.md", "LICENSE", "SHA256SUMS.txt"]),
            (Text, &["README.md"], &[]),
            (Text, &["x.tsv/a.csv", "DATA.TSV"], &["x.tsv/b.jpg"]),
            (Interleaved, &["a.jsonl"], &["README.md"]),
            (Text, &["segments/1/b.txt.gz"], &["wet.paths.gz"]),
        ];
        for (shape, taken, passed) in cases {
            let mut paths = [taken, passed].concat();
            let pictures: &[&str] = match taken[0] {
                "00000/0.jpg" => &["00000/0.txt", "00000/0.json", "00000/1.txt"],
                "10_a/x.jpg" => &["10_a/x.txt", "20_b/y.caption"],
                "train/metadata.jsonl" | "a.jsonl" if shape != Text => &["train/1.jpg"],
                "annotations/captions_train2017.json" => &["train2017/1.jpg"],
                _ => &[],
            };
            paths.extend(pictures);
            paths.sort_unstable();
            let (names, aside) = chosen(&source(shape), &paths).expect("clear");
            let sorted = |names: &[&str]| {
                let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
                names.sort();
                names
            };
            assert_eq!(names, sorted(taken), "{paths:?}");
            let mut aside = aside;
            aside.sort();
            // Three names are shown for a reason.
            aside.iter().for_each(|name| assert!(passed.contains(&name.as_str()), "{name} of {paths:?}"));
            assert!(aside.len() >= passed.len().min(3), "{aside:?} of {passed:?}");
        }
    }

    #[test]
    fn what_is_unclear_is_refused_with_globs_that_tell() {
        use Shape::{Pair, Text};
        let cases: [(Shape, &[&str], &str); 8] = [
            (
                Text,
                &[
                    "data/train-0-of-2.parquet",
                    "data/train-1-of-2.parquet",
                    "data/test-0-of-1.parquet",
                    "README.md",
                ],
                "splits: 2 train data/train-*.parquet, 1 test data/test-0-of-1.parquet",
            ),
            (
                Text,
                &["en/train.jsonl", "en/validation.jsonl", "fr/train.jsonl"],
                "splits: 2 train **/train*.jsonl, 1 validation en/validation.jsonl",
            ),
            (
                Pair,
                &["train/a.jpg", "train/a.txt", "test/b.jpg", "test/b.txt"],
                "splits: 1 train train/a.jpg, 1 test test/b.jpg",
            ),
            (
                Pair,
                &["annotations/captions_train2017.json", "annotations/captions_val2017.json"],
                "splits: 1 train annotations/captions_train2017.json, 1 validation annotations/captions_val2017.json",
            ),
            (Pair, &["a.jsonl", "b.jsonl", "c.tar"], "forms: 2 tables *.jsonl, 1 tar c.tar"),
            (
                Text,
                &["a/x.tar", "a/y.tar", "b/x.jsonl", "c/x.jsonl"],
                "forms: 2 tar a/*.tar, 2 tables **/*.jsonl",
            ),
            (Text, &["a.txt", "meta.json"], "forms: 1 tables meta.json, 1 text a.txt"),
            (Pair, &["a.jpg", "a.txt", "t.parquet"], "forms: 1 pictures a.jpg, 1 tables t.parquet"),
        ];
        for (shape, paths, expected) in cases {
            assert_eq!(chosen(&source(shape), paths).expect_err("unclear"), expected);
        }
        // Names of documents say nothing of splits.
        let documents = ["how-to-train.txt", "test-results.txt"];
        assert_eq!(chosen(&source(Shape::Text), &documents).expect("clear").0, documents);
    }

    #[test]
    fn a_given_form_takes_what_is_not_named_for_another() {
        let lines = SourceConfig { format: Some(Format::JsonLines), ..source(Shape::Text) };
        let taken = |paths: &[&str]| chosen(&lines, paths).expect("clear").0;
        assert_eq!(taken(&["README.md", "a.dump", "b.jsonl", "c.parquet"]), ["a.dump", "b.jsonl"]);
        assert_eq!(taken(&["a.txt", "b.txt"]), ["a.txt", "b.txt"]);
        let texts = SourceConfig { format: Some(Format::Text), ..source(Shape::Text) };
        let taken = |paths: &[&str]| chosen(&texts, paths).expect("clear").0;
        assert_eq!(taken(&["README.md", "a.rst", "b.txt", "c.jpg"]), ["a.rst", "b.txt"]);
    }

    #[test]
    fn hidden_parts_are_asked_for_by_their_first_character() {
        for (pattern, path, asked) in [
            ("*.jsonl", "_a.jsonl", false),
            ("_*.jsonl", "_a.jsonl", true),
            ("[_a]*.jsonl", "_a.jsonl", false),
            ("**/*.jsonl", "_tmp/a.jsonl", false),
            ("_*/*.jsonl", "_tmp/a.jsonl", true),
            ("*/_*.jsonl", "_tmp/_a.jsonl", false),
            (".*.jsonl", ".a.jsonl", true),
            ("*.jsonl", "a_b.jsonl", true),
        ] {
            assert_eq!(asks_for_hidden(pattern, path), asked, "{pattern} of {path}");
        }
        assert!(names_a_form("data/*.jsonl") && names_a_form("a/x.*.tar") && !names_a_form("v1.0/*"));
        assert!(!names_a_form("**") && !names_a_form("train-*") && !names_a_form("*.*"));
    }
}
