//! Facts about codecs.

use std::sync::Mutex;

use super::*;
use crate::golden::{self, Golden, assert_close};
use crate::random::Stream;

const TOLERANCE: f64 = 1e-4;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn golden_folder() -> PathBuf {
    golden::folder().join("autoencoder_kl_tiny")
}

fn golden_codec() -> Codec {
    Codec::load(&golden_folder(), &Device::flex()).unwrap()
}

#[test]
fn an_autoencoder_kl_computes_what_diffusers_does() {
    let (codec, file) = (golden_codec(), Golden::open("autoencoder_kl_tiny_io.safetensors"));
    assert_eq!((codec.kind(), codec.channels(), codec.downsampling()), ("AutoencoderKL", 8, 8));
    for set in ["square", "wide"] {
        let values = |name: &str| file.f64s(&format!("{set}.{name}"));
        let close = |found: &[f32], name: &str| {
            assert_close(&wide(found), &values(name), TOLERANCE, &format!("{set}.{name}"));
        };
        let (shape, image) = file.values(&format!("{set}.image"));
        let image: Vec<f32> = image.into_iter().map(|value| value as f32).collect();
        let posterior = codec.posterior(&image, shape[0], shape[2], shape[3]).unwrap();
        close(&posterior.mean, "mean");
        close(&posterior.log_variance, "logvar");
        close(&posterior.std(), "std");
        let sample = posterior.sample(&file.f32s(&format!("{set}.noise")));
        close(&sample, "sample");
        let latent = posterior.channels * posterior.height * posterior.width;
        for (found, expected) in posterior.kl().into_iter().zip(values("kl")) {
            // A sum over all values of a picture's latent.
            assert!((f64::from(found) - expected).abs() < TOLERANCE * latent as f64, "{found}, {expected}");
        }
        let mut input = sample.clone();
        codec.normalize(&mut input, posterior.height * posterior.width);
        close(&input, "model_input");
        let (height, width) = (posterior.height, posterior.width);
        close(&codec.decode(&input, shape[0], height, width).unwrap(), "recon_sample");
        close(&codec.reconstruct(&posterior.mean, shape[0], height, width).unwrap(), "recon_mean");
    }
}

/// Moments are mean and log variance before it is clamped; the reference values stay within the bounds.
#[test]
fn moments_are_means_then_log_variances() {
    let (codec, file) = (golden_codec(), Golden::open("autoencoder_kl_tiny_io.safetensors"));
    let posterior = codec.posterior(&file.f32s("square.image"), 2, 32, 32).unwrap();
    let values = posterior.mean.len() / 2;
    let both = posterior.mean.chunks(values).zip(posterior.log_variance.chunks(values));
    let moments: Vec<f32> = both.flat_map(|(mean, log)| [mean, log].concat()).collect();
    assert_close(&wide(&moments), &file.f64s("square.moments"), TOLERANCE, "moments");
}

/// A variance is scaled by the square of what its value is scaled by: the draws of both forms are the same.
#[test]
fn normalised_moments_describe_the_normalised_latents() {
    let (codec, file) = (golden_codec(), Golden::open("autoencoder_kl_tiny_io.safetensors"));
    let image = file.f32s("square.image");
    let moments = codec.encode_moments(&image, 2, 32).unwrap();
    let posterior = codec.posterior(&image, 2, 32, 32).unwrap();
    let values = posterior.mean.len() / 2;
    let means: Vec<f32> = moments.chunks(2 * values).flat_map(|image| &image[..values]).copied().collect();
    assert_eq!(means, codec.encode(&image, 2, 32).unwrap());
    let noise = Stream::new(0, "test", &[]).normals(2 * values);
    let mut expected = posterior.sample(&noise);
    codec.normalize(&mut expected, posterior.height * posterior.width);
    let logs = moments.chunks(2 * values).flat_map(|image| &image[values..]);
    let draw = |((mean, log), noise): ((&f32, &f32), &f32)| mean + (0.5 * log).exp() * noise;
    let drawn: Vec<f32> = means.iter().zip(logs.clone()).zip(&noise).map(draw).collect();
    assert_close(&wide(&drawn), &wide(&expected), 1e-5, "draws");
    assert!(logs.into_iter().all(|log| (-30.0..=20.0).contains(log)));
}

