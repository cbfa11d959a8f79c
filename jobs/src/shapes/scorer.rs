//! Says whether a picture shows a scene, without a model: palette, connected components, templates.
//!
//! 1. Every pixel is explained as a mix of the background and one palette colour, the nearest such mix; its share of
//!    colour is its cover. (The nearest palette colour itself would call the pale edge of a red shape orange.)
//! 2. Pixels covered by half or more form components; those of fewer than 12 pixels are specks and don't count.
//! 3. A component's colour is the one with the most cover. Its shape is the one whose template, drawn at the
//!    component's centre with the component's area, overlaps best (soft intersection over union); below
//!    [`OVERLAP_FLOOR`] it is no shape at all. Its size follows from its area.
//! 4. How two components lie to each other follows from their centres.
//!
//! The price of its simplicity: it looks at covers, not at edges, so a circle with slightly flat sides is still a
//! circle. It is validated on true drawings by the tests, and by [`super::questions::scorer_check`] before it is used.

use serde::Serialize;

use super::drawing::{Outline, Picture, SIDE};
use super::scene::{BACKGROUND, Colour, Relation, Scene, Shape, Size};

/// Least overlap of a component with its best template that still makes it a shape.
const OVERLAP_FLOOR: f32 = 0.70;
/// A component of fewer pixels is a speck.
const SPECK: usize = 12;
/// Between the radii of small and big, 5 and 8 pixels.
const SIZE_BORDER: f32 = 6.5;
/// Radii that are neither small nor big.
const RADII: std::ops::Range<f32> = 3.5..10.0;

/// A thing found in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// The palette colour.
    pub(crate) colour: Colour,
    /// The best template's shape; none below the floor.
    pub(crate) shape: Option<Shape>,
    /// Small or big; none far from both.
    pub(crate) size: Option<Size>,
    /// Centre (x, y) in pixels.
    pub(crate) centre: [f32; 2],
}

/// What of a scene a picture got right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Verdict {
    /// As many things as the scene has.
    pub(crate) count: bool,
    /// The right number of things, each of its colour; in a pair each at its place.
    pub(crate) colour: bool,
    /// That, and each of its shape, and a single of its size.
    pub(crate) wholly: bool,
}

/// Compares a picture with the scene it should show.
pub(crate) fn judge(picture: &Picture, scene: &Scene) -> Verdict {
    compare(&things(picture), scene)
}

fn compare(found: &[Found], scene: &Scene) -> Verdict {
    match (*scene, found) {
        (Scene::Single { size, thing }, [one]) => {
            let colour = one.colour == thing.colour;
            let wholly = colour && one.shape == Some(thing.shape) && one.size == Some(size);
            Verdict { count: true, colour, wholly }
        }
        (Scene::Pair { first, relation, second }, [a, b]) => {
            let placed = [(a, b), (b, a)].into_iter().filter(|(a, b)| holds(relation, a, b));
            let verdicts = placed.map(|(a, b)| {
                let colour = a.colour == first.colour && b.colour == second.colour;
                let wholly = colour && a.shape == Some(first.shape) && b.shape == Some(second.shape);
                Verdict { count: true, colour, wholly }
            });
            verdicts.max_by_key(|verdict| (verdict.wholly, verdict.colour)).unwrap_or(COUNT_ONLY)
        }
        _ => Verdict::default(),
    }
}

/// Two things that lie otherwise than they should.
const COUNT_ONLY: Verdict = Verdict { count: true, colour: false, wholly: false };

/// Whether a caption describes `truth`, in either wording.
pub(crate) fn caption_is_right(caption: &str, truth: &Scene) -> bool {
    Scene::parse(caption).is_some_and(|scene| scene.agrees(truth))
}

