//! A dataset that grows: new input files, and refused rows that are run again, as whole commands.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Outcome, Run, digest_of_folder, repository};

/// Ten pairs in a folder, of whose pictures three are missing.
fn write_pairs(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let line = |row: usize| format!("{{\"file_name\": \"p {row}.png\", \"caption\": \"picture {row}\"}}\n");
    fs::write(folder.join("captions.jsonl"), (0..10).map(line).collect::<String>()).expect("a table");
    (0..10).filter(|row| !MISSING.contains(row)).for_each(|row| write_picture(folder, row));
}

const MISSING: [usize; 3] = [2, 5, 7];

fn write_picture(folder: &Path, row: usize) {
    let picture = image::RgbImage::from_pixel(40, 36, image::Rgb([row as u8 * 20, 90, 200]));
    picture.save(folder.join(format!("p {row}.png"))).expect("a picture");
}

fn write_lines(folder: &Path, name: &str) {
    fs::create_dir_all(folder).expect("a folder");
    let lines: String = (0..40).map(|row| format!("{{\"text\": \"{name}, line {row}\"}}\n")).collect();
    fs::write(folder.join(name), lines + "no json\n").expect("a file");
}

fn config(folder: &Path) -> String {
    let text = format!(
        "output = \"out\"\ncontext = 64\nmax-reject-share = 0.5\nunit-bytes = 2000\n\
         [tokenizer]\ntrain = {{ vocabulary = 300 }}\n\
         [codec]\npath = \"{}\"\nsize = 32\npatch = 1\n\
         [[source]]\nname = \"pairs\"\nuri = \"pairs\"\nshape = \"pair\"\n\
         [[source]]\nname = \"lines\"\nuri = \"text/*.jsonl\"\n",
        repository().join("tests/golden/autoencoder_kl_tiny").display()
    );
    fs::write(folder.join("job.toml"), text).expect("a config");
    "job.toml".to_owned()
}

struct Place(tempfile::TempDir);

impl Place {
    fn run(&self, arguments: &[&str]) -> Outcome {
        let run = Run::new(arguments).within(self.0.path()).run();
        run.expect_code(0);
        run
    }

    fn report(&self, further: &[&str]) -> Value {
        let run = self.run(&[&["preprocess", "job.toml", "--json"], further].concat());
        let last: Value = serde_json::from_str(run.stdout.lines().last().expect("events")).expect("JSON");
        assert_eq!(last["event"], "finished");
        last["report"].clone()
    }

    fn manifest(&self) -> Value {
        serde_json::from_str(&self.run(&["inspect", "out", "--json"]).stdout).expect("JSON")
    }