/// What `--dry-run` says of a codec's memory grows with the batch and the pixels, and is no less than what a level holds.
#[test]
fn activations_are_estimated_from_the_widest_level() {
    let codec = golden_codec();
    let one = codec.activation_bytes(1, 64);
    assert_eq!((codec.activation_bytes(8, 64), codec.activation_bytes(1, 128)), (8 * one, 4 * one));
    assert!(one >= 4 * 2 * 8 * 64 * 64, "input and output of a convolution of eight channels: {one}");
}

#[test]
fn full_size_layouts_have_the_parameters_that_diffusers_counts() {
    let counts = golden::json("autoencoder_kl_counts.json");
    let count = |shape| parameters(&Architecture::AutoencoderKl(shape)) as u64;
    let expected = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count(KlShape::default()), expected("128_256_512_512"));
    let without = KlShape { attention: false, ..KlShape::default() };
    assert_eq!(count(without), expected("128_256_512_512_no_attention"));
    let slim = KlShape { channels: vec![128, 256, 256, 512], ..KlShape::default() };
    assert_eq!(count(slim), expected("128_256_256_512"));
}

#[test]
fn presets_have_the_sizes_that_their_docs_say() {
    let count = |name| parameters(&Architecture::preset(name).unwrap());
    assert_eq!(CODEC_PRESETS.map(count), [144_504, 687_663, 83_709_419]);
}

fn copy_golden(change: impl FnOnce(&Path)) -> Result<Codec, CodecError> {
    let folder = tempfile::tempdir().unwrap();
    for file in [CONFIG_FILE, WEIGHTS_FILE] {
        fs::copy(golden_folder().join(file), folder.path().join(file)).unwrap();
    }
    change(folder.path());
    Codec::load(folder.path(), &Device::flex())
}

fn message(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", message(source)),
        None => error.to_string(),
    }
}

