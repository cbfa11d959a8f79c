//! What a picture of shapes shows, and the captions that say so.
//!
//! A [`Scene`] is one shape of a size, or two shapes and how they lie to each other. Captions and scenes translate
//! into each other exactly ([`Scene::caption`], [`Scene::parse`]); a pair has two true wordings ("a red circle above
//! a blue square", "a blue square below a red circle"), which [`Scene::agrees`] counts as the same.

use std::fmt;

/// The colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Orange,
}

/// The shapes, of radius r.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// Of radius r.
    Circle,
    /// Of half-side 0.9 r.
    Square,
    /// Equilateral, standing on a side, of circumradius 1.3 r.
    Triangle,
    /// Five points, one upwards, of circumradius 1.35 r.
    Star,
}

/// The sizes of a shape that stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Size {
    Small,
    Big,
}

/// How the first thing of a pair lies to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Relation {
    Above,
    Below,
    LeftOf,
    RightOf,
}

/// A coloured shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Thing {
    pub(crate) colour: Colour,
    pub(crate) shape: Shape,
}

/// What a picture shows: one thing of a size, or two things, `first` being `relation` `second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scene {
    Single { size: Size, thing: Thing },
    Pair { first: Thing, relation: Relation, second: Thing },
}

/// Background of every picture, 0..1.
pub(crate) const BACKGROUND: [f32; 3] = [0.94, 0.94, 0.92];

impl Colour {
    /// All colours.
    pub(crate) const ALL: [Self; 6] =
        [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::Purple, Self::Orange];

    /// Red, green, blue in 0..1.
    pub(crate) const fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.86, 0.12, 0.12],
            Self::Green => [0.12, 0.63, 0.22],
            Self::Blue => [0.12, 0.30, 0.88],
            Self::Yellow => [0.95, 0.82, 0.10],
            Self::Purple => [0.55, 0.15, 0.70],
            Self::Orange => [0.97, 0.52, 0.08],
        }
    }
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Star];
}

impl Size {
    /// Both sizes.
    pub(crate) const ALL: [Self; 2] = [Self::Small, Self::Big];

    /// Radius in pixels.
    pub(crate) const fn radius(self) -> f32 {
        match self {
            Self::Small => 5.0,
            Self::Big => 8.0,
        }
    }
}

impl Relation {
    /// All relations.
    pub(crate) const ALL: [Self; 4] = [Self::Above, Self::Below, Self::LeftOf, Self::RightOf];

    /// What holds when the two things are named the other way round.
    pub(crate) const fn inverse(self) -> Self {
        match self {
            Self::Above => Self::Below,
            Self::Below => Self::Above,
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Above => "above",
            Self::Below => "below",
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
        }
    }
}

#[cfg(test)]
impl Thing {
    /// A thing.
    pub(crate) const fn new(colour: Colour, shape: Shape) -> Self {
        Self { colour, shape }
    }
}

impl Scene {
    /// Every single scene: 2 sizes of 6 colours of 4 shapes.
    pub(crate) fn singles() -> Vec<Self> {
        let things = all_things();
        Size::ALL
            .iter()
            .flat_map(|&size| things.iter().map(move |&thing| Self::Single { size, thing }))
            .collect()
    }

    /// The scene in words.
    pub(crate) fn caption(&self) -> String {
        self.to_string()
    }

    /// The scene that `caption` describes; none where it is no caption of ours, word by word.
    pub(crate) fn parse(caption: &str) -> Option<Self> {
        let words: Vec<&str> = caption.split_whitespace().collect();
        match words[..] {
            [article, size, colour, shape] => {
                let size = named(&Size::ALL, size)?;
                (article == "a").then_some(Self::Single { size, thing: thing(colour, shape)? })
            }
            [a, colour, shape, ref between @ .., b, other_colour, other_shape] => {
                let (first, second) = (thing(colour, shape)?, thing(other_colour, other_shape)?);
                let relation =
                    Relation::ALL.into_iter().find(|relation| relation.words() == between.join(" "))?;
                (a == article_of(first) && b == article_of(second)).then_some(Self::Pair {
                    first,
                    relation,
                    second,
                })
            }
            _ => None,
        }
    }

    /// The other true wording of a pair; a single has one only.
    pub(crate) const fn other_wording(&self) -> Self {
        match *self {
            Self::Single { .. } => *self,
            Self::Pair { first, relation, second } => {
                Self::Pair { first: second, relation: relation.inverse(), second: first }
            }
        }
    }

    /// Whether both describe the same picture.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self == other || self.other_wording() == *other
    }

    /// Whether the scene never occurs in training.
    pub(crate) fn is_held_out(&self) -> bool {
        match *self {
            Self::Single { size, thing } => HELD_OUT_SINGLES.contains(&(size, thing.colour, thing.shape)),
            Self::Pair { first, second, .. } => HELD_OUT_PAIRS.iter().any(|pair| {
                let pair = pair.map(|(colour, shape)| Thing { colour, shape });
                pair == [first, second] || pair == [second, first]
            }),
        }
    }
}

/// Five of the 48 single combinations; each size, colour and shape of them is seen in other company.
pub(crate) const HELD_OUT_SINGLES: [(Size, Colour, Shape); 5] = [
    (Size::Small, Colour::Blue, Shape::Triangle),
    (Size::Small, Colour::Yellow, Shape::Circle),
    (Size::Big, Colour::Green, Shape::Star),
    (Size::Big, Colour::Purple, Shape::Square),
    (Size::Small, Colour::Orange, Shape::Star),
];

