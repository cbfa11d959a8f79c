//! The demo's corpus: captioned pictures of 32 x 32 pixels, drawn by signed distances.
//!
//! [`Corpus::sample`] is a pure function of (seed, index), so that a corpus of any size is the same everywhere and
//! its tail can be drawn alone. Edges are anti-aliased: a pixel is covered by half a pixel minus the distance of its
//! centre to the edge, clamped to 0..1.

use std::f32::consts::PI;

use super::scene::{BACKGROUND, Relation, Scene, Shape, Size, Thing, all_things};

/// Side of a picture in pixels.
pub(crate) const SIDE: usize = 32;
/// Radius of the things of a pair in pixels.
pub(crate) const PAIR_RADIUS: f32 = Size::Small.radius();

/// A picture: `SIDE` x `SIDE` x 3 values of 0..1, row, column, channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture(pub(crate) Vec<f32>);

/// A picture with what it shows.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What it shows, in the wording of its caption.
    pub(crate) scene: Scene,
    /// The picture.
    pub(crate) picture: Picture,
}

/// Which scenes a corpus draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subset {
    /// Singles and pairs in equal parts, nothing that is held out: what is trained on.
    Training,
    /// Singles that are trained on.
    Singles,
    /// Pairs that are trained on.
    Pairs,
    /// The held-out singles.
    HeldOutSingles,
    /// The held-out pairs.
    HeldOutPairs,
}

/// An endless, repeatable row of samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corpus {
    /// What every draw depends on.
    pub(crate) seed: u64,
    /// Which scenes are drawn.
    pub(crate) subset: Subset,
}

impl Corpus {
    /// The sample at `index`.
    pub(crate) fn sample(&self, index: u64) -> Sample {
        let mut draws = Draws::new(self.seed, self.subset, index);
        let scene = self.scene(&mut draws);
        Sample { scene, picture: draw(&placed(&scene, &mut draws)) }
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

/// A thing at its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// What it is.
    pub(crate) thing: Thing,
    /// Its radius in pixels.
    pub(crate) radius: f32,
    /// Its centre (x, y) in pixels from the upper left corner; pixel (0, 0) has its centre at (0.5, 0.5).
    pub(crate) centre: [f32; 2],
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

/// Room between a centre and the edge of the picture: the widest shape's reach and half a pixel.
fn margin(radius: f32) -> f32 {
    1.35 * radius + 0.5
}

/// Draws things over the background, later ones over earlier ones.
pub(crate) fn draw(things: &[Placed]) -> Picture {
    let outlines: Vec<Outline> =
        things.iter().map(|placed| Outline::new(placed.thing.shape, placed.radius)).collect();
    let mut values = Vec::with_capacity(SIDE * SIDE * 3);
    for pixel in 0..SIDE * SIDE {
        let (x, y) = ((pixel % SIDE) as f32 + 0.5, (pixel / SIDE) as f32 + 0.5);
        let mut colour = BACKGROUND;
        for (placed, outline) in things.iter().zip(&outlines) {
            let point = [x - placed.centre[0], y - placed.centre[1]];
            if point.iter().any(|off| off.abs() > margin(placed.radius)) {
                continue;
            }
            let cover = outline.coverage(point);
            if cover > 0.0 {
                let over = placed.thing.colour.rgb();
                colour =
                    std::array::from_fn(|channel| (1.0 - cover) * colour[channel] + cover * over[channel]);
            }
        }
        values.extend(colour);
    }
    Picture(values)
}

impl Picture {
    /// As bytes, rounded.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect()
    }

    /// From bytes, row, column, channel.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect())
    }

    /// As a PNG file.
    pub(crate) fn png(&self) -> Vec<u8> {
        png(&self.bytes(), SIDE, SIDE)
    }
}

/// A PNG file of `width` x `height` RGB bytes.
pub(crate) fn png(rgb: &[u8], width: usize, height: usize) -> Vec<u8> {
    use image::ImageEncoder;
    use image::codecs::png::{CompressionType, FilterType, PngEncoder};
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub)
        .write_image(rgb, width as u32, height as u32, image::ExtendedColorType::Rgb8)
        .expect("a buffer of the picture's own size is encoded into memory");
    file
}

/// The outline of a shape around its centre.
#[derive(Clone, Debug)]
pub(crate) enum Outline {
    /// A circle.
    Circle {
        /// Its radius.
        radius: f32,
    },
    /// A closed polygon by its corners.
    Polygon {
        /// The corners in order.
        corners: Vec<[f32; 2]>,
    },
}

impl Outline {
    /// The outline of a shape whose radius is `radius`.
    pub(crate) fn new(shape: Shape, radius: f32) -> Self {
        match shape {
            Shape::Circle => Self::Circle { radius },
            Shape::Square => {
                let half = 0.9 * radius;
                Self::Polygon { corners: vec![[-half, -half], [half, -half], [half, half], [-half, half]] }
            }
            Shape::Triangle => Self::Polygon { corners: ring(&[1.3 * radius; 3]) },
            Shape::Star => {
                let (outer, inner) = (1.35 * radius, 0.5 * 1.35 * radius);
                let radii: Vec<f32> =
                    (0..10).map(|corner| if corner % 2 == 0 { outer } else { inner }).collect();
                Self::Polygon { corners: ring(&radii) }
            }
        }
    }

    /// How much of the pixel whose centre is at `point` is covered, 0..1.
    pub(crate) fn coverage(&self, point: [f32; 2]) -> f32 {
        (0.5 - self.distance(point)).clamp(0.0, 1.0)
    }