#[test]
fn damaged_and_foreign_files_are_refused_by_name() {
    let failure = |change: &dyn Fn(&Path)| message(&copy_golden(change).unwrap_err());
    let edit = |change: fn(&mut Tensors)| {
        failure(&|folder| {
            let path = folder.join(WEIGHTS_FILE);
            let mut tensors = weights::from_bytes(&fs::read(&path).unwrap()).unwrap();
            change(&mut tensors);
            fs::write(path, weights::to_bytes(&tensors).unwrap()).unwrap();
        })
    };
    let missing = edit(|tensors| drop(tensors.remove("quant_conv.bias")));
    assert!(missing.contains("`quant_conv.bias` of shape [16] is missing"), "{missing}");
    let extra = edit(|tensors| {
        let tensor = tensors["quant_conv.bias"].clone();
        tensors.insert("loss.logvar".to_owned(), tensor);
    });
    assert!(extra.contains("`loss.logvar`"), "{extra}");
    let shape = edit(|tensors| tensors.get_mut("encoder.conv_in.weight").unwrap().shape = vec![3, 8, 3, 3]);
    assert!(shape.contains("[3, 8, 3, 3]") && shape.contains("[8, 3, 3, 3]"), "{shape}");
    for length in [0, 7, 5000, 804_011] {
        let cut = failure(&|folder| {
            let path = folder.join(WEIGHTS_FILE);
            fs::write(&path, &fs::read(&path).unwrap()[..length]).unwrap();
        });
        assert!(cut.contains(WEIGHTS_FILE) && cut.contains("safetensors file"), "{cut}");
    }
    let absent = failure(&|folder| fs::remove_file(folder.join(WEIGHTS_FILE)).unwrap());
    assert!(absent.contains(WEIGHTS_FILE), "{absent}");
    let class =
        failure(&|folder| fs::write(folder.join(CONFIG_FILE), r#"{"_class_name": "VQModel"}"#).unwrap());
    assert!(class.contains("`VQModel`"), "{class}");
}

/// Files from before diffusers 0.15 name the attention's tensors otherwise.
#[test]
fn old_names_of_the_attention_are_understood() {
    let file = Golden::open("autoencoder_kl_tiny_io.safetensors");
    let old = copy_golden(|folder| {
        let path = folder.join(WEIGHTS_FILE);
        let tensors = weights::from_bytes(&fs::read(&path).unwrap()).unwrap();
        let names = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
        let old = |name: String| names.iter().fold(name, |name, (new, old)| name.replace(new, old));
        let tensors = tensors.into_iter().map(|(name, tensor)| (old(name), tensor)).collect();
        fs::write(path, weights::to_bytes(&tensors).unwrap()).unwrap();
    });
    let image = file.f32s("square.image");
    let encode = |codec: &Codec| codec.encode(&image, 2, 32).unwrap();
    assert_eq!(encode(&old.unwrap()), encode(&golden_codec()));
}

#[test]
fn a_saved_codec_is_the_same_file_for_file() {
    let folder = tempfile::tempdir().unwrap();
    let codec = golden_codec();
    codec.save(&folder.path().join("copy")).unwrap();
    for file in [CONFIG_FILE, WEIGHTS_FILE] {
        let read = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert_eq!(read(&golden_folder()), read(&folder.path().join("copy")));
    }
    let copy = Codec::load(&folder.path().join("copy"), &Device::flex()).unwrap();
    assert_eq!(copy.fingerprint(), codec.fingerprint());
    assert_eq!(codec.fingerprint().len(), 64);
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let codec = golden_codec();
    assert!(matches!(codec.encode(&[0.0; 3 * 30 * 30], 1, 30), Err(CodecError::Size { multiple: 8, .. })));
    assert!(matches!(codec.encode(&[0.0; 5], 1, 32), Err(CodecError::Values { expected: 3072, found: 5 })));
    assert!(matches!(codec.decode(&[0.0; 5], 1, 4, 4), Err(CodecError::Values { expected: 128, .. })));
    assert!(codec.encode(&[], 0, 32).unwrap().is_empty());
    assert!(codec.decode(&[], 0, 4, 4).unwrap().is_empty());
}

fn fresh(name: &str) -> Codec {
    let architecture = Architecture::preset(name).unwrap();
    let device = Device::flex();
    let mut builder = Builder::fresh(3, &device);
    let tensors = match &architecture {
        Architecture::AutoencoderKl(shape) => {
            weights::read(&AutoencoderKl::build(&mut builder, shape).unwrap())
        }
        Architecture::Patch(shape) => weights::read(&PatchAutoencoder::build(&mut builder, shape).unwrap()),
    };
    let channels = Some((0..architecture.latent_channels()).map(|c| (0.1 * c as f32, 0.5)).collect());
    let normalization = Normalization { scaling: 1.0, shift: 0.0, channels };
    let config = CodecConfig { architecture, normalization, sample_size: None };
    let bytes = (config.to_json(), weights::to_bytes(&tensors).unwrap());
    Codec::from_parts(config, bytes.0, &bytes.1, Path::new("weights"), &device).unwrap()
}

/// What a dataset's bytes rest on.
#[test]
fn a_pictures_latent_has_the_same_bits_in_any_batch_and_on_any_number_of_threads() {
    for (name, size) in [("demo", 32), ("demo", 48), ("tiny", 64)] {
        let codec = fresh(name);
        let picture = 3 * size * size;
        let rgb: Vec<f32> = Stream::new(1, "pictures", &[]).normals(8 * picture);
        let encode = |batch: usize, threads: usize| -> Vec<f32> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let batches = rgb.chunks(batch * picture);
                batches.flat_map(|rgb| codec.encode(rgb, rgb.len() / picture, size).unwrap()).collect()
            })
        };
        let alone = encode(1, 1);
        assert!(alone.iter().all(|value| value.is_finite()));
        for (batch, threads) in [(1, 2), (3, 1), (3, 2), (8, 1), (8, 2), (8, 5)] {
            assert!(alone == encode(batch, threads), "{name} {size}, batch {batch}, {threads} threads");
        }
        let back = codec.decode(&alone, 8, size / codec.downsampling(), size / codec.downsampling()).unwrap();
        assert_eq!(back.len(), rgb.len());
    }
}

