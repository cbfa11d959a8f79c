//! What a model is asked after its training, and how its answers become scores.

use serde::Serialize;

use super::corpus::{Corpus, Example, Subset};
use super::drawing::Picture;
use super::scorer::{Verdict, caption_is_right, judge};

/// Seeds of questions lie this far from the seed of the training pictures.
const FRESH: u64 = 1 << 40;

/// Prompts to draw and pictures to describe, subset by subset.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    examples: Vec<(Subset, Example)>,
}

/// A picture drawn from a prompt.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    pub(crate) prompt: String,
    pub(crate) picture: Picture,
    /// What of it is right.
    pub(crate) verdict: Verdict,
    /// Whether the combination was never trained on.
    pub(crate) held_out: bool,
}

/// A caption given to a picture.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) picture: Picture,
    /// What it shows.
    pub(crate) truth: String,
    /// What the model said.
    pub(crate) caption: String,
    /// Whether that is true, in either wording.
    pub(crate) right: bool,
    /// Whether the combination was never trained on.
    pub(crate) held_out: bool,
}

/// Right answers of all answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    pub(crate) right: usize,
    pub(crate) of: usize,
}

/// A share of answers that are right.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    /// What is counted.
    pub(crate) what: &'static str,
    /// Right answers among those trained on.
    pub(crate) seen: Tally,
    /// Right answers among combinations that were never trained on.
    pub(crate) held_out: Tally,
    /// Per cent to reach.
    pub(crate) goal: f64,
    /// Per cent to aim at.
    pub(crate) aim: f64,
}

impl Tally {
    /// Counts `true`.
    pub(crate) fn count(answers: impl IntoIterator<Item = bool>) -> Self {
        answers.into_iter().fold(Self::default(), |tally, right| Self {
            right: tally.right + usize::from(right),
            of: tally.of + 1,
        })
    }

    /// Right ones in per cent; none without answers.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.of > 0).then(|| 100.0 * self.right as f64 / self.of as f64)
    }
}

impl Questions {
    /// `seen` questions of singles and as many of pairs, `held_out` of either that was held out.
    pub(crate) fn new(seed: u64, seen: u64, held_out: u64) -> Self {
        let subsets = [
            (Subset::Singles, seen),
            (Subset::Pairs, seen),
            (Subset::HeldOutSingles, held_out),
            (Subset::HeldOutPairs, held_out),
        ];
        let corpus = |subset| Corpus { seed: seed.wrapping_add(FRESH), subset };
        let examples = subsets
            .into_iter()
            .flat_map(|(subset, count)| (0..count).map(move |index| (subset, corpus(subset).example(index))));
        Self { examples: examples.collect() }
    }

    pub(crate) fn prompts(&self) -> Vec<String> {
        self.examples.iter().map(|(_, example)| example.scene.caption()).collect()
    }

    pub(crate) fn pictures(&self) -> Vec<Picture> {
        self.examples.iter().map(|(_, example)| example.picture.clone()).collect()
    }

    /// Judges one picture a prompt and one caption a picture, in the order of the questions.
    pub(crate) fn judge(self, pictures: Vec<Picture>, captions: Vec<String>) -> Answers {
        let (mut drawings, mut descriptions) = (Vec::new(), Vec::new());
        for (((subset, Example { scene, picture: shown }), picture), caption) in
            self.examples.into_iter().zip(pictures).zip(captions)
        {
            let (truth, held_out) = (scene.caption(), scene.is_held_out());
            let (verdict, right) = (judge(&picture, &scene), caption_is_right(&caption, &scene));
            drawings.push((subset, Drawing { prompt: truth.clone(), picture, verdict, held_out }));
            descriptions.push((subset, Description { picture: shown, truth, caption, right, held_out }));
        }
        Answers { drawings, descriptions }
    }
}

/// What is drawn at intervals while a model trains: three singles and three pairs.
pub(crate) fn milestones(seed: u64) -> Vec<Example> {
    let corpus = |subset| Corpus { seed: seed.wrapping_add(3 * FRESH), subset };
    let example = |subset| move |index| corpus(subset).example(index);
    (0..3).map(example(Subset::Singles)).chain((0..3).map(example(Subset::Pairs))).collect()
}

/// The true drawings that are still right after `change`: what a codec leaves possible.
pub(crate) fn survivors(
    seed: u64,
    drawings: u64,
    mut change: impl FnMut(&Picture) -> anyhow::Result<Picture>,
) -> anyhow::Result<Tally> {
    let corpus = Corpus { seed: seed.wrapping_add(2 * FRESH), subset: Subset::Training };
    let mut right = Vec::new();
    for Example { scene, picture } in (0..drawings).map(|index| corpus.example(index)) {
        right.push(judge(&change(&picture)?, &scene).wholly);
    }
    Ok(Tally::count(right))
}

