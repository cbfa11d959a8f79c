//! Damage, versions and names of other origin; what is kept of a run's checkpoints.

use std::collections::BTreeMap;

use schemas::{StreamCursor, content_hash};

use super::*;
use crate::weights::FlatTensor;

fn snapshot<'a>(
    step: u64,
    config: &'a TrainConfig,
    tensors: &'a Tensors,
    companions: &'a Companions,
) -> Snapshot<'a> {
    let cursor = StreamCursor::default();
    Snapshot {
        step,
        loss: None,
        cursor,
        config,
        weights: weights::borrowed(tensors),
        optimizer: weights::borrowed(tensors),
        average: None,
        computed_on: None,
        companions,
    }
}

fn saved(run: &Path) -> PathBuf {
    save(&mut Checkpoints::of(run), 7, None)
}

fn save(checkpoints: &mut Checkpoints, step: u64, loss: Option<f64>) -> PathBuf {
    let tensors = Tensors::from([("x".to_owned(), FlatTensor { shape: vec![2], values: vec![1.0, 2.0] })]);
    let codec = BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]);
    let tokenizer_name = "tokenizer.model".to_owned();
    let companions =
        Companions { tokenizer_name, tokenizer: b"pieces".to_vec(), codec, ..Companions::default() };
    let config = TrainConfig::default();
    checkpoints.save(&Snapshot { loss, ..snapshot(step, &config, &tensors, &companions) }).unwrap()
}

/// Changes a byte of the weights.
fn damage(folder: &Path) {
    let path = folder.join(MODEL);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn names(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_state_is_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(saved(folder.path()).join(STATE)).unwrap();
    CheckpointState::from_bytes(&bytes).unwrap();
    for end in 0..bytes.len() {
        assert!(CheckpointState::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(CheckpointState::from_bytes(&flipped).is_err(), "flipped at {at}");
    }
}

#[test]
fn damage_to_any_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["model.safetensors", "optimizer.safetensors", "config.toml", "tokenizer.model", "codec/config.json"];
    for name in names {
        let path = saved(folder.path());
        Checkpoint::open(&path).unwrap();
        fs::write(path.join(name), "something else").unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(&error, CheckpointError::Damaged { path, .. } if path.ends_with(name)), "{error}");
        fs::remove_file(path.join(name)).unwrap();
        assert!(Checkpoint::open(&path).unwrap_err().to_string().contains(name));
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no whole checkpoint") && error.contains("hint:"), "{error}");
    }
}

#[test]
fn a_checkpoint_of_a_later_version_is_refused_not_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let mut state = read_state(&path).unwrap();
    state.features.push("sharded-moments".to_owned());
    fs::write(path.join(STATE), state.to_bytes()).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the feature `sharded-moments`"), "{error}");
}

#[test]
fn a_state_cannot_name_files_outside() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let mut state = read_state(&path).unwrap();
    state.files.insert("../../secret".to_owned(), String::new());
    fs::write(path.join(STATE), state.to_bytes()).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("leads out of the checkpoint"), "{error}");
}

#[test]
fn a_config_larger_than_the_file_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let huge = "model = { layers = 1000, width = 100000, heads = 100, vocabulary = 32000 }";
    fs::write(path.join(CONFIG), huge).unwrap();
    let mut state = read_state(&path).unwrap();
    state.files.insert(CONFIG.to_owned(), content_hash(huge.as_bytes()));
    fs::write(path.join(STATE), state.to_bytes()).unwrap();
    let error =
        Checkpoint::open(&path).unwrap().0.model(Which::Best, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("the file holds 2 numbers"), "{error}");
}

