//! Ctrl-C and SIGTERM in each phase of the commands that take long. A stand-in for a store leaves one request of the
//! phase without an answer, so the program waits there when the signal comes, and could not go on without it.

use std::path::Path;
use std::process::Child;

use crate::stand_in::{Awaited, Fate, StandIn, held};
use crate::support::{Outcome, Run};

const INTERRUPT: (&str, i32) = ("INT", 130);
const TERMINATE: (&str, i32) = ("TERM", 143);

/// Lines of text, a joined table, and pictures with their captions.
const OBJECTS: [(&str, &[u8]); 5] = [
    ("in/a.jsonl", b"{\"text\":\"one\",\"key\":\"k\"}\n{\"text\":\"two\",\"key\":\"l\"}\n"),
    ("table.csv", b"key,score\nk,1\nl,2\n"),
    ("pairs/captions.jsonl", b"{\"file_name\":\"p.png\",\"caption\":\"a picture\"}\n"),
    ("pairs/p.png", b"no picture"),
    ("out/lease.json", b"{\"writer\":1,\"counter\":7}"),
];

/// A command and the request of it that is not answered.
struct Phase {
    name: &'static str,
    arguments: &'static [&'static str],
    config: &'static str,
    awaited: Awaited,
    /// What it says at its end.
    said: &'static str,
}

const JOB: &[&str] = &["preprocess", "job.toml"];
const TEXTS: &str = "output = 'out'\ncontext = 64\ndeduplicate = true\ntokenizer.train = { vocabulary = 262 }\n\
                     [[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\n";
const AGAIN: &str = "stopped; go on with: transfusion preprocess job.toml\n";

impl Phase {
    fn of(name: &'static str, awaited: Awaited) -> Self {
        Self { name, arguments: JOB, config: TEXTS, awaited, said: AGAIN }
    }

    /// Starts it in a folder and stops it by each signal.
    fn stops(&self) {
        for (signal, code) in [INTERRUPT, TERMINATE] {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("job.toml"), self.config).expect("a config");
            let server = StandIn::start(&OBJECTS, std::slice::from_ref(&self.awaited));
            let child = start(self.arguments, folder.path(), &server);
            server.wait();
            send(signal, &child);
            let ended = end(child);
            assert_eq!(ended.code, Some(code), "{}: {ended:?}", self.name);
            assert!(ended.stderr.ends_with(self.said), "{}: {ended:?}", self.name);
            assert!(!ended.stderr.contains("error:") && ended.stdout.is_empty(), "{}: {ended:?}", self.name);
        }
    }
}

fn start(arguments: &[&str], folder: &Path, server: &StandIn) -> Child {
    Run::new(arguments).within(folder).environment(&server.environment()).spawn_captured()
}

fn send(signal: &str, child: &Child) {
    let command = format!("kill -{signal} {}", child.id());
    let sent = std::process::Command::new("sh").args(["-c", &command]).status().expect("a shell");
    assert!(sent.success(), "the child had ended before the signal came");
}