    fn refused(&self, flag: &str) -> Vec<Value> {
        let run = self.run(&["inspect", "out", flag, "--json"]);
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn counts(of: &Value) -> [u64; 5] {
    ["read", "kept", "rejected", "filtered", "deduplicated"].map(|name| of[name].as_u64().expect("a count"))
}

#[test]
fn input_is_added_and_refused_rows_are_run_again() {
    let place = Place(tempfile::tempdir().expect("a folder"));
    let folder = place.0.path();
    write_pairs(&folder.join("pairs"));
    write_lines(&folder.join("text"), "m.jsonl");
    config(folder);

    let first = place.run(&["preprocess", "job.toml", "--verbose"]);
    for part in [
        "51 rows read = 47 kept + 4 rejected + 0 filtered + 0 deduplicated",
        "missing_image",
        "invalid_json",
        "ShardsExec",
        "DocumentsExec",
        "out: ",
        "transfusion inspect out --rejects",
    ] {
        assert!(first.stderr.contains(part), "{part}: {}", first.stderr);
    }
    let before = digest_of_folder(&folder.join("out"));
    let refused = place.refused("--rejects");
    assert_eq!(refused.len(), 4);
    let missing = place.refused("--rejects=missing_image");
    let rows: Vec<_> = missing.iter().map(|line| line["row"].as_u64().expect("a row")).collect();
    assert_eq!(rows, [2, 5, 7]);
    assert_eq!((&missing[0]["file"], &missing[0]["excerpt"]), (&"captions.jsonl".into(), &"p 2.png".into()));

    // A version of rows that are run again. The new file waits.
    MISSING.iter().for_each(|row| write_picture(&folder.join("pairs"), *row));
    write_lines(&folder.join("text"), "a.jsonl");
    let report = place.report(&["--retry-rejects"]);
    assert_eq!(report["retried"], serde_json::json!({"rows": 3, "passed": 3, "rejected": 0}));
    assert_eq!(
        (&report["manifest-name"], &report["waiting-files"]),
        (&"manifest-000002.json".into(), &1.into())
    );
    assert_eq!(counts(&report["sources"][0]["statistics"]), [10, 10, 0, 0, 0]);
    assert_eq!(place.refused("--rejects").len(), 1);

    // A version of new input.
    let report = place.report(&[]);
    assert_eq!(
        (&report["manifest-name"], &report["added-files"]),
        (&"manifest-000003.json".into(), &1.into())
    );
    assert_eq!(counts(&report["sources"][1]["statistics"]), [82, 80, 2, 0, 0]);

    // Nothing that was there has changed, and all of it is whole.
    let after = digest_of_folder(&folder.join("out"));
    assert!(before.iter().all(|(name, digest)| after.get(name) == Some(digest)));
    let manifest = place.manifest();
    assert_eq!(manifest["manifest"], "manifest-000003.json");
    assert_eq!(manifest["content"]["parent"]["name"], "manifest-000002.json");
    assert_eq!(manifest["content"]["statistics"]["documents"], 90);
    let verdict: Value = serde_json::from_str(&place.run(&["verify", "out", "--json"]).stdout).expect("JSON");
    assert_eq!((&verdict["damage"], &verdict["notes"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert!(place.run(&["preprocess", "job.toml"]).stderr.contains("nothing was done"));
    assert_eq!(digest_of_folder(&folder.join("out")), after);
}

/// `verify` looks at the tables of refused rows and at the version before.
#[test]
fn damage_of_tables_and_older_versions_is_found() {
    let place = Place(tempfile::tempdir().expect("a folder"));
    let folder = place.0.path();
    write_pairs(&folder.join("pairs"));
    write_lines(&folder.join("text"), "m.jsonl");
    config(folder);
    place.run(&["preprocess", "job.toml"]);
    write_lines(&folder.join("text"), "n.jsonl");
    place.run(&["preprocess", "job.toml"]);
    let units = place.manifest()["content"]["units"].clone();
    let table = units.as_array().expect("units").iter().find_map(|unit| unit["rejects"]["path"].as_str());
    let damaged = [table.expect("a table"), "manifest.json"];
    for name in damaged {
        let path = folder.join("out").join(name);
        let whole = fs::read(&path).expect("a file");
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("a damaged file");
        let verdict = Run::new(&["verify", "out"]).within(folder).run();
        verdict.expect_code(1);
        assert!(verdict.stdout.contains(name), "{}", verdict.stdout);
        // Versions are probed from the first one on, so without it there is no dataset.
        if name != "manifest.json" {
            fs::remove_file(&path).expect("a missing file");
            let verdict = Run::new(&["verify", "out"]).within(folder).run();
            verdict.expect_code(1);
            assert!(verdict.stdout.contains(&format!("{name}: is missing")), "{}", verdict.stdout);
        }
        fs::write(&path, whole).expect("the file");
    }
    place.run(&["verify", "out"]);
}

/// The rows that a job under way has refused can be looked at before there is a manifest.
#[test]
fn refused_rows_of_an_unfinished_dataset_are_shown() {
    let place = Place(tempfile::tempdir().expect("a folder"));
    let folder = place.0.path();
    write_lines(&folder.join("text"), "m.jsonl");
    let text = "output = \"out\"\ncontext = 64\nmax-reject-share = 0.0\n[tokenizer]\ntrain = { vocabulary = 300 }\n\
                [[source]]\nname = \"lines\"\nuri = \"text/*.jsonl\"\n";
    fs::write(folder.join("job.toml"), text).expect("a config");
    let failed = Run::new(&["preprocess", "job.toml"]).within(folder).run();
    failed.expect_code(2);
    assert!(failed.stderr.contains("1 of 41 rows were refused"), "{}", failed.stderr);
    let shown = place.run(&["inspect", "out", "--rejects"]);
    assert!(shown.stderr.contains("not finished"), "{}", shown.stderr);
    for part in ["lines · m.jsonl · row 40", "invalid_json", "no json", "1 row refused"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let unknown = Run::new(&["inspect", "out", "--rejects=invalid_jsn"]).within(folder).run();
    unknown.expect_code(2);
    assert!(unknown.stderr.contains("did you mean `invalid_json`?"), "{}", unknown.stderr);
}