/// Every way in which some of five checkpoints are damaged, with every number to keep: a run goes on from the newest
/// whole one, saves and prunes, and at each moment the newest whole checkpoint can be opened.
#[test]
fn a_run_is_never_without_a_whole_checkpoint_whatever_was_damaged() {
    for damaged in 0u32..31 {
        for keep in 1..=4 {
            let place = tempfile::tempdir().unwrap();
            let run = place.path();
            (1..=5).for_each(|step| drop(save(&mut Checkpoints::of(run), step, Some(step as f64))));
            let is_damaged = |step: u64| damaged & 1 << (step - 1) != 0;
            (1..=5)
                .filter(|&step| is_damaged(step))
                .for_each(|step| damage(&Checkpoints::of(run).path(step)));
            let whole: Vec<u64> = (1..=5).filter(|&step| !is_damaged(step)).collect();
            let current = *whole.last().unwrap();
            let mut checkpoints = Checkpoints::of(run);
            let newest = || Checkpoint::open(run).unwrap().0.state().step;
            assert_eq!(newest(), current);
            let moved = checkpoints.set_aside_behind(current).unwrap();
            assert_eq!(moved.len() as u64, 5 - current);
            assert_eq!(newest(), current);
            // Killed behind the save, before the pruning; then the new one is lost too.
            save(&mut checkpoints, current + 1, Some(9.0));
            assert_eq!(newest(), current + 1);
            checkpoints.prune(keep, current + 1).unwrap();
            let mut expected: Vec<u64> =
                whole.iter().copied().chain([current + 1]).rev().take(keep).collect();
            // The whole one of the lowest loss.
            expected.push(whole[0]);
            expected.sort_unstable();
            expected.dedup();
            let kept = checkpoints.steps().unwrap();
            let found: Vec<u64> = kept
                .into_iter()
                .filter(|&step| Checkpoint::open_step(&checkpoints.path(step)).is_ok())
                .collect();
            assert_eq!(found, expected, "damaged {damaged:05b}, keep {keep}");
            damage(&checkpoints.path(current + 1));
            assert_eq!(newest(), expected[expected.len() - 2]);
        }
    }
}

#[test]
fn only_what_the_program_would_write_is_a_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path();
    let mut checkpoints = Checkpoints::of(run);
    save(&mut checkpoints, 1, None);
    let folder = run.join("checkpoints");
    let odd = ["step-5", "step- 5", "step-+0000005", "step-00000009 (copy)", "best", ".cache.old", "step-x"];
    odd.iter().for_each(|name| fs::create_dir(folder.join(name)).unwrap());
    fs::write(folder.join("step-00000003"), "a file").unwrap();
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [1]);
    checkpoints.clean().unwrap();
    assert!(checkpoints.set_aside_behind(1).unwrap().is_empty());
    for step in 2..=4 {
        save(&mut checkpoints, step, None);
        checkpoints.prune(1, step).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [step]);
    }
    let left = names(run);
    assert!(odd.iter().all(|name| left.iter().any(|found| found == name)), "{left:?}");
    assert_eq!(fs::read(folder.join("damaged-step-00000003")).unwrap(), b"a file");
    assert_eq!(fs::read(folder.join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn what_is_set_aside_keeps_its_content_under_a_name_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path();
    for round in 1..=3 {
        let path = save(&mut Checkpoints::of(run), 7, None);
        fs::write(path.join("round"), round.to_string()).unwrap();
        damage(&path);
        Checkpoints::of(run).set_aside_behind(6).unwrap();
    }
    assert_eq!(names(run), ["damaged-step-00000007", "damaged-step-00000007-2", "damaged-step-00000007-3"]);
    assert_eq!(fs::read(run.join("checkpoints/damaged-step-00000007-3/round")).unwrap(), b"3");
    let whole = save(&mut Checkpoints::of(run), 9, None);
    let error = Checkpoints::of(run).set_aside_behind(7).unwrap_err();
    assert!(matches!(&error, CheckpointError::Further { path, current: 7 } if *path == whole), "{error}");
    Checkpoint::open(&whole).unwrap();
}

#[test]
fn a_model_larger_than_the_memory_is_refused_with_the_figures() {
    let place = tempfile::tempdir().unwrap();
    let (checkpoint, _) = Checkpoint::open(&saved(place.path())).unwrap();
    let bytes = fs::metadata(checkpoint.folder().join(MODEL)).unwrap().len();
    checkpoint.check_memory(Which::Best, 2 * bytes).unwrap();
    let error = checkpoint.check_memory(Which::Last, 2 * bytes - 1).unwrap_err();
    assert!(
        matches!(error, CheckpointError::Memory { needed_bytes, .. } if needed_bytes == 2 * bytes),
        "{error}"
    );
}

#[test]
fn a_checkpoint_that_is_pruned_while_it_is_used_is_said_to_be() {
    let place = tempfile::tempdir().unwrap();
    let run = place.path();
    let mut checkpoints = Checkpoints::of(run);
    save(&mut checkpoints, 1, None);
    let (held, _) = Checkpoint::open(run).unwrap();
    assert!(held.pruned().is_none());
    save(&mut checkpoints, 2, None);
    checkpoints.prune(1, 2).unwrap();
    for error in [
        held.weights().unwrap_err(),
        held.tokenizer().unwrap_err(),
        held.model(Which::Best, &Device::flex()).unwrap_err(),
        held.pruned().unwrap(),
        Checkpoint::open_step(held.folder()).unwrap_err(),
    ] {
        assert!(matches!(&error, CheckpointError::Pruned { path } if path == held.folder()), "{error}");
    }
    assert_eq!(Checkpoint::open(run).unwrap().0.state().step, 2);
}
