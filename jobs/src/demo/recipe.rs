//! What the demo does and how much of it: the recipe, and the config files in which it is written down.
//!
//! The demo has no settings of its own: everything that differs from the defaults stands in three TOML files, written
//! into the output folder before the jobs read them, so that each step can be run again by hand.

use std::path::Path;

use super::progress;
use super::report::Deviation;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Pictures drawn.
    pub(crate) pictures: u64,
    /// Updates of the codec.
    pub(crate) codec_steps: u64,
    /// True drawings that are sent through the codec and back, to see what it leaves possible.
    pub(crate) codec_drawings: u64,
    /// Updates of the model.
    pub(crate) steps: u64,
    /// Moments at which the same prompts are drawn while it trains.
    pub(crate) moments: u64,
    /// Questions of each kind whose combinations were trained on.
    pub(crate) seen: u64,
    /// Questions of each kind that were held out.
    pub(crate) held_out: u64,
    /// True drawings that the scorer is checked on.
    pub(crate) scorer_drawings: u64,
    /// Seed of everything.
    pub(crate) seed: u64,
}

/// Positions of a row: three singles of 24 and three pairs of 27 or 28 fill it.
pub(crate) const CONTEXT: u32 = 156;
/// Rows of an update: about 30 documents.
pub(crate) const BATCH: u64 = 5;
/// Pictures of an update of the codec.
pub(crate) const CODEC_BATCH: u64 = 64;
/// Ids of the tokenizer: 256 bytes, three markers, and room for every word of the captions.
pub(crate) const VOCABULARY: u32 = 384;
/// Denoising steps of a picture.
pub(crate) const DENOISING: u32 = 40;
/// Weight of guidance.
pub(crate) const GUIDANCE: f64 = 2.5;

impl Recipe {
    /// What the scores are measured on.
    pub(crate) const fn full(seed: u64) -> Self {
        Self {
            pictures: 196_608,
            codec_steps: 2250,
            codec_drawings: 500,
            steps: 16_500,
            moments: 9,
            seen: 100,
            held_out: 50,
            scorer_drawings: 1000,
            seed,
        }
    }

    /// Everything once, too short to learn much.
    pub(crate) const fn quick(seed: u64) -> Self {
        Self {
            pictures: 1024,
            codec_steps: 40,
            codec_drawings: 20,
            steps: 40,
            moments: 2,
            seen: 8,
            held_out: 4,
            scorer_drawings: 200,
            seed,
        }
    }

    /// Whether it is too short to learn from.
    pub(crate) fn is_quick(&self) -> bool {
        self.steps <= Self::quick(self.seed).steps
    }

    /// The config of `vae train`.
    pub(crate) fn codec_toml(&self, folder: &Folder<'_>) -> String {
        let (seed, steps) = (self.seed, self.codec_steps);
        format!(
            "# The demo's image codec: 147,000 parameters, blocks of 4 x 4 pixels to 4 numbers.\n\
             # Run it with: transfusion vae train {config}\n\
             output = {output}\n\
             model = \"demo\"\n\
             size = 32\n\
             seed = {seed}\n\
             steps = {steps}\n\
             batch = {CODEC_BATCH}\n\
             rate = 3e-3\n\
             warm-up = 50\n\
             l1 = 1.0\n\
             mse = 1.0\n\
             kl = 1e-4\n\
             kl-reduction = \"mean\"\n\
             log-every = 5\n\
             \n\
             {source}",
            config = folder.shown("codec.toml"),
            output = quoted(&folder.shown("codec")),
            source = source(folder),
        )
    }

    /// The config of `preprocess`.
    pub(crate) fn preprocess_toml(&self, folder: &Folder<'_>) -> String {
        format!(
            "# The demo's dataset: a tokenizer trained on the captions, pictures through the codec, 70 % caption first.\n\
             # Run it with: transfusion preprocess {config}\n\
             output = {output}\n\
             seed = {seed}\n\
             context = {CONTEXT}\n\
             caption-first-share = 0.7\n\
             # A quarter of the default, so that there are enough shards to shuffle.\n\
             unit-bytes = 8_000_000\n\
             \n\
             [tokenizer]\n\
             train = {{ vocabulary = {VOCABULARY} }}\n\
             \n\
             [codec]\n\
             path = {codec}\n\
             size = 32\n\
             patch = 2\n\
             batch = 64\n\
             \n\
             {source}",
            config = folder.shown("preprocess.toml"),
            output = quoted(&folder.shown("dataset")),
            codec = quoted(&folder.shown("codec")),
            seed = self.seed,
            source = source(folder),
        )
    }

