//! Captioned pictures in an endless row.
//!
//! [`Corpus::example`] is a pure function of (seed, subset, index), so that a corpus of any size is the same everywhere and
//! its tail can be drawn alone.

use super::drawing::{Picture, Placed, SIDE, draw, margin, png, render, to_bytes};
use super::scene::{Relation, Scene, Size, all_things};

/// Radius of the things of a pair in pixels.
const PAIR_RADIUS: f32 = Size::Small.radius();

/// A picture with what it shows.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) scene: Scene,
    pub(crate) picture: Picture,
}

/// Which scenes a corpus draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subset {
    /// Singles and pairs in equal parts, nothing that is held out: what is trained on.
    Training,
    Singles,
    Pairs,
    HeldOutSingles,
    HeldOutPairs,
}

/// An endless, repeatable row of examples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corpus {
    pub(crate) seed: u64,
    pub(crate) subset: Subset,
}

impl Corpus {
    /// The example at `index`.
    pub(crate) fn example(&self, index: u64) -> Example {
        let (scene, things) = self.placed(index);
        Example { scene, picture: draw(&things) }
    }

    /// The example at `index` as a PNG file of `zoom` times as many pixels each way, and its caption.
    pub(crate) fn enlarged(&self, index: u64, zoom: usize) -> (Vec<u8>, String) {
        let (scene, things) = self.placed(index);
        let side = zoom * SIDE;
        (png(&to_bytes(&render(&things, zoom)), side, side), scene.caption())
    }

    fn placed(&self, index: u64) -> (Scene, Vec<Placed>) {
        let mut draws = Draws::new(self.seed, self.subset, index);
        let scene = self.scene(&mut draws);
        (scene, placed(&scene, &mut draws))
    }

    fn scene(&self, draws: &mut Draws) -> Scene {
        let single = match self.subset {
            Subset::Training => draws.below(2) == 0,
            Subset::Singles | Subset::HeldOutSingles => true,
            Subset::Pairs | Subset::HeldOutPairs => false,
        };
        let held_out = matches!(self.subset, Subset::HeldOutSingles | Subset::HeldOutPairs);
        loop {
            let scene = if single { any_single(draws) } else { any_pair(draws) };
            if scene.is_held_out() == held_out {
                return scene;
            }
        }
    }
}

fn any_single(draws: &mut Draws) -> Scene {
    let scenes = Scene::singles();
    scenes[draws.below(scenes.len())]
}

fn any_pair(draws: &mut Draws) -> Scene {
    let things = all_things();
    let first = things[draws.below(things.len())];
    let second = things[draws.below(things.len())];
    Scene::Pair { first, relation: Relation::ALL[draws.below(4)], second }
}

/// Finds places for the things of `scene`, whole inside the picture.
fn placed(scene: &Scene, draws: &mut Draws) -> Vec<Placed> {
    match *scene {
        Scene::Single { size, thing } => {
            let radius = size.radius();
            let room = margin(radius)..SIDE as f32 - margin(radius);
            let centre = [draws.within(room.start, room.end), draws.within(room.start, room.end)];
            vec![Placed { thing, radius, centre }]
        }
        Scene::Pair { first, relation, second } => {
            let [one, other] = pair_centres(relation, draws);
            let at = |thing, centre| Placed { thing, radius: PAIR_RADIUS, centre };
            vec![at(first, one), at(second, other)]
        }
    }
}

/// Centres 14.3 to 17.3 pixels apart along the relation's axis and at most 3 across it.
fn pair_centres(relation: Relation, draws: &mut Draws) -> [[f32; 2]; 2] {
    let (low, high) = (margin(PAIR_RADIUS), SIDE as f32 - margin(PAIR_RADIUS));
    let apart = draws.within(14.3, 17.3);
    let across = draws.within(-3.0, 3.0);
    let near = draws.within(low, high - apart);
    let side = draws.within(low + (-across).max(0.0), high - across.max(0.0));
    let (front, back) = ([near, side], [near + apart, side + across]);
    let swap = |[x, y]: [f32; 2]| [y, x];
    match relation {
        Relation::LeftOf => [front, back],
        Relation::RightOf => [back, front],
        Relation::Above => [swap(front), swap(back)],
        Relation::Below => [swap(back), swap(front)],
    }
}

