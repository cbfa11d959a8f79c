//! The invariants of docs/architecture.md, kept by tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::modules::{self, Graph};
use crate::support::repository;

/// Package name to the names it depends on, of the whole lock file.
fn lock_graph() -> BTreeMap<String, BTreeSet<String>> {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).expect("Cargo.lock is committed");
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
    for package in lock["package"].as_array().expect("packages") {
        let names = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        let names = names.filter_map(|name| Some(name.as_str()?.split(' ').next()?.to_owned()));
        graph.entry(package["name"].as_str().expect("a name").to_owned()).or_default().extend(names);
    }
    graph
}

fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(name) = open.pop() {
        if seen.insert(name.clone()) {
            open.extend(graph.get(&name).into_iter().flatten().cloned());
        }
    }
    seen
}

fn manifest(name: &str) -> toml::Table {
    let path = repository().join(name).join("Cargo.toml");
    fs::read_to_string(path).expect("a Cargo.toml").parse().expect("TOML")
}

fn direct(name: &str) -> BTreeSet<String> {
    manifest(name)["dependencies"].as_table().expect("dependencies").keys().cloned().collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The mark of what only tests are compiled with.
const TEST_MARK: &str = "#[cfg(test)]";

/// The source files of a library that are no test's.
fn product_sources(library: &str) -> Vec<PathBuf> {
    let all = sources(&repository().join(library).join("src"));
    let tests: Vec<PathBuf> = all.iter().flat_map(|path| test_modules(path)).collect();
    let is_test = |path: &PathBuf| {
        tests.iter().any(|module| path.starts_with(module) || path.with_extension("") == *module)
    };
    all.into_iter().filter(|path| !is_test(path)).collect()
}

/// The test modules that a file declares and that lie in files of their own: where they lie, without `.rs`.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).expect("a source file");
    let is_root =
        path.file_name().is_some_and(|name| ["lib.rs", "main.rs", "mod.rs"].iter().any(|root| name == *root));
    let folder = if is_root { path.parent().expect("a folder").to_owned() } else { path.with_extension("") };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let marked = lines.windows(2).filter(|pair| pair[0] == TEST_MARK).map(|pair| pair[1]);
    marked.filter_map(|line| Some(folder.join(line.rsplit_once("mod ")?.1.strip_suffix(';')?))).collect()
}

/// The lines of a file that are in the product: no comment, and nothing of what is marked for tests. An item ends at
/// the first line that closes it at its own indentation, as rustfmt writes it.
fn product_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a source file");
    let mut lines = text.lines();
    let mut product = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim() == TEST_MARK {
            skip_item(&mut lines, line.len() - line.trim_start().len());
        } else if !line.trim_start().starts_with("//") {
            product.push(line.to_owned());
        }
    }
    product
}

fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: usize) {
    for line in lines.by_ref() {
        let here = line.len() - line.trim_start().len();
        let is_own = here == indent && !line.trim().is_empty() && !line.trim_start().starts_with("#[");
        // The item is one line, or this is the line that closes it.
        if is_own && (line.ends_with(';') || line.trim_start().starts_with('}') || line.ends_with('}')) {
            return;
        }
    }
}

/// Whether a word stands in a line as itself, not as a part of a longer name.
fn uses(line: &str, word: &str) -> bool {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).any(|(start, _)| {
        let (before, behind) = (&line[..start], &line[start + word.len()..]);
        let begins = !word.starts_with(is_name) || !before.ends_with(is_name);
        let ends = !word.ends_with(is_name) || !behind.starts_with(is_name);
        begins && ends
    })
}