/// The share of true drawings that the scorer calls wholly right; an error below 99 %, because then no score can be believed.
pub(crate) fn scorer_check(seed: u64, drawings: u64) -> anyhow::Result<Tally> {
    const TRUSTED: f64 = 99.0;
    let tally = survivors(seed, drawings, |picture| Ok(picture.clone()))?;
    let percent = tally.percent().unwrap_or_default();
    anyhow::ensure!(
        percent >= TRUSTED,
        "the scorer calls {percent:.1} % of true drawings right, expected {TRUSTED} % or more"
    );
    Ok(tally)
}

/// All answers with their verdicts.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    drawings: Vec<(Subset, Drawing)>,
    descriptions: Vec<(Subset, Description)>,
}

impl Answers {
    /// The five scores of the benchmark.
    pub(crate) fn scores(&self) -> Vec<Score> {
        use Subset::{HeldOutPairs, HeldOutSingles, Pairs, Singles};
        let described = |subset| share(&self.descriptions, subset, |one| one.right);
        let colour = |subset| share(&self.drawings, subset, |one| one.verdict.colour);
        let wholly = |subset| share(&self.drawings, subset, |one| one.verdict.wholly);
        let score = |what, seen, held_out, goal, aim| Score { what, seen, held_out, goal, aim };
        vec![
            score("captions of single objects", described(Singles), described(HeldOutSingles), 95.0, 99.0),
            score("captions of pairs", described(Pairs), described(HeldOutPairs), 90.0, 97.0),
            score("drawn single objects: the colour", colour(Singles), colour(HeldOutSingles), 95.0, 99.0),
            score("drawn single objects: wholly right", wholly(Singles), wholly(HeldOutSingles), 80.0, 95.0),
            score("drawn pairs: wholly right", wholly(Pairs), wholly(HeldOutPairs), 50.0, 80.0),
        ]
    }

    /// The first drawings of each subset, `seen` of what was trained on and `held_out` of what was not.
    pub(crate) fn drawings(&self, seen: usize, held_out: usize) -> Vec<&Drawing> {
        first_of_each(&self.drawings, seen, held_out)
    }

    /// The first descriptions of each subset.
    pub(crate) fn descriptions(&self, seen: usize, held_out: usize) -> Vec<&Description> {
        first_of_each(&self.descriptions, seen, held_out)
    }
}

fn share<T>(all: &[(Subset, T)], subset: Subset, is_right: fn(&T) -> bool) -> Tally {
    Tally::count(all.iter().filter(|one| one.0 == subset).map(|one| is_right(&one.1)))
}

fn first_of_each<T>(all: &[(Subset, T)], seen: usize, held_out: usize) -> Vec<&T> {
    let counts = [
        (Subset::Singles, seen),
        (Subset::Pairs, seen),
        (Subset::HeldOutSingles, held_out),
        (Subset::HeldOutPairs, held_out),
    ];
    let of = |(subset, count)| all.iter().filter(move |one| one.0 == subset).take(count).map(|one| &one.1);
    counts.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_answers_have_full_scores() {
        let questions = Questions::new(0, 20, 5);
        let (pictures, prompts) = (questions.pictures(), questions.prompts());
        let answers = questions.judge(pictures, prompts);
        for score in answers.scores() {
            assert_eq!(score.seen, Tally { right: 20, of: 20 }, "{}", score.what);
            assert_eq!(score.held_out, Tally { right: 5, of: 5 }, "{}", score.what);
        }
        assert_eq!((answers.drawings(3, 1).len(), answers.descriptions(2, 2).len()), (8, 8));
    }

    #[test]
    fn answers_to_other_questions_are_wrong() {
        let (asked, other) = (Questions::new(0, 40, 0), Questions::new(1, 40, 0));
        let scores = asked.judge(other.pictures(), other.prompts()).scores();
        // By chance a single fits one time in 43 and a colour one time in 6.
        assert!(scores[0].seen.right < 8 && scores[1].seen.right < 4 && scores[3].seen.right < 8);
        assert!(scores[2].seen.right > scores[3].seen.right);
    }

    #[test]
    fn questions_are_fresh_and_the_scorer_is_sound() {
        let corpus = Corpus { seed: 0, subset: Subset::Singles };
        let trained: Vec<Picture> = (0..50).map(|index| corpus.example(index).picture).collect();
        assert!(Questions::new(0, 50, 0).pictures().iter().all(|picture| !trained.contains(picture)));
        assert!(scorer_check(0, 200).is_ok());
    }

    #[test]
    fn a_tally_without_answers_has_no_share() {
        assert_eq!(Tally::count([true, false, true, true]).percent(), Some(75.0));
        assert_eq!(Tally::default().percent(), None);
    }
}