#[test]
fn a_codec_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Codec>();
}

/// Coloured squares on a ground, as bytes.
struct Squares(Vec<Vec<u8>>, usize);

impl Squares {
    fn new(count: usize, size: usize) -> Self {
        let square = |index: u64| {
            let mut stream = Stream::new(7, "squares", &[index]);
            let side = size as u32;
            let (row, column, half) = (stream.below(side), stream.below(side), 2 + stream.below(side / 3));
            let colour = [stream.below(256) as u8, stream.below(256) as u8, stream.below(256) as u8];
            let inside = |at: u32| (at / side).abs_diff(row) <= half && (at % side).abs_diff(column) <= half;
            (0..side * side).flat_map(|at| if inside(at) { colour } else { [240, 240, 235] }).collect()
        };
        Self((0..count as u64).map(square).collect(), size)
    }
}

impl Pictures for Squares {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn size(&self) -> usize {
        self.1
    }
    fn rgb(&self, index: usize) -> &[u8] {
        &self.0[index]
    }
}

#[derive(Default)]
struct Recorder {
    steps: Mutex<Vec<VaeStep>>,
    stop_after: Option<usize>,
}

impl VaeObserver for Recorder {
    fn event(&self, event: &VaeEvent) {
        if let VaeEvent::Step(step) = event {
            self.steps.lock().unwrap().push(*step);
        }
    }
    fn stop(&self) -> bool {
        self.stop_after.is_some_and(|after| self.steps.lock().unwrap().len() >= after)
    }
}

fn small(folder: &Path) -> VaeTrainConfig {
    VaeTrainConfig {
        output: folder.join("codec"),
        steps: 60,
        batch: 16,
        warm_up: 10,
        flip: true,
        ..VaeTrainConfig::demo()
    }
}

#[test]
fn training_lowers_the_error_and_leaves_latents_of_unit_size() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = Squares::new(48, 32);
    let (config, recorder) = (small(folder.path()), Recorder::default());
    let codec = train(&pictures, &config, &Device::flex(), &recorder).unwrap();
    let steps = recorder.steps.into_inner().unwrap();
    assert_eq!(steps.len(), 60);
    assert!(steps[59].l1 < 0.4 * steps[0].l1, "from {} to {}", steps[0].l1, steps[59].l1);

    let rgb: Vec<f32> = (0..48)
        .flat_map(|index| {
            let bytes = pictures.rgb(index);
            (0..3).flat_map(move |colour| {
                bytes[colour..].iter().step_by(3).map(|&byte| f32::from(byte) / 127.5 - 1.0)
            })
        })
        .collect();
    let latents = codec.encode(&rgb, 48, 32).unwrap();
    for channel in 0..4 {
        let values: Vec<f64> =
            latents.chunks(64).skip(channel).step_by(4).flatten().map(|&value| f64::from(value)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-3, "channel {channel}: {mean}, {square}");
    }
    let back = codec.decode(&latents, 48, 8, 8).unwrap();
    let error = back.iter().zip(&rgb).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / rgb.len() as f64;
    assert!((error - steps[59].l1).abs() < 0.05, "{error}");

    let log = fs::read_to_string(config.output.join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 6);
    assert!(!folder.path().join("codec.partial").exists());
    assert_eq!(Codec::load(&config.output, &Device::flex()).unwrap().fingerprint(), codec.fingerprint());
    let again = train(&pictures, &config, &Device::flex(), &()).unwrap_err();
    assert!(matches!(again, CodecError::Exists(_)));
}