/// Fails of every line of a library's product with one of the words.
fn expect_none(library: &str, words: &[&str]) {
    let mut found = Vec::new();
    for path in product_sources(library) {
        for line in product_lines(&path) {
            // Which processor this was compiled for is no surrounding.
            let line = line.replace("env::consts", "");
            let words = words.iter().filter(|word| uses(&line, word));
            found.extend(words.map(|word| format!("{} uses {word}: {}", path.display(), line.trim())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_stands_behind_a_test_module_is_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("part.rs");
    let text = "use a;\n#[cfg(test)]\nuse b;\nfn c() {\n    #[cfg(test)]\n    {\n        d();\n    }\n    e();\n}\n\
                #[cfg(test)]\n#[allow(x)]\nmod tests {\n    fn f() {\n    }\n}\n\n// g\nfn h() {}\n#[cfg(test)]\nmod i;\nfn j() {}\n";
    fs::write(&path, text).expect("a file");
    let product = product_lines(&path).join("|");
    assert_eq!(product, "use a;|fn c() {|    e();|}||fn h() {}|fn j() {}");
    assert_eq!(test_modules(&path), [folder.path().join("part/i")]);
    assert!(uses("std::time::Instant::now()", "Instant") && !uses("InstantPlan", "Instant"));
}

/// The floors of each crate: what lies at the root of its sources, each thing using only those before it. First come the
/// few that the whole crate uses, such as its errors; `lib.rs` and `main.rs` stand above all.
const FLOORS: &[(&str, &[&str])] = &[
    (
        "schemas",
        &[
            "address",
            "arrow_layout",
            "hash",
            "random",
            "cursor",
            "vocabulary",
            "sequence",
            "columns",
            "manifest",
            "shard",
            "tokenizer",
        ],
    ),
    (
        "pipeline",
        &[
            "host",
            "config",
            "row",
            "picture",
            "document",
            "storage",
            "engine",
            "units",
            "read",
            "operators",
            "source",
            "plan",
            "job",
        ],
    ),
    (
        "jobs",
        &[
            "shapes",
            "page",
            "errors",
            "terminal",
            "machine",
            "store",
            "settings",
            "signals",
            "failure",
            "cli",
            "session",
            "dataset",
            "codec",
            "completions",
            "inspect",
            "verify",
            "preprocess",
            "sample",
            "train",
            "vae",
            "reference",
            "demo",
        ],
    ),
    (
        "trainer",
        &[
            "limits",
            "durable",
            "log",
            "device",
            "schedule",
            "kernels",
            "weights",
            "optimizer",
            "patches",
            "diffusion",
            "model",
            "objective",
            "stream",
            "codec",
            "sample",
            "config",
            "checkpoint",
            "run",
        ],
    ),
];

fn modules_of(library: &str) -> Graph {
    let source = repository().join(library).join("src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&source).expect("below src").to_string_lossy().replace('\\', "/");
        (name, fs::read_to_string(&path).expect("a source file"))
    };
    modules::graph(&product_sources(library).into_iter().map(read).collect::<Vec<_>>())
}

#[test]
fn no_modules_name_each_other_in_a_circle() {
    for (library, _) in FLOORS {
        let graph = modules_of(library);
        if let Some(circle) = modules::circles(&graph).first() {
            let within = |name: &String| graph[name].intersection(circle).cloned().collect::<Vec<_>>();
            let lines = circle.iter().map(|name| format!("\n  {name} uses {}", within(name).join(", ")));
            panic!("{library}: a circle of {} modules{}", circle.len(), lines.collect::<String>());
        }
    }
}

#[test]
fn a_floor_uses_only_those_before_it() {
    for (library, floors) in FLOORS {
        let faults = modules::faults(&modules_of(library), floors);
        assert!(faults.is_empty(), "{library}:\n  {}", faults.join("\n  "));
    }
}

#[test]
fn a_floor_opens_with_what_it_knows_nothing_about() {
    for (library, floors) in FLOORS.iter().filter(|(library, _)| ["pipeline", "trainer"].contains(library)) {
        for floor in *floors {
            let source = repository().join(library).join("src");
            let folder = source.join(floor).join("mod.rs");
            let path = if folder.exists() { folder } else { source.join(floor).with_extension("rs") };
            let text = fs::read_to_string(&path).expect("a floor is a folder with a mod.rs, or a file");
            let head: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
            assert!(head.concat().contains("knows nothing about"), "{}", path.display());
        }
    }
}

#[test]
fn the_pipeline_has_never_heard_of_burn_and_the_trainer_not_of_datafusion() {
    let graph = lock_graph();
    let pipeline = reachable(&graph, "transfusion-pipeline");
    let trainer = reachable(&graph, "transfusion-trainer");
    let burn: Vec<_> = pipeline.iter().filter(|name| name.starts_with("burn")).collect();
    let datafusion: Vec<_> = trainer.iter().filter(|name| name.starts_with("datafusion")).collect();
    assert!(burn.is_empty(), "pipeline reaches {burn:?}");
    assert!(datafusion.is_empty(), "trainer reaches {datafusion:?}");
    assert!(!pipeline.contains("transfusion-trainer") && !trainer.contains("transfusion-pipeline"));
}

#[test]
fn schemas_does_no_io_and_knows_no_runtime() {
    let direct = direct("schemas");
    for name in ["tokio", "object_store", "futures", "datafusion", "burn", "reqwest", "memmap2"] {
        assert!(!direct.contains(name), "schemas depends on {name}");
    }
    expect_none("schemas", &["std::fs", "std::net", "std::env", "async", "std::time", "std::thread"]);
}

#[test]
fn only_jobs_touches_arguments_environment_terminal_and_clock() {
    const WORDS: [&str; 17] = [
        "std::env",
        "env::args",
        "env::var",
        "env::vars",
        "env::temp_dir",
        "env::current_dir",
        "SystemTime",
        "Instant",
        "chrono::Utc",
        "chrono::Local",
        "stdin",
        "stdout",
        "stderr",
        "println!",
        "eprintln!",
        "print!",
        "process::exit",
    ];
    for library in ["schemas", "pipeline", "trainer"] {
        expect_none(library, &WORDS);
    }
}

#[test]
fn one_version_of_what_datafusion_decides() {
    let lock = fs::read_to_string(repository().join("Cargo.lock")).expect("Cargo.lock is committed");
    for name in ["arrow", "arrow-array", "arrow-ipc", "parquet", "object_store", "datafusion", "burn", "gemm"]
    {
        let copies = lock.lines().filter(|line| *line == format!("name = \"{name}\"")).count();
        assert_eq!(copies, 1, "copies of {name} in Cargo.lock");
    }
}

#[test]
fn features_of_dependencies_are_chosen_in_one_place() {
    for name in ["schemas", "pipeline", "trainer", "jobs"] {
        let manifest = manifest(name);
        let tables =
            ["dependencies", "dev-dependencies"].iter().filter_map(|key| manifest.get(*key)?.as_table());
        for (dependency, entry) in tables.flatten() {
            let entry = entry.as_table().expect("`NAME.workspace = true`");
            assert_eq!(entry.get("workspace"), Some(&toml::Value::Boolean(true)), "{name}: {dependency}");
            assert!(!entry.contains_key("features"), "{name}: {dependency} chooses features of its own");
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_the_architecture_page_lists_it() {
    let page = fs::read_to_string(repository().join("docs/architecture.md")).expect("docs/architecture.md");
    let listed = |path: &str| page.contains(&format!("`{path}`"));
    for krate in ["schemas", "pipeline", "trainer", "jobs"] {
        for path in sources(&repository().join(krate)) {
            let name =
                path.strip_prefix(repository()).expect("below the repository").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a source file");
            if text.contains("allow(unsafe_code)") {
                assert!(
                    listed(&name),
                    "docs/architecture.md does not list {name} among the modules with unsafe code"
                );
                let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
                assert!(
                    text.matches("// SAFETY:").count() >= blocks,
                    "{name}: a block without a SAFETY line"
                );
            }
        }
    }
}

#[test]
fn the_toolchain_and_rust_version_agree() {
    let toolchain =
        fs::read_to_string(repository().join("rust-toolchain.toml")).expect("rust-toolchain.toml");
    let root: toml::Table =
        fs::read_to_string(repository().join("Cargo.toml")).expect("Cargo.toml").parse().expect("TOML");
    let version = root["workspace"]["package"]["rust-version"].as_str().expect("rust-version");
    assert!(toolchain.contains(&format!("channel = \"{version}")), "{toolchain}");
}
