//! Damage, versions and names of other origin.

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
        weights: tensors,
        optimizer: tensors,
        average: None,
        companions,
    }
}

fn saved(run: &Path) -> PathBuf {
    let tensors = Tensors::from([("x".to_owned(), FlatTensor { shape: vec![2], values: vec![1.0, 2.0] })]);
    let codec = BTreeMap::from([("config.json".to_owned(), b"{}".to_vec())]);
    let tokenizer_name = "tokenizer.model".to_owned();
    let companions =
        Companions { tokenizer_name, tokenizer: b"pieces".to_vec(), codec, ..Companions::default() };
    Checkpoints::of(run).save(&snapshot(7, &TrainConfig::default(), &tensors, &companions)).unwrap()
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