#[test]
fn both_networks_train_to_the_same_bits_on_any_number_of_threads() {
    let pictures = Squares::new(10, 32);
    let kl = Architecture::AutoencoderKl(KlShape {
        channels: vec![8, 16],
        layers: 1,
        latent_channels: 4,
        groups: 4,
        ..KlShape::default()
    });
    for model in [CodecChoice::Preset("demo".to_owned()), CodecChoice::Sizes(kl)] {
        let on = |threads: usize| {
            let folder = tempfile::tempdir().unwrap();
            let config = VaeTrainConfig { steps: 4, batch: 6, model: model.clone(), ..small(folder.path()) };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&pictures, &config, &Device::flex(), &()).unwrap().fingerprint().to_owned())
        };
        assert_eq!(on(1), on(2), "{model:?}");
    }
}

#[test]
fn a_run_that_cannot_finish_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, device) = (Squares::new(4, 32), Device::flex());
    let config = small(folder.path());
    let recorder = Recorder { stop_after: Some(2), ..Recorder::default() };
    let stopped = train(&pictures, &config, &device, &recorder).unwrap_err();
    assert!(matches!(stopped, CodecError::Stopped { step: 2 }));
    let wild = VaeTrainConfig { l1: 1e40, mse: 1e40, ..config.clone() };
    let diverged = train(&pictures, &wild, &device, &()).unwrap_err();
    assert!(matches!(diverged, CodecError::Diverged { step: 1, .. }), "{diverged}");
    let none = train(&Squares::new(0, 32), &config, &device, &()).unwrap_err();
    assert!(matches!(none, CodecError::NoPictures));
    let other = train(&Squares::new(1, 64), &config, &device, &()).unwrap_err();
    assert_eq!(other.to_string(), "`size` is 32, the pictures are 64 pixels");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let nameless = VaeTrainConfig { output: "..".into(), ..config.clone() };
    let nameless = train(&pictures, &nameless, &device, &()).unwrap_err();
    assert!(nameless.to_string().starts_with("`output` must name a folder"), "{nameless}");
    fs::create_dir(&config.output).unwrap();
    fs::write(config.output.join("notes"), "mine").unwrap();
    let taken = train(&pictures, &config, &device, &()).unwrap_err();
    assert!(matches!(taken, CodecError::Exists(_)), "{taken}");
}

/// A codec with a value that is no number once made latents and flat pictures without a word.
#[test]
fn weights_that_are_no_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden_folder().join(CONFIG_FILE), folder.path().join(CONFIG_FILE)).unwrap();
    let bytes = fs::read(golden_folder().join(WEIGHTS_FILE)).unwrap();
    for value in [f32::NAN, f32::INFINITY, 0.5] {
        let mut tensors = weights::from_bytes(&bytes).unwrap();
        let name = tensors.keys().next().unwrap().clone();
        tensors.get_mut(&name).unwrap().values[0] = value;
        // A variant's name is as good as the usual one.
        fs::write(folder.path().join(WEIGHTS_FILES[1]), weights::to_bytes(&tensors).unwrap()).unwrap();
        match Codec::load(folder.path(), &Device::flex()) {
            Ok(codec) => {
                assert!(value.is_finite());
                assert_eq!(codec.fingerprint(), fingerprint_of(folder.path()).unwrap());
            }
            Err(error) => {
                assert!(!value.is_finite());
                assert!(error.to_string().contains(&format!("tensor `{name}` has values")), "{error}");
            }
        }
    }
}