    /// Distance to the edge, negative inside.
    fn distance(&self, point: [f32; 2]) -> f32 {
        match self {
            Self::Circle { radius } => point[0].hypot(point[1]) - radius,
            Self::Polygon { corners } => polygon_distance(corners, point),
        }
    }

    /// The area inside.
    pub(crate) fn area(&self) -> f32 {
        match self {
            Self::Circle { radius } => PI * radius * radius,
            Self::Polygon { corners } => {
                let doubled: f32 = edges(corners).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum();
                doubled.abs() / 2.0
            }
        }
    }
}

/// Corners at equal angles, the first upwards (y grows downwards).
fn ring(radii: &[f32]) -> Vec<[f32; 2]> {
    let corner = |(place, radius): (usize, &f32)| {
        let angle = 2.0 * PI * place as f32 / radii.len() as f32;
        [radius * angle.sin(), -radius * angle.cos()]
    };
    radii.iter().enumerate().map(corner).collect()
}

fn edges(corners: &[[f32; 2]]) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
    (0..corners.len()).map(|corner| (corners[corner], corners[(corner + 1) % corners.len()]))
}

/// Exact signed distance to a simple polygon: the nearest edge, and the parity of crossings for the sign.
fn polygon_distance(corners: &[[f32; 2]], point: [f32; 2]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    for (a, b) in edges(corners) {
        let (edge, to_point) = ([b[0] - a[0], b[1] - a[1]], [point[0] - a[0], point[1] - a[1]]);
        let along = (to_point[0] * edge[0] + to_point[1] * edge[1]) / (edge[0] * edge[0] + edge[1] * edge[1]);
        let along = along.clamp(0.0, 1.0);
        let off = [to_point[0] - along * edge[0], to_point[1] - along * edge[1]];
        nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
        if (a[1] > point[1]) != (b[1] > point[1]) && point[0] < a[0] + (point[1] - a[1]) / edge[1] * edge[0] {
            inside = !inside;
        }
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

/// Numbers drawn from (seed, subset, index): the extended output of BLAKE3.
pub(crate) struct Draws(blake3::OutputReader);

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
    use super::super::scene::Colour;
    use super::*;

    fn corpus(subset: Subset) -> Corpus {
        Corpus { seed: 0, subset }
    }

    #[test]
    fn a_sample_depends_on_seed_and_index_only() {
        let one = corpus(Subset::Training).sample(41);
        let again = corpus(Subset::Training).sample(41);
        assert_eq!((one.scene, &one.picture), (again.scene, &again.picture));
        let others =
            [corpus(Subset::Training).sample(42), Corpus { seed: 1, subset: Subset::Training }.sample(41)];
        assert!(others.iter().all(|other| other.picture != one.picture));
    }

    #[test]
    fn half_are_single_and_none_is_held_out() {
        let scenes: Vec<Scene> =
            (0..4000).map(|index| corpus(Subset::Training).sample(index).scene).collect();
        let singles = scenes.iter().filter(|scene| matches!(scene, Scene::Single { .. })).count();
        // Standard deviation 32; five of them.
        assert!((1840..2160).contains(&singles), "{singles}");
        assert!(!scenes.iter().any(Scene::is_held_out));
        let held_out = |subset| (0..200).all(|index| corpus(subset).sample(index).scene.is_held_out());
        assert!(held_out(Subset::HeldOutSingles) && held_out(Subset::HeldOutPairs));
    }

    #[test]
    fn nothing_touches_the_edge() {
        let background = Picture([BACKGROUND; SIDE * SIDE].concat()).bytes();
        for index in 0..300 {
            let bytes = corpus(Subset::Training).sample(index).picture.bytes();
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
    fn coverage_adds_up_to_the_area() {
        for shape in Shape::ALL {
            for radius in [5.0, 8.0] {
                let outline = Outline::new(shape, radius);
                let mut covered = 0.0;
                for pixel in 0..SIDE * SIDE {
                    let (x, y) = ((pixel % SIDE) as f32 - 15.3, (pixel / SIDE) as f32 - 15.8);
                    covered += outline.coverage([x, y]);
                }
                // Corners are rounded off by the half pixel: 6 % at most, for the star of radius 5.
                let ratio = covered / outline.area();
                assert!((0.94..1.06).contains(&ratio), "{shape:?} {radius}: {ratio}");
            }
        }
    }

    #[test]
    fn a_square_has_the_colour_inside_and_the_background_outside() {
        let thing = Thing::new(Colour::Blue, Shape::Square);
        let picture = draw(&[Placed { thing, radius: 5.0, centre: [16.0, 16.0] }]);
        let at = |x: usize, y: usize| &picture.0[(y * SIDE + x) * 3..][..3];
        assert_eq!(at(16, 16), Colour::Blue.rgb());
        assert_eq!(at(12, 12), Colour::Blue.rgb());
        assert_eq!(at(10, 16), BACKGROUND);
        let expected: Vec<f32> = (0..3).map(|c| (BACKGROUND[c] + Colour::Blue.rgb()[c]) / 2.0).collect();
        // The half-side is 4.5, so the column at 11.0..12.0 is covered by half: its centre is on the edge.
        assert!(at(11, 16).iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6));
    }

    #[test]
    fn a_png_is_read_back() {
        let picture = corpus(Subset::Pairs).sample(3).picture;
        let read = image::load_from_memory(&picture.png()).unwrap().to_rgb8();
        assert_eq!(read.dimensions(), (SIDE as u32, SIDE as u32));
        assert_eq!(read.as_raw(), &picture.bytes());
    }
}