/// Whether `first` lies `relation` `second`: along the axis on which they are farther apart.
fn holds(relation: Relation, first: &Found, second: &Found) -> bool {
    let (x, y) = (second.centre[0] - first.centre[0], second.centre[1] - first.centre[1]);
    match relation {
        Relation::Above => y > x.abs(),
        Relation::Below => -y > x.abs(),
        Relation::LeftOf => x > y.abs(),
        Relation::RightOf => -x > y.abs(),
    }
}

/// The things in a picture, specks left out, in order of their first pixel.
fn things(picture: &Picture) -> Vec<Found> {
    let pixels: Vec<Pixel> =
        picture.0.chunks_exact(3).map(|rgb| Pixel::of([rgb[0], rgb[1], rgb[2]])).collect();
    let parts = components(&pixels);
    let sizeable = parts.iter().filter(|part| part.len() >= SPECK);
    sizeable.map(|part| recognise(part, &pixels)).collect()
}

/// A pixel as a mix of the background and a colour.
#[derive(Clone, Copy, Debug)]
struct Pixel {
    colour: Colour,
    /// Share of the colour, 0..1.
    cover: f32,
}

impl Pixel {
    /// The palette colour on whose line to the background the pixel nearly lies, and where on it.
    fn of(rgb: [f32; 3]) -> Self {
        let mixes = Colour::ALL.map(|colour| {
            let line = difference(colour.rgb(), BACKGROUND);
            let off = difference(rgb, BACKGROUND);
            let cover = (dot(off, line) / dot(line, line)).clamp(0.0, 1.0);
            let rest = std::array::from_fn(|channel| off[channel] - cover * line[channel]);
            (dot(rest, rest), Self { colour, cover })
        });
        let nearest = mixes.into_iter().min_by(|(one, _), (other, _)| one.total_cmp(other));
        nearest.expect("the palette has colours").1
    }
}

fn difference(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    std::array::from_fn(|channel| a[channel] - b[channel])
}

fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Groups of neighbouring pixels (eight neighbours) that are covered by half or more.
fn components(pixels: &[Pixel]) -> Vec<Vec<usize>> {
    let mut open: Vec<bool> = pixels.iter().map(|pixel| pixel.cover >= 0.5).collect();
    let mut parts = Vec::new();
    for start in 0..pixels.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let (mut part, mut next) = (vec![start], 0);
        while next < part.len() {
            for neighbour in neighbours(part[next]) {
                if std::mem::take(&mut open[neighbour]) {
                    part.push(neighbour);
                }
            }
            next += 1;
        }
        parts.push(part);
    }
    parts
}

fn neighbours(pixel: usize) -> impl Iterator<Item = usize> {
    let (row, column) = (pixel / SIDE, pixel % SIDE);
    let rows = row.saturating_sub(1)..(row + 2).min(SIDE);
    rows.flat_map(move |row| {
        (column.saturating_sub(1)..(column + 2).min(SIDE)).map(move |column| row * SIDE + column)
    })
}

/// Colour, shape and size of one component.
fn recognise(part: &[usize], pixels: &[Pixel]) -> Found {
    let cover = covers(part, pixels);
    let total: f32 = cover.iter().sum();
    let along = |axis: fn(usize) -> usize| {
        cover.iter().enumerate().map(|(pixel, cover)| cover * (axis(pixel) as f32 + 0.5)).sum::<f32>() / total
    };
    let centre = [along(|pixel| pixel % SIDE), along(|pixel| pixel / SIDE)];
    let fits = Shape::ALL.map(|shape| {
        let radius = (total / Outline::new(shape, 1.0).area()).sqrt();
        (overlap(&cover, &Outline::new(shape, radius), centre), shape, radius)
    });
    let (fit, shape, radius) =
        fits.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).expect("four shapes");
    Found {
        colour: main_colour(part, pixels),
        shape: (fit >= OVERLAP_FLOOR).then_some(shape),
        size: RADII.contains(&radius).then_some(if radius < SIZE_BORDER { Size::Small } else { Size::Big }),
        centre,
    }
}

