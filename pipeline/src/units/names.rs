//! What the name of a file says of it: its extension, whether it is hidden, and whether it stands beside data without
//! being data.
//!
//! Only a file's own name counts, the last part of its path, in any case of letters: a folder `x.tsv` makes nothing of
//! the files in it.

/// What a file's name ends in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    /// The last one, in small letters, without that of a compression.
    pub(crate) name: String,
    /// Whether the name says that the file is compressed.
    pub(crate) compressed: bool,
}

const COMPRESSIONS: [&str; 5] = ["gz", "zst", "gzip", "zstd", "zip"];

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The extension of a file.
pub(crate) fn extension(path: &str) -> Option<Extension> {
    let name = file_name(path).to_ascii_lowercase();
    let plain = COMPRESSIONS.iter().find_map(|end| name.strip_suffix(end)?.strip_suffix('.'));
    let compressed = plain.is_some();
    let (_, last) = plain.unwrap_or(&name).rsplit_once('.')?;
    Some(Extension { name: last.to_owned(), compressed })
}

/// Whether a file has this extension, compressed or not.
pub(crate) fn has_extension(path: &str, wanted: &str) -> bool {
    extension(path).is_some_and(|found| found.name == wanted)
}

/// A path up to the extension of its file, and the extension as it is written.
pub(crate) fn stem(path: &str) -> Option<(&str, &str)> {
    let (stem, extension) = path.rsplit_once('.')?;
    let in_name = !extension.contains('/') && !stem.is_empty() && !stem.ends_with('/');
    in_name.then_some((stem, extension))
}

/// Whether a part of a path is passed over unless an address names it: those of tools begin with `.` or `_`.
pub(crate) fn is_hidden(part: &str) -> bool {
    part.starts_with(['.', '_'])
}

/// Whether a file is the beginning of one that somebody is still writing, or was.
pub(crate) fn is_unfinished(path: &str) -> bool {
    const ENDS: [&str; 10] =
        ["part", "partial", "tmp", "temp", "crdownload", "incomplete", "download", "aria2", "swp", "lock"];
    let name = file_name(path);
    let end = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    name.ends_with('~') || end.is_some_and(|end| ENDS.contains(&end.as_str()))
}

/// Whether a file is about others by its name: a description, a licence, checksums, an index.
pub(crate) fn is_about(path: &str) -> bool {
    const WORDS: [&str; 16] = [
        "readme",
        "license",
        "licence",
        "copying",
        "copyright",
        "notice",
        "citation",
        "changelog",
        "contributing",
        "checksums",
        "checksum",
        "md5sums",
        "md5sum",
        "md5",
        "sha256",
        "sums",
    ];
    const ENDS: [&str; 10] = ["md5", "sha1", "sha256", "sha512", "crc", "asc", "sig", "idx", "index", "cff"];
    let name = file_name(path).to_ascii_lowercase();
    let first = name.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap_or_default();
    let is_sum = first.starts_with("sha") && (first.ends_with("sum") || first.ends_with("sums"));
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    WORDS.contains(&first) || is_sum || ENDS.contains(&end)
}

/// Whether a JSON file describes the files beside it, by its name.
pub(crate) fn is_description(path: &str) -> bool {
    const NAMES: [&str; 9] = [
        "dataset_info.json",
        "dataset_infos.json",
        "dataset_dict.json",
        "state.json",
        "config.json",
        "croissant.json",
        "meta_cap.json",
        "meta_lat.json",
        "package.json",
    ];
    let name = file_name(path).to_ascii_lowercase();
    NAMES.contains(&name.as_str()) || name.ends_with("_stats.json")
}

/// The extensions of pictures.
const PICTURES: [&str; 9] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img"];

/// Whether a file of this extension, in small letters, is a picture.
pub(crate) fn is_picture(extension: &str) -> bool {
    PICTURES.contains(&extension)
}

/// A part of a corpus that is set apart for a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        match word {
            "train" | "training" => Some(Self::Train),
            "validation" | "valid" | "val" | "dev" | "eval" | "evaluation" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// The split that a part of a path names by one of its words.
    fn of_part(part: &str) -> Option<Self> {
        let part = part.to_ascii_lowercase();
        part.split(|c: char| !c.is_ascii_alphabetic()).find_map(Self::of_word)
    }

    /// The split that a folder is, by its whole name: `train`, `val2017`.
    fn of_folder(part: &str) -> Option<Self> {
        Self::of_word(part.trim_end_matches(|c: char| c.is_ascii_digit()).to_ascii_lowercase().as_str())
    }

    /// The split of a file of records: its folders or its name hold the word. Of a file that is one document or one
    /// picture, whose name may say anything, a folder must be named for it.
    pub(crate) fn of(path: &str, is_one_row: bool) -> Option<Self> {
        if !is_one_row {
            return path.split('/').find_map(Self::of_part);
        }
        let (folders, _) = path.rsplit_once('/')?;
        folders.split('/').find_map(Self::of_folder)
    }
}

