//! The invariants of docs/architecture.md, kept by tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// The source files of a library that are no test's.
fn product_sources(library: &str) -> Vec<PathBuf> {
    let folder = repository().join(library).join("src");
    let all = sources(&folder);
    let mut tests = BTreeSet::new();
    for path in &all {
        let text = fs::read_to_string(path).expect("a source file");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let after_mark = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]").map(|pair| pair[1]);
        tests.extend(
            after_mark.filter_map(|line| Some(line.rsplit_once("mod ")?.1.strip_suffix(';')?.to_owned())),
        );
    }
    let is_test = |path: &PathBuf| {
        let below = path.strip_prefix(&folder).expect("below the folder");
        below.iter().any(|part| {
            tests.contains(Path::new(part).file_stem().unwrap_or_default().to_str().unwrap_or(""))
        })
    };
    all.into_iter().filter(|path| !is_test(path)).collect()
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
    for path in product_sources("schemas") {
        let text = fs::read_to_string(&path).expect("a source file");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["std::fs", "std::net", "std::env", "async fn", "std::time"] {
            assert!(!product.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn only_jobs_touches_arguments_and_terminal() {
    for library in ["schemas", "pipeline", "trainer"] {
        for path in product_sources(library) {
            let text = fs::read_to_string(&path).expect("a source file");
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in ["env::args", "println!(", "eprintln!(", "print!(", "process::exit"] {
                assert!(!product.contains(word), "{} uses {word}", path.display());
            }
        }
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
