//! Says once, in one line, how many tests had nothing to do for want of a variable.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::support::repository;

/// Each variable and the calls by which a test asks for it.
const OPTIONAL: [(&str, &[&str]); 4] = [
    ("TRANSFUSION_SAMPLES", &["samples()", "sample(\"", "sample_bytes(\"", "sample_text(\""]),
    ("TRANSFUSION_PYTHON", &["python()"]),
    ("TRANSFUSION_S3", &["s3_environment()", "s3_store(\""]),
    ("TRANSFUSION_CHROMIUM", &["chromium()"]),
];

fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The bodies of all tests of the workspace: from each mark to the first brace at the mark's own depth.
fn tests() -> Vec<String> {
    let mut texts = Vec::new();
    for folder in ["schemas", "pipeline", "trainer", "jobs", "tests"] {
        sources(&repository().join(folder), &mut texts);
    }
    let mut bodies = Vec::new();
    for text in &texts {
        let lines: Vec<&str> = text.lines().collect();
        let marks = lines.iter().enumerate().filter(|(_, line)| {
            matches!(line.trim(), "#[test]" | "#[tokio::test]") || line.trim().starts_with("#[tokio::test(")
        });
        for (start, mark) in marks {
            let close = format!("{}}}", &mark[..mark.len() - mark.trim_start().len()]);
            let length = lines[start..].iter().position(|line| *line == close).unwrap_or(lines.len() - start);
            bodies.push(lines[start..start + length].join("\n"));
        }
    }
    bodies
}

#[test]
fn what_is_skipped_is_said_once() {
    let tests = tests();
    let asking =
        |calls: &[&str]| tests.iter().filter(|body| calls.iter().any(|call| body.contains(call))).count();
    let counts = OPTIONAL.map(|(variable, calls)| (variable, asking(calls)));
    for (variable, count) in counts {
        assert!(count > 0, "no test is known to ask for {variable}");
    }
    let unset = counts.iter().filter(|(variable, _)| std::env::var_os(variable).is_none());
    let unset: Vec<String> =
        unset.map(|(variable, count)| format!("{count} for want of {variable}")).collect();
    if !unset.is_empty() {
        // Past the capture of the test's own output: this is for whoever ran the tests.
        let line = format!("skipped tests: {}\n", unset.join(", "));
        std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
    }
}