fn end(child: Child) -> Outcome {
    let output = child.wait_with_output().expect("the child ends");
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn planning_stops() {
    Phase::of("list", held("list-type", 1)).stops();
    Phase::of("columns", held("in/a.jsonl", 1)).stops();
    let model = "output = 'out'\ntokenizer.model = 's3://corpus/table.csv'\n\
                 [[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\n";
    Phase { config: model, ..Phase::of("tokenizer", held("table.csv", 1)) }.stops();
    let output = "output = 's3://bucket/new'\n[[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\n";
    Phase { config: output, ..Phase::of("output", held("new/manifest.json", 1)) }.stops();
}

#[test]
fn a_joined_table_stops() {
    let config = "output = 'out'\ntokenizer.train = { vocabulary = 262 }\n\
                  [[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\nwhere = 'score is not null'\n\
                  join = { uri = 's3://corpus/table.csv', on = 'key' }\n";
    for (name, number) in [("its columns", 1), ("its checksum", 3), ("its keys", 4)] {
        Phase { config, ..Phase::of(name, held("table.csv", number)) }.stops();
    }
}

#[test]
fn what_is_foreseen_stops() {
    let said = "stopped; nothing was written\n";
    for (arguments, number) in [
        (&["preprocess", "job.toml", "--dry-run"] as &[&str], 2),
        (&["preprocess", "job.toml", "--dry-run"], 3),
        (&["preprocess", "job.toml", "--explain"], 2),
    ] {
        Phase { arguments, said, ..Phase::of("foreseen", held("in/a.jsonl", number)) }.stops();
    }
}

#[test]
fn a_job_stops_before_its_units_and_in_them() {
    Phase::of("sample of the tokenizer", held("in/a.jsonl", 2)).stops();
    let units = "stopped after 0 of 1 units; go on with: transfusion preprocess job.toml\n";
    Phase { said: units, ..Phase::of("deduplication", held("in/a.jsonl", 3)) }.stops();
    Phase { said: units, ..Phase::of("unit", held("in/a.jsonl", 4)) }.stops();
}

#[test]
fn a_wait_for_a_lease_stops() {
    let config = "output = 's3://bucket/out'\ncontext = 64\ntokenizer.train = { vocabulary = 262 }\n\
                  [[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\n";
    let answered = Awaited { fate: Fate::Answered, ..held("lease.json", 1) };
    for (name, awaited) in [("between two looks", answered), ("a look", held("lease.json", 2))] {
        Phase { config, ..Phase::of(name, awaited) }.stops();
    }
}

/// A store that says to come again later is waited for, minutes long.
#[test]
fn a_wait_for_a_store_stops() {
    let refused = |number| Awaited { fate: Fate::Refused, ..held("in/a.jsonl", number) };
    Phase::of("the first retry", refused(1)).stops();
    Phase::of("a later retry", refused(3)).stops();
}

#[test]
fn the_pictures_of_a_codec_stop() {
    let config = "output = 'codec'\nmodel = 'tiny'\nsize = 16\nsteps = 1\nbatch = 1\n\
                  [[source]]\nname = 'pairs'\nuri = 's3://corpus/pairs'\nshape = 'pair'\n";
    let arguments = &["vae", "train", "job.toml"];
    let said = "stopped; nothing was written\n";
    for awaited in [held("captions.jsonl", 1), held("captions.jsonl", 2), held("p.png", 1)] {
        Phase { config, arguments, said, ..Phase::of("pictures", awaited) }.stops();
    }
}

/// The first signal gives the lease back, which the store does not answer; the second does not wait for that.
#[test]
fn a_second_signal_stops_at_once() {
    let config = "output = 's3://bucket/new'\ncontext = 64\ntokenizer.train = { vocabulary = 262 }\n\
                  [[source]]\nname = 'lines'\nuri = 's3://corpus/in/*.jsonl'\n";
    for (signal, code) in [INTERRUPT, TERMINATE] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("job.toml"), config).expect("a config");
        let server = StandIn::start(&OBJECTS, &[held("in/a.jsonl", 2), held("new/lease.json", 1)]);
        let child = start(JOB, folder.path(), &server);
        assert_eq!(server.wait(), 0);
        send("INT", &child);
        assert_eq!(server.wait(), 1);
        send(signal, &child);
        let ended = end(child);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{ended:?}");
    }
}

/// What was finished is kept, nothing is left lying about, and the line that is shown goes on.
#[test]
fn a_stopped_job_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = TEXTS.replace("deduplicate = true", "unit-bytes = 30");
    std::fs::write(folder.path().join("it's.toml"), config).expect("a config");
    let line = b"{\"text\":\"some words\"}\n";
    let objects: [(&str, &[u8]); 2] = [("in/a.jsonl", line), ("in/b.jsonl", line)];
    let arguments = ["preprocess", "it's.toml", "--threads", "1", "--set", "seed=3"];
    // Its columns, the sample of the tokenizer, and its unit.
    let server = StandIn::start(&objects, &[held("in/b.jsonl", 3)]);
    let child = start(&arguments, folder.path(), &server);
    server.wait();
    send("INT", &child);
    let stopped = end(child);
    assert_eq!(stopped.code, Some(130), "{stopped:?}");
    let said = "stopped after 1 of 2 units; go on with: ";
    let again = stopped.stderr.lines().last().and_then(|line| line.strip_prefix(said)).expect("a command");
    assert_eq!(again, r"transfusion preprocess 'it'\''s.toml' --set seed=3");
    assert!(!folder.path().join("out/manifest.json").exists());
    let server = StandIn::start(&objects, &[]);
    let again = again.replace("transfusion", env!("CARGO_BIN_EXE_transfusion"));
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &again]).current_dir(folder.path()).envs(server.environment());
    let ended = shell.output().expect("a shell");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && stderr.contains("1 of 2 units had been finished before"), "{stderr}");
    assert!(!folder.path().join("out/.unfinished").exists());
}
