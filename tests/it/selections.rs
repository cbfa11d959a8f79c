//! A build of a part is a build of the same dependencies: whichever packages are selected, Cargo gives each dependency
//! the same features, and compiles it once.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::repository;

/// Each dependency with its version and features, for the machine that runs this, as one line.
fn dependencies(selection: &[&str], edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").expect("tests are run by Cargo");
    let mut command = Command::new(cargo);
    command.current_dir(repository()).args(["tree", "--locked", "--offline", "--prefix", "none"]);
    let output = command.args(["--format", "{p} {f}", "--edges", edges]).args(selection).output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)"));
    lines.filter(|line| !line.starts_with("transfusion-")).map(str::to_owned).collect()
}

#[test]
fn every_selection_of_packages_compiles_the_same_dependencies() {
    let whole = dependencies(&["--workspace"], "normal,build,dev");
    for package in ["schemas", "pipeline", "trainer", "jobs"] {
        for edges in ["normal,build,dev", "normal,build"] {
            let part = dependencies(&["--package", &format!("transfusion-{package}")], edges);
            let others: Vec<_> = part.difference(&whole).map(|line| line.as_str()).collect();
            assert!(
                others.is_empty(),
                "{package} alone compiles these with other features than the whole workspace, which \
                 features/Cargo.toml has to ask for:\n{}",
                others.join("\n")
            );
        }
    }
}