/// Twelve of the 300 combinations of two things, in any relation and either order.
pub(crate) const HELD_OUT_PAIRS: [[(Colour, Shape); 2]; 12] = [
    [(Colour::Red, Shape::Circle), (Colour::Blue, Shape::Star)],
    [(Colour::Red, Shape::Star), (Colour::Yellow, Shape::Triangle)],
    [(Colour::Green, Shape::Square), (Colour::Orange, Shape::Circle)],
    [(Colour::Green, Shape::Triangle), (Colour::Purple, Shape::Star)],
    [(Colour::Blue, Shape::Circle), (Colour::Yellow, Shape::Square)],
    [(Colour::Blue, Shape::Square), (Colour::Red, Shape::Triangle)],
    [(Colour::Yellow, Shape::Star), (Colour::Purple, Shape::Circle)],
    [(Colour::Purple, Shape::Triangle), (Colour::Orange, Shape::Square)],
    [(Colour::Orange, Shape::Star), (Colour::Green, Shape::Circle)],
    [(Colour::Orange, Shape::Triangle), (Colour::Red, Shape::Square)],
    [(Colour::Purple, Shape::Square), (Colour::Blue, Shape::Triangle)],
    [(Colour::Yellow, Shape::Circle), (Colour::Green, Shape::Star)],
];

impl fmt::Display for Scene {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Single { size, thing } => write!(out, "a {} {thing}", word(size)),
            Self::Pair { first, relation, second } => write!(
                out,
                "{} {first} {} {} {second}",
                article_of(first),
                relation.words(),
                article_of(second)
            ),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", word(self.colour), word(self.shape))
    }
}

/// Every coloured shape.
pub(crate) fn all_things() -> Vec<Thing> {
    Colour::ALL
        .iter()
        .flat_map(|&colour| Shape::ALL.iter().map(move |&shape| Thing { colour, shape }))
        .collect()
}

fn article_of(thing: Thing) -> &'static str {
    if thing.colour == Colour::Orange { "an" } else { "a" }
}

fn thing(colour: &str, shape: &str) -> Option<Thing> {
    let colour = named(&Colour::ALL, colour)?;
    let shape = named(&Shape::ALL, shape)?;
    Some(Thing { colour, shape })
}

fn named<T: Copy + fmt::Debug>(all: &[T], name: &str) -> Option<T> {
    all.iter().copied().find(|&one| word(one) == name)
}

/// A colour, shape or size as captions name it.
fn word(of: impl fmt::Debug) -> String {
    format!("{of:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_pairs() -> Vec<Scene> {
        let things = all_things();
        let mut pairs = Vec::new();
        for &first in &things {
            for &second in &things {
                pairs.extend(Relation::ALL.map(|relation| Scene::Pair { first, relation, second }));
            }
        }
        pairs
    }

    #[test]
    fn captions_say_what_they_should() {
        let star = Thing::new(Colour::Orange, Shape::Star);
        let square = Thing::new(Colour::Blue, Shape::Square);
        assert_eq!(Scene::Single { size: Size::Small, thing: star }.caption(), "a small orange star");
        let pair = Scene::Pair { first: star, relation: Relation::LeftOf, second: square };
        assert_eq!(pair.caption(), "an orange star left of a blue square");
        assert_eq!(pair.other_wording().caption(), "a blue square right of an orange star");
    }

    #[test]
    fn every_caption_is_read_back() {
        for scene in Scene::singles().into_iter().chain(all_pairs()) {
            assert_eq!(Scene::parse(&scene.caption()), Some(scene));
            assert!(scene.agrees(&scene.other_wording()));
        }
    }

    #[test]
    fn what_is_no_caption_is_refused() {
        for text in [
            "",
            "a",
            "a small red",
            "an small red star",
            "a orange star above a red star",
            "a red star above",
            "a red star left a red star",
            "a small red star above a red star",
            "a red star above a red star star",
        ] {
            assert_eq!(Scene::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_two_true_wordings_agree() {
        let pairs = all_pairs();
        let scene = pairs[1234];
        let agreeing = pairs.iter().filter(|other| scene.agrees(other)).count();
        assert_eq!(agreeing, 2);
    }

    #[test]
    fn held_out_parts_are_seen_in_other_company() {
        let seen: Vec<_> = Scene::singles().into_iter().filter(|scene| !scene.is_held_out()).collect();
        assert_eq!(seen.len(), 43);
        for held_out in Scene::singles().iter().filter(|scene| scene.is_held_out()) {
            let Scene::Single { size, thing } = *held_out else { unreachable!() };
            let share = |wanted: &dyn Fn(Size, Thing) -> bool| {
                seen.iter()
                    .filter(|one| matches!(**one, Scene::Single { size, thing } if wanted(size, thing)))
                    .count()
            };
            assert!(share(&|_, other| other == thing) == 1, "{held_out}: the other size is seen");
            assert!(share(&|other, it| other == size && it.shape == thing.shape) >= 4, "{held_out}");
            assert!(share(&|other, it| other == size && it.colour == thing.colour) >= 2, "{held_out}");
        }
        assert_eq!(all_pairs().iter().filter(|scene| scene.is_held_out()).count(), 12 * 2 * 4);
    }
}