/// What a file of a form that is not read is by its name, and what to do with it.
pub(crate) fn foreign(path: &str) -> Option<(&'static str, &'static str)> {
    const ANEW: &str = "unpack it, or compress it anew with gzip or zstd";
    const CSV: &str = "save it as CSV or Parquet";
    const PARQUET: &str = "write it as Parquet or JSON lines";
    Some(match extension(path)?.name.as_str() {
        "xz" | "lzma" => ("a file compressed with xz", ANEW),
        "bz2" => ("a file compressed with bzip2", ANEW),
        "lz4" => ("a file compressed with lz4", ANEW),
        "br" => ("a file compressed with Brotli", ANEW),
        "sz" | "snappy" => ("a file compressed with Snappy", ANEW),
        "7z" => ("a 7z archive", ANEW),
        "rar" => ("a RAR archive", ANEW),
        "xlsx" | "xls" | "ods" => ("a spreadsheet", CSV),
        "sqlite" | "sqlite3" | "db" | "mdb" | "lmdb" => ("a database", PARQUET),
        "pkl" | "pickle" | "joblib" => ("a pickle of Python", PARQUET),
        "npy" | "npz" | "pt" | "pth" | "h5" | "hdf5" => ("a file of arrays", PARQUET),
        "tfrecord" | "tfrecords" | "avro" | "orc" | "msgpack" | "lance" => {
            ("a table of another kind", PARQUET)
        }
        "pdf" | "docx" | "doc" | "epub" => {
            ("a document for people", "take its text out of it into `.txt` files")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_that_of_the_file_in_any_letters() {
        let cases = [
            ("DATA.TSV", Some(("tsv", false))),
            ("x.tsv/a.csv", Some(("csv", false))),
            ("x.tsv/a", None),
            ("A.JSONL.GZ", Some(("jsonl", true))),
            ("b/C.Parquet", Some(("parquet", false))),
            ("P.JPG", Some(("jpg", false))),
            ("a.tsv.zst", Some(("tsv", true))),
            ("gz", None),
            ("x.tsv.csv", Some(("csv", false))),
        ];
        for (path, expected) in cases {
            let found = extension(path);
            let found = found.as_ref().map(|found| (found.name.as_str(), found.compressed));
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(stem("a.b/photo.2020.JPG"), Some(("a.b/photo.2020", "JPG")));
        assert_eq!((stem("a.b/x"), stem("a/.hidden")), (None, None));
    }

    #[test]
    fn what_stands_beside_data_is_known_by_its_name() {
        for about in ["README.md", "d/LICENSE-CC.txt", "md5sums.txt", "SHA256SUMS", "a.parquet.crc", "x.idx"]
        {
            assert!(is_about(about), "{about}");
        }
        for document in ["shadow.txt", "readmes.txt", "a.md", "sums-of-money/a.txt"] {
            assert!(!is_about(document), "{document}");
        }
        for unfinished in ["a.parquet.part", "b.crdownload", "c.jsonl~", "d.TMP"] {
            assert!(is_unfinished(unfinished), "{unfinished}");
        }
        assert!(!is_unfinished("part-00000.parquet"));
        assert!(is_description("a/00000_stats.json") && !is_description("a/stats.json"));
    }

    #[test]
    fn splits_are_words_of_records_and_folders_of_documents() {
        use Split::{Test, Train, Validation};
        let cases = [
            ("data/train-00000-of-00002.parquet", false, Some(Train)),
            ("data/test-00000-of-00001.parquet", false, Some(Test)),
            ("c4-validation.00000-of-00008.json.gz", false, Some(Validation)),
            ("annotations/captions_val2017.json", false, Some(Validation)),
            ("latest/contest.parquet", false, None),
            ("how-to-train-a-dog.txt", true, None),
            ("test/a.txt", true, Some(Test)),
            ("train2017/000.jpg", true, Some(Train)),
            ("10_test shots/a.jpg", true, None),
        ];
        for (path, is_one_row, expected) in cases {
            assert_eq!(Split::of(path, is_one_row), expected, "{path}");
        }
    }
}
