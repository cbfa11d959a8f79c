//! What the demo does and how much of it: the recipe, and the config files in which it is written down.
//!
//! The demo has no settings of its own: everything that differs from the defaults stands in three TOML files, written
//! into the output folder before the jobs read them, so that each step can be run again by hand.

use serde::{Deserialize, Serialize};

use super::corpus::FILE_PICTURES;
use super::folder::Folder;
use crate::shapes::milestones;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Recipe {
    /// Pictures drawn.
    pub(super) pictures: u64,
    /// Updates of the codec.
    pub(super) codec_steps: u64,
    /// True drawings that are sent through the codec and back, to see what it leaves possible.
    pub(super) codec_drawings: u64,
    /// Updates of the model.
    pub(super) steps: u64,
    /// Moments at which the same prompts are drawn while it trains.
    pub(super) moments: u64,
    /// Questions of each kind whose combinations were trained on.
    pub(super) seen: u64,
    /// Questions of each kind that were held out.
    pub(super) held_out: u64,
    /// True drawings that the scorer is checked on.
    pub(super) scorer_drawings: u64,
    pub(super) seed: u64,
}

/// Positions of a row: three singles of 24 and three pairs of 27 or 28 fill it.
pub(super) const CONTEXT: u32 = 156;
/// Rows of an update: about 30 documents.
pub(super) const BATCH: u64 = 5;
/// Pictures of an update of the codec.
pub(super) const CODEC_BATCH: u64 = 64;
/// Updates of the codec that it needs to leave nearly every drawing right.
pub(super) const CODEC_STEPS: u64 = 2250;
/// Pictures drawn for each update of the model, which has about 30 documents; a million at most.
const PICTURES_A_STEP: u64 = 12;
/// Ids of the tokenizer: 256 bytes, three markers, and room for every word of the captions.
pub(super) const VOCABULARY: u32 = 384;
/// Denoising steps of a picture.
pub(super) const DENOISING: u32 = 40;
/// Weight of guidance.
pub(super) const GUIDANCE: f64 = 2.5;

impl Recipe {
    /// So many steps, and as much of the rest as goes with them.
    pub(super) fn of_steps(seed: u64, steps: u64, codec_steps: u64) -> Self {
        // Drawn in whole files; each picture is seen about two and a half times.
        let files = (PICTURES_A_STEP * steps + FILE_PICTURES / 2) / FILE_PICTURES;
        Self {
            pictures: files.clamp(1, 128) * FILE_PICTURES,
            codec_steps,
            codec_drawings: 500,
            steps,
            moments: 9,
            seen: 100,
            held_out: 50,
            scorer_drawings: 1000,
            seed,
        }
    }

    /// Everything once, too short to learn much.
    pub(super) const fn quick(seed: u64) -> Self {
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
    pub(super) fn is_quick(&self) -> bool {
        *self == Self::quick(self.seed)
    }

    /// The command that does the same again.
    pub(super) fn command(&self) -> String {
        let amount = match self.is_quick() {
            true => "--quick".to_owned(),
            false if self.codec_steps == CODEC_STEPS => format!("--steps {}", self.steps),
            false => format!("--steps {} --codec-steps {}", self.steps, self.codec_steps),
        };
        format!("transfusion demo {amount} --seed {}", self.seed)
    }

    /// The config of `vae train`.
    pub(super) fn codec_toml(&self, folder: Folder<'_>) -> String {
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
    pub(super) fn preprocess_toml(&self, folder: Folder<'_>) -> String {
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
    pub(super) fn train_toml(&self, folder: Folder<'_>) -> String {
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
            prompts = toml::Value::from(
                milestones(self.seed).iter().map(|one| one.scene.caption()).collect::<Vec<_>>()
            ),
        )
    }
}

fn source(folder: Folder<'_>) -> String {
    let uri = quoted(&folder.shown("pictures/*.parquet"));
    format!("[[source]]\nname = \"pictures\"\nuri = {uri}\nshape = \"pair\"\n")
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Every setting of the recipe that is not the paper's, a line each: what is set, the paper's value, which is the program's
/// default, the demo's, and why.
pub(super) const DEVIATIONS: &str = "\
diffusion.prediction | noise | velocity | nearly pure noise says little about the picture; the velocity keeps its part of the loss there
diffusion.loss-weight | none | 4 / (SNR + 4) | steps with little noise are easy and would take most of the loss
caption-first-share | 0.8 | 0.7 | captions need more examples than 20 % of a short run
diffusion.noise-limit | 500 of 1,000 | 100 of 1,000 | an image before its caption is nearly clean when it is described
diffusion.caption-dropout | not stated | 0.1 | guidance needs a model that also draws without a caption
sampling | 250 steps of 1,000, guidance 3 to 5 | DDIM, 40 steps, guidance 2.5 | as good here, six times quicker
codec | 86 M parameters, f8, 8 channels, with perceptual and adversarial loss | 147,000 parameters, f4, 4 channels, L1 + MSE + KL | pictures of 32 x 32 pixels
patch.encoder input | the patch plus the embedding of t | the same, padded from 16 to 64 numbers | 16 numbers hold a timestep badly
optimizer.betas, decay | 0.9 and 0.95, 0.1 | 0.9 and 0.98, 0.01 | small batches, few steps
schedule.rate, batch | 3e-4, 2 M positions | 2e-3, about 770 positions | a small model learns at a high rate
ema | not stated | 0.999 | averages away the noise of small batches";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The scores in docs/experiments.md were measured with so many pictures.
    #[test]
    fn pictures_follow_the_steps() {
        let pictures = |steps| Recipe::of_steps(0, steps, CODEC_STEPS).pictures;
        assert_eq!(pictures(16_500), 196_608);
        assert_eq!((pictures(40), pictures(1)), (8192, 8192));
    }

    #[test]
    fn a_recipe_names_the_command_that_repeats_it() {
        let command = |recipe: Recipe| recipe.command();
        assert_eq!(command(Recipe::quick(3)), "transfusion demo --quick --seed 3");
        assert_eq!(command(Recipe::of_steps(0, 900, CODEC_STEPS)), "transfusion demo --steps 900 --seed 0");
        let short = command(Recipe::of_steps(1, 900, 700));
        assert_eq!(short, "transfusion demo --steps 900 --codec-steps 700 --seed 1");
    }

    #[test]
    fn a_folder_with_odd_letters_stays_one_string() {
        let path = Path::new("out/a \"b\" \\c");
        let text = Recipe::quick(3).train_toml(Folder(path));
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["run"].as_str(), path.join("run").to_str());
    }

    #[test]
    fn the_trainer_takes_the_config() {
        let recipe = Recipe::of_steps(7, 16_500, CODEC_STEPS);
        let text = recipe.train_toml(Folder(Path::new("out/demo")));
        let config: trainer::config::TrainConfig = toml::from_str(&text).unwrap();
        config.check().unwrap();
        assert_eq!((config.seed, config.steps), (7, 16_500));
        assert_eq!(config.diffusion.noise_limit, 100);
        assert_eq!(config.sample.prompts.len(), 6);
    }
}