/// Numbers drawn from (seed, subset, index): the extended output of BLAKE3.
struct Draws(blake3::OutputReader);

impl Draws {
    fn new(seed: u64, subset: Subset, index: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"transfusion demo picture");
        hasher.update(&seed.to_le_bytes());
        hasher.update(&[subset as u8]);
        hasher.update(&index.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        schemas::share(u64::from_le_bytes(bytes))
    }

    fn within(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit() as f32
    }

    fn below(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::BACKGROUND;
    use super::*;

    fn corpus(subset: Subset) -> Corpus {
        Corpus { seed: 0, subset }
    }

    #[test]
    fn a_sample_depends_on_seed_and_index_only() {
        let one = corpus(Subset::Training).example(41);
        let again = corpus(Subset::Training).example(41);
        assert_eq!((one.scene, &one.picture), (again.scene, &again.picture));
        let others =
            [corpus(Subset::Training).example(42), Corpus { seed: 1, subset: Subset::Training }.example(41)];
        assert!(others.iter().all(|other| other.picture != one.picture));
    }

    #[test]
    fn half_are_single_and_none_is_held_out() {
        let scenes: Vec<Scene> =
            (0..4000).map(|index| corpus(Subset::Training).example(index).scene).collect();
        let singles = scenes.iter().filter(|scene| matches!(scene, Scene::Single { .. })).count();
        // Standard deviation 32; five of them.
        assert!((1840..2160).contains(&singles), "{singles}");
        assert!(!scenes.iter().any(Scene::is_held_out));
        let held_out = |subset| (0..200).all(|index| corpus(subset).example(index).scene.is_held_out());
        assert!(held_out(Subset::HeldOutSingles) && held_out(Subset::HeldOutPairs));
    }

    #[test]
    fn nothing_touches_the_edge() {
        let background = Picture([BACKGROUND; SIDE * SIDE].concat()).bytes();
        for index in 0..300 {
            let bytes = corpus(Subset::Training).example(index).picture.bytes();
            for place in 0..SIDE {
                for pixel in [place, place * SIDE, place * SIDE + SIDE - 1, (SIDE - 1) * SIDE + place] {
                    // An edge pixel may be grazed by the half pixel of anti-aliasing of the largest shapes.
                    let far = (0..3).map(|c| bytes[pixel * 3 + c].abs_diff(background[pixel * 3 + c])).max();
                    assert!(far.unwrap_or(0) < 160, "picture {index}, pixel {pixel}");
                }
            }
        }
    }

    #[test]
    fn a_png_is_read_back() {
        let picture = corpus(Subset::Pairs).example(3).picture;
        let read = image::load_from_memory(&picture.png()).unwrap().to_rgb8();
        assert_eq!(read.dimensions(), (SIDE as u32, SIDE as u32));
        assert_eq!(read.as_raw(), &picture.bytes());
    }

    #[test]
    fn an_enlarged_picture_shows_the_same_with_finer_edges() {
        let corpus = corpus(Subset::Pairs);
        assert_eq!(corpus.enlarged(3, 1).0, corpus.example(3).picture.png());
        let (png, caption) = corpus.enlarged(3, 4);
        let (large, small) = (image::load_from_memory(&png).unwrap().to_rgb8(), corpus.example(3));
        assert_eq!((large.dimensions(), caption), ((128, 128), small.scene.caption()));
        let shrunk = image::imageops::resize(&large, 32, 32, image::imageops::FilterType::Triangle);
        let off = shrunk.as_raw().iter().zip(small.picture.bytes()).map(|(a, b)| u64::from(a.abs_diff(b)));
        // Edges differ by how they are smoothed.
        assert!(off.sum::<u64>() < 8 * 32 * 32 * 3);
    }
}
