//! `samples/`: a small corpus in the layout that the shipped configs read, so that each of them runs by name.
//!
//! ```text
//! samples/
//!   README.md
//!   images/webdataset/pairs-00000.tar   pictures of shapes, 128 x 128 pixels, with their captions
//!   images/folder/                      some more as files, with captions.jsonl
//!   text/cc_en_head-0091.jsonl          pages about such pictures, in the form of a crawl's
//!   text/tinyshakespeare.txt            the beginning of it, public domain
//!   tokenizer/tokenizer.json            trained on all of these
//! ```
//!
//! The folder is written beside its place and renamed, so that it is whole under its name, and one that is there is never
//! touched.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::json;

use crate::errors::hinted;
use crate::session::Session;
use crate::shapes::{Corpus, Example, Subset};
use crate::terminal::count;

/// Where the shipped configs look for it.
const FOLDER: &str = "samples";
/// Captioned pictures in the archive.
const PAIRS: u64 = 256;
/// Captioned pictures as files.
const FILES: u64 = 8;
/// Pages of text.
const PAGES: u64 = 200;
/// Sentences of a page.
const SENTENCES: u64 = 8;
/// Ids of the tokenizer, at most.
const VOCABULARY: u32 = 512;
/// Each picture is drawn so many times as large: 128 pixels, the `size` of the configs.
const ZOOM: usize = 4;
const PLAYS: &str = include_str!("tinyshakespeare.txt");
const README: &str = "\
# A corpus that `transfusion demo` has drawn

The configs that come with the program read this folder:

    transfusion vae train samples
    transfusion preprocess samples
    transfusion train samples

Replace it by your own, or name other files with `--set`. Nothing here is overwritten.
`text/tinyshakespeare.txt` is in the public domain, everything else was made by the program.
";

/// Writes the folder, where there is none.
pub(super) fn write_new(session: &Session) -> anyhow::Result<()> {
    if !write(Path::new(FOLDER), session)? {
        return Err(hinted(
            anyhow!("there is a `{FOLDER}` here already, and nothing is overwritten"),
            "start it in another folder, or move that one away",
        ));
    }
    Ok(())
}

/// Writes the folder, and leaves one that is there. A demo goes on without it.
pub(super) fn write_beside(session: &Session) {
    match write(Path::new(FOLDER), session) {
        Ok(true) => {}
        Ok(false) if session.printer.shows_progress() => {
            session.printer.note(&format!("{FOLDER}: is there already, and stays as it is"));
        }
        Ok(false) => {}
        Err(error) => session.printer.warn(&format!("no `{FOLDER}` for the shipped configs: {error:#}")),
    }
}

/// Whether it was written.
fn write(folder: &Path, session: &Session) -> anyhow::Result<bool> {
    if folder.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let partial = folder.with_extension(format!("partial-{}", std::process::id()));
    let written = fill(&partial)
        .and_then(|()| fs::rename(&partial, folder).context("cannot rename the finished folder"))
        .with_context(|| format!("cannot write `{}`", folder.display()));
    written.inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&partial);
    })?;
    session.printer.event(&json!({ "event": "samples", "folder": folder }))?;
    if session.printer.shows_progress() {
        let what = format!("{} and {}", count(PAIRS, "captioned picture"), count(PAGES, "page"));
        session.printer.note(&format!("{}: {what} for the shipped configs", folder.display()));
    }
    Ok(true)
}

fn fill(folder: &Path) -> anyhow::Result<()> {
    let put = |name: &str, content: &[u8]| -> anyhow::Result<()> {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, content).with_context(|| format!("cannot write `{}`", path.display()))
    };
    let corpus = |seed| Corpus { seed, subset: Subset::Training };
    let (pairs, pages) = (corpus(0), pages(&corpus(2)));
    put("README.md", README.as_bytes())?;
    put("images/webdataset/pairs-00000.tar", &archive(&pairs)?)?;
    let mut table = String::new();
    for index in 0..FILES {
        let ((png, caption), name) = (corpus(1).enlarged(index, ZOOM), format!("shapes-{index:03}.png"));
        put(&format!("images/folder/{name}"), &png)?;
        table.push_str(&format!("{}\n", json!({ "file_name": name, "caption": caption })));
    }
    put("images/folder/captions.jsonl", table.as_bytes())?;
    let line = |(index, text): (usize, &String)| {
        format!("{}\n", json!({ "id": format!("page-{index:03}"), "text": text }))
    };
    let lines: String = pages.iter().enumerate().map(line).collect();
    put("text/cc_en_head-0091.jsonl", lines.as_bytes())?;
    put("text/tinyshakespeare.txt", PLAYS.as_bytes())?;
    let captions = (0..PAIRS).map(|index| pairs.example(index).scene.caption());
    let texts = captions.chain(pages).chain([PLAYS.to_owned()]);
    put("tokenizer/tokenizer.json", &pipeline::train_tokenizer(texts, VOCABULARY)?)
}

/// A WebDataset archive: `KEY.png` and `KEY.txt` for each picture.
fn archive(corpus: &Corpus) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for index in 0..PAIRS {
        let (png, caption) = corpus.enlarged(index, ZOOM);
        for (ending, content) in [("png", png), ("txt", caption.into_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{index:05}.{ending}"), content.as_slice())?;
        }
    }
    Ok(archive.into_inner()?)
}

/// Texts about pictures that are not in the archive.
fn pages(corpus: &Corpus) -> Vec<String> {
    let sentence = |index: u64| {
        let Example { scene, .. } = corpus.example(index);
        let (caption, other) = (scene.caption(), scene.other_wording().caption());
        match caption == other {
            true => format!("Picture {index} shows {caption}, and nothing else."),
            false => format!("In picture {index} there is {caption}. One may as well say: {other}."),
        }
    };
    let page = |page: u64| {
        let sentences = (page * SENTENCES..(page + 1) * SENTENCES).map(sentence);
        sentences.collect::<Vec<_>>().join(" ")
    };
    (0..PAGES).map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_the_same_every_time() {
        let place = tempfile::tempdir().unwrap();
        let fill = |name: &str| {
            let folder = place.path().join(name);
            fill(&folder).unwrap();
            ["images/webdataset/pairs-00000.tar", "text/cc_en_head-0091.jsonl", "tokenizer/tokenizer.json"]
                .map(|name| fs::read(folder.join(name)).unwrap())
        };
        let (one, other) = (fill("one"), fill("other"));
        assert_eq!(one, other);
        assert_eq!(tar::Archive::new(&one[0][..]).entries().unwrap().count() as u64, 2 * PAIRS);
        let tokenizer = schemas::Tokenizer::from_bytes(&one[2]).unwrap();
        assert!(tokenizer.vocabulary_size() > 400, "{}", tokenizer.vocabulary_size());
    }
}