/// The cover of a component's pixels and of the pale edge around it, 0 elsewhere.
fn covers(part: &[usize], pixels: &[Pixel]) -> Vec<f32> {
    let mut cover = vec![0.0; pixels.len()];
    for &pixel in part {
        for near in neighbours(pixel) {
            cover[near] = pixels[near].cover;
        }
    }
    cover
}

fn main_colour(part: &[usize], pixels: &[Pixel]) -> Colour {
    let weight = |colour: Colour| -> f32 {
        part.iter()
            .map(|&pixel| pixels[pixel])
            .filter(|pixel| pixel.colour == colour)
            .map(|pixel| pixel.cover)
            .sum()
    };
    let main = Colour::ALL.into_iter().max_by(|&one, &other| weight(one).total_cmp(&weight(other)));
    main.expect("the palette has colours")
}

/// Soft intersection over union of a component's cover with a template around `centre`.
fn overlap(cover: &[f32], template: &Outline, centre: [f32; 2]) -> f32 {
    let (mut both, mut either) = (0.0, 0.0);
    for (pixel, &found) in cover.iter().enumerate() {
        let (x, y) = ((pixel % SIDE) as f32 + 0.5, (pixel / SIDE) as f32 + 0.5);
        let drawn = template.coverage([x - centre[0], y - centre[1]], 1.0);
        both += found.min(drawn);
        either += found.max(drawn);
    }
    both / either.max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::super::corpus::{Corpus, Example, Subset};
    use super::super::drawing::{Placed, draw};
    use super::super::scene::Thing;
    use super::*;

    fn examples(subset: Subset, count: u64) -> impl Iterator<Item = Example> {
        (0..count).map(move |index| Corpus { seed: 3, subset }.example(index))
    }

    fn share(subset: Subset, count: u64, right: impl Fn(Example) -> bool) -> f64 {
        examples(subset, count).filter(|example| right(example.clone())).count() as f64 / count as f64
    }

    /// A picture with a value of -amount..amount added everywhere.
    fn noisy(picture: &Picture, amount: f32) -> Picture {
        let bytes = blake3::Hasher::new().update(&picture.bytes()).finalize_xof();
        let mut noise = vec![0; picture.0.len()];
        let mut bytes = bytes;
        bytes.fill(&mut noise);
        let add = |(value, byte): (&f32, u8)| value + amount * (f32::from(byte) / 127.5 - 1.0);
        Picture(picture.0.iter().zip(noise).map(add).collect())
    }

    /// A picture blurred by the weights 1 2 1 each way.
    fn blurred(picture: &Picture) -> Picture {
        let at = |x: isize, y: isize, channel: usize| {
            let inside = |place: isize| place.clamp(0, SIDE as isize - 1) as usize;
            picture.0[(inside(y) * SIDE + inside(x)) * 3 + channel]
        };
        let value = |index: usize| {
            let (channel, pixel) = (index % 3, index / 3);
            let (x, y) = ((pixel % SIDE) as isize, (pixel / SIDE) as isize);
            let weighted = |(off, weight): (isize, f32)| {
                weight
                    * (at(x + off, y - 1, channel)
                        + 2.0 * at(x + off, y, channel)
                        + at(x + off, y + 1, channel))
            };
            [(-1, 1.0), (0, 2.0), (1, 1.0)].map(weighted).iter().sum::<f32>() / 16.0
        };
        Picture((0..picture.0.len()).map(value).collect())
    }

    #[test]
    fn true_drawings_are_right() {
        for (subset, count) in
            [(Subset::Training, 1000), (Subset::HeldOutSingles, 200), (Subset::HeldOutPairs, 200)]
        {
            let right = share(subset, count, |example| judge(&example.picture, &example.scene).wholly);
            assert!(right >= 0.99, "{subset:?}: {right}");
        }
    }

    #[test]
    fn slight_noise_and_blur_are_forgiven() {
        let noise = share(Subset::Training, 300, |s| judge(&noisy(&s.picture, 0.08), &s.scene).wholly);
        let blur = share(Subset::Training, 300, |s| judge(&blurred(&s.picture), &s.scene).wholly);
        assert!(noise >= 0.97 && blur >= 0.97, "noise {noise}, blur {blur}");
    }

    #[test]
    fn a_wrong_shape_size_or_colour_is_wrong() {
        for Example { scene, picture } in examples(Subset::Training, 300) {
            let found = things(&picture);
            for other in changed(&scene) {
                let verdict = compare(&found, &other);
                assert!(!verdict.wholly, "a picture of {scene} passes for {other}");
            }
        }
    }

    /// Scenes that differ from `scene` in one word, as long as they don't mean the same.
    fn changed(scene: &Scene) -> Vec<Scene> {
        let mut others = Vec::new();
        let things = super::super::scene::all_things();
        match *scene {
            Scene::Single { thing, size } => {
                others.extend(things.iter().map(|&thing| Scene::Single { size, thing }));
                others.extend(Size::ALL.map(|size| Scene::Single { size, thing }));
            }
            Scene::Pair { first, relation, second } => {
                others.extend(things.iter().map(|&first| Scene::Pair { first, relation, second }));
                others.extend(things.iter().map(|&second| Scene::Pair { first, relation, second }));
                others.extend(Relation::ALL.map(|relation| Scene::Pair { first, relation, second }));
            }
        }
        // Two equal things lie both ways round.
        let same = |other: &Scene| match (*scene, *other) {
            (Scene::Pair { first, relation, second }, Scene::Pair { relation: changed, .. }) => {
                first == second && changed == relation.inverse()
            }
            _ => false,
        };
        others.retain(|other| {
            !(other.agrees(scene) || same(other) && pair_things(scene) == pair_things(other))
        });
        others
    }

    fn pair_things(scene: &Scene) -> Option<(Thing, Thing)> {
        match *scene {
            Scene::Pair { first, second, .. } => Some((first, second)),
            Scene::Single { .. } => None,
        }
    }

    #[test]
    fn nothing_one_thing_too_many_and_a_blob_are_wrong() {
        let scene = Scene::parse("a small red star").unwrap();
        let Scene::Single { thing, .. } = scene else { unreachable!() };
        let star = Placed { thing, radius: 5.0, centre: [10.0, 10.0] };
        assert_eq!(judge(&draw(&[]), &scene), Verdict::default());
        assert_eq!(
            judge(&draw(&[star, Placed { centre: [22.0, 22.0], ..star }]), &scene),
            Verdict::default()
        );
        let blob =
            [[8.0, 10.0], [11.0, 8.0], [16.0, 12.0]].map(|centre| Placed { centre, radius: 3.0, ..star });
        let verdict = judge(&draw(&blob), &scene);
        assert!(verdict.colour && !verdict.wholly);
    }

    #[test]
    fn colours_right_and_shape_wrong_is_said_apart() {
        let example = Corpus { seed: 0, subset: Subset::Pairs }.example(5);
        let Scene::Pair { first, relation, second } = example.scene else { unreachable!() };
        let shape = Shape::ALL.into_iter().find(|&shape| shape != first.shape).unwrap();
        let scene = Scene::Pair { first: Thing { shape, ..first }, relation, second };
        assert_eq!(judge(&example.picture, &scene), Verdict { count: true, colour: true, wholly: false });
        assert!(judge(&example.picture, &example.scene.other_wording()).wholly);
    }

    #[test]
    fn captions_in_either_wording_are_right() {
        let truth = Scene::parse("a red circle above a blue square").unwrap();
        assert!(caption_is_right("a red circle above a blue square", &truth));
        assert!(caption_is_right("a blue square below a red circle", &truth));
        for wrong in
            ["a blue square above a red circle", "a red circle above a blue", "", "a small red circle"]
        {
            assert!(!caption_is_right(wrong, &truth), "{wrong}");
        }
    }
}