    /// The config of `train`.
    pub(crate) fn train_toml(&self, folder: &Folder<'_>) -> String {
        format!(
            "# The demo's model: 4 layers of 128, {BATCH} rows an update (about 30 documents).\n\
             # Run it with: transfusion train {config}\n\
             run = {run}\n\
             model = \"demo\"\n\
             seed = {seed}\n\
             steps = {steps}\n\
             batch = {BATCH}\n\
             lambda = 5.0\n\
             ema = 0.999\n\
             codec = {codec}\n\
             \n\
             [[data]]\n\
             uri = {data}\n\
             \n\
             [optimizer]\n\
             betas = [0.9, 0.98]\n\
             decay = 0.01\n\
             clip = 1.0\n\
             \n\
             [schedule]\n\
             rate = 2e-3\n\
             warm-up = {warm_up}\n\
             floor = 4e-5\n\
             \n\
             [diffusion]\n\
             prediction = \"velocity\"\n\
             loss-weight = {{ soft-snr = 4.0 }}\n\
             caption-dropout = 0.1\n\
             noise-limit = 100\n\
             \n\
             [stream]\n\
             readers = 1\n\
             \n\
             [checkpoint]\n\
             every = {every}\n\
             keep = 2\n\
             \n\
             [sample]\n\
             every = {sample_every}\n\
             prompts = {prompts}\n\
             method = \"ddim\"\n\
             steps = {DENOISING}\n\
             guidance = {GUIDANCE}\n",
            config = folder.shown("train.toml"),
            run = quoted(&folder.shown("run")),
            codec = quoted(&folder.shown("codec")),
            data = quoted(&folder.shown("dataset")),
            seed = self.seed,
            steps = self.steps,
            warm_up = 100.min(self.steps / 4),
            every = self.steps.div_ceil(4),
            sample_every = self.steps.div_ceil(self.moments),
            prompts = toml::Value::from(progress::prompts(self.seed)),
        )
    }
}

/// The output folder, by the name the user gave it.
#[derive(Clone, Debug)]
pub(crate) struct Folder<'a>(pub(crate) &'a Path);

impl Folder<'_> {
    /// A path in it, as it stands in configs and commands.
    pub(crate) fn shown(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

fn source(folder: &Folder<'_>) -> String {
    let uri = quoted(&folder.shown("pictures/*.parquet"));
    format!("[[source]]\nname = \"pictures\"\nuri = {uri}\nshape = \"pair\"\n")
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Every setting of the recipe that is not the paper's.
pub(crate) fn deviations() -> Vec<Deviation> {
    let line = |setting: &str, paper: &str, demo: &str, why: &str| Deviation {
        setting: setting.to_owned(),
        paper: paper.to_owned(),
        demo: demo.to_owned(),
        why: why.to_owned(),
    };
    vec![
        line(
            "diffusion.prediction",
            "noise",
            "velocity",
            "nearly pure noise says little about the picture; the velocity keeps its part of the loss there",
        ),
        line(
            "diffusion.loss-weight",
            "none",
            "4 / (SNR + 4)",
            "steps with little noise are easy and would take most of the loss",
        ),
        line("caption-first-share", "0.8", "0.7", "captions need more examples than 20 % of a short run"),
        line(
            "diffusion.noise-limit",
            "500 of 1,000",
            "100 of 1,000",
            "an image before its caption is nearly clean when it is described",
        ),
        line(
            "diffusion.caption-dropout",
            "not stated",
            "0.1",
            "guidance needs a model that also draws without a caption",
        ),
        line(
            "sampling",
            "250 steps of 1,000, guidance 3 to 5",
            "DDIM, 40 steps, guidance 2.5",
            "as good here, six times quicker",
        ),
        line(
            "codec",
            "86 M parameters, f8, 8 channels, with perceptual and adversarial loss",
            "147,000 parameters, f4, 4 channels, L1 + MSE + KL",
            "pictures of 32 x 32 pixels",
        ),
        line(
            "patch.encoder input",
            "the patch plus the embedding of t",
            "the same, padded from 16 to 64 numbers",
            "16 numbers hold a timestep badly",
        ),
        line("optimizer.betas, decay", "0.9 and 0.95, 0.1", "0.9 and 0.98, 0.01", "small batches, few steps"),
        line(
            "schedule.rate, batch",
            "3e-4, 2 M positions",
            "2e-3, about 770 positions",
            "a small model learns at a high rate",
        ),
        line("ema", "not stated", "0.999", "averages away the noise of small batches"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_odd_letters_stays_one_string() {
        let path = Path::new("out/a \"b\" \\c");
        let text = Recipe::quick(3).train_toml(&Folder(path));
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["run"].as_str(), path.join("run").to_str());
    }

    #[test]
    fn the_trainer_takes_the_config() {
        let text = Recipe::full(7).train_toml(&Folder(Path::new("out/demo")));
        let config: trainer::config::TrainConfig = toml::from_str(&text).unwrap();
        config.check().unwrap();
        assert_eq!((config.seed, config.steps), (7, Recipe::full(7).steps));
        assert_eq!(config.diffusion.noise_limit, 100);
        assert_eq!(config.sample.prompts.len(), 6);
    }
}
