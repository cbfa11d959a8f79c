//! What the model is asked after the training, and how its answers become scores.

use serde::Serialize;

use super::drawing::{Corpus, Picture, Sample, Subset};
use super::report::{Drawn, Score, Tally, Told};
use super::scorer::{caption_is_right, judge};

/// Seeds of questions lie this far from the seed of the training pictures.
const FRESH: u64 = 1 << 40;

/// Prompts to draw and pictures to describe, subset by subset.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    samples: Vec<(Subset, Sample)>,
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
        let samples = subsets
            .into_iter()
            .flat_map(|(subset, count)| (0..count).map(move |index| (subset, corpus(subset).sample(index))));
        Self { samples: samples.collect() }
    }

    /// The prompts.
    pub(crate) fn prompts(&self) -> Vec<String> {
        self.samples.iter().map(|(_, sample)| sample.scene.caption()).collect()
    }

    /// The pictures.
    pub(crate) fn pictures(&self) -> Vec<Picture> {
        self.samples.iter().map(|(_, sample)| sample.picture.clone()).collect()
    }

    /// Judges one picture a prompt and one caption a picture, in the order of the questions.
    pub(crate) fn judge(&self, drawings: Vec<Picture>, captions: Vec<String>) -> Answers {
        let drawn = self.samples.iter().zip(drawings).map(|((subset, sample), picture)| {
            let verdict = judge(&picture, &sample.scene);
            let held_out = sample.scene.is_held_out();
            (*subset, Drawn { prompt: sample.scene.caption(), picture, verdict, held_out })
        });
        let told = self.samples.iter().zip(captions).map(|((subset, sample), caption)| {
            let right = caption_is_right(&caption, &sample.scene);
            let held_out = sample.scene.is_held_out();
            let truth = sample.scene.caption();
            (*subset, Told { picture: sample.picture.clone(), truth, caption, right, held_out })
        });
        Answers { drawn: drawn.collect(), told: told.collect() }
    }

    /// The true drawings that are still right after `change`: what a codec leaves possible.
    pub(crate) fn survivors(
        seed: u64,
        drawings: u64,
        mut change: impl FnMut(&Picture) -> anyhow::Result<Picture>,
    ) -> anyhow::Result<Tally> {
        let corpus = Corpus { seed: seed.wrapping_add(2 * FRESH), subset: Subset::Training };
        let mut right = Vec::new();
        for sample in (0..drawings).map(|index| corpus.sample(index)) {
            right.push(judge(&change(&sample.picture)?, &sample.scene).wholly);
        }
        Ok(Tally::count(right))
    }

    /// The share of true drawings that the scorer calls wholly right: it is trusted from 99 % up.
    pub(crate) fn scorer_check(seed: u64, drawings: u64) -> Tally {
        let corpus = Corpus { seed: seed.wrapping_add(2 * FRESH), subset: Subset::Training };
        Tally::count((0..drawings).map(|index| {
            let sample = corpus.sample(index);
            judge(&sample.picture, &sample.scene).wholly
        }))
    }
}

/// All answers with their verdicts.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    drawn: Vec<(Subset, Drawn)>,
    told: Vec<(Subset, Told)>,
}

/// One line of the scores.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ScoreLine {
    what: String,
    right: Tally,
    percent: Option<f64>,
    held_out: Tally,
    held_out_percent: Option<f64>,
    goal: f64,
    aim: f64,
}

impl From<&Score> for ScoreLine {
    fn from(score: &Score) -> Self {
        Self {
            what: score.what.clone(),
            right: score.seen,
            percent: score.seen.percent(),
            held_out: score.held_out,
            held_out_percent: score.held_out.percent(),
            goal: score.goal,
            aim: score.aim,
        }
    }
}

impl Answers {
    /// The five scores of the demo.
    pub(crate) fn scores(&self) -> Vec<Score> {
        let told =
            |subset| Tally::count(self.told.iter().filter(|one| one.0 == subset).map(|one| one.1.right));
        let drawn = |subset, right: fn(&Drawn) -> bool| {
            Tally::count(self.drawn.iter().filter(|one| one.0 == subset).map(|one| right(&one.1)))
        };
        let colour = |one: &Drawn| one.verdict.colour;
        let wholly = |one: &Drawn| one.verdict.wholly;
        let line = |what: &str, seen, held_out, goal, aim| Score {
            what: what.to_owned(),
            seen,
            held_out,
            goal,
            aim,
        };
        let (single, pair) = (Subset::Singles, Subset::Pairs);
        let (new_single, new_pair) = (Subset::HeldOutSingles, Subset::HeldOutPairs);
        vec![
            line("captions of single objects", told(single), told(new_single), 95.0, 99.0),
            line("captions of pairs", told(pair), told(new_pair), 90.0, 97.0),
            line(
                "drawn single objects: the colour",
                drawn(single, colour),
                drawn(new_single, colour),
                95.0,
                99.0,
            ),
            line(
                "drawn single objects: wholly right",
                drawn(single, wholly),
                drawn(new_single, wholly),
                80.0,
                95.0,
            ),
            line("drawn pairs: wholly right", drawn(pair, wholly), drawn(new_pair, wholly), 50.0, 80.0),
        ]
    }

    /// The first drawings of each subset, `seen` of what was trained on and `held_out` of what was not.
    pub(crate) fn drawings(&self, seen: usize, held_out: usize) -> Vec<Drawn> {
        first_of_each(&self.drawn, seen, held_out)
    }

    /// The first captions of each subset.
    pub(crate) fn captions(&self, seen: usize, held_out: usize) -> Vec<Told> {
        first_of_each(&self.told, seen, held_out)
    }
}

fn first_of_each<T: Clone>(all: &[(Subset, T)], seen: usize, held_out: usize) -> Vec<T> {
    let of =
        |subset, count| all.iter().filter(move |one| one.0 == subset).take(count).map(|one| one.1.clone());
    let known = of(Subset::Singles, seen).chain(of(Subset::Pairs, seen));
    known.chain(of(Subset::HeldOutSingles, held_out)).chain(of(Subset::HeldOutPairs, held_out)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_answers_have_full_scores() {
        let questions = Questions::new(0, 20, 5);
        let answers = questions.judge(questions.pictures(), questions.prompts());
        for score in answers.scores() {
            assert_eq!(score.seen, Tally { right: 20, of: 20 }, "{}", score.what);
            assert_eq!(score.held_out, Tally { right: 5, of: 5 }, "{}", score.what);
        }
        assert_eq!((answers.drawings(3, 1).len(), answers.captions(2, 2).len()), (8, 8));
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
        let trained: Vec<Picture> =
            (0..50).map(|index| Corpus { seed: 0, subset: Subset::Singles }.sample(index).picture).collect();
        assert!(Questions::new(0, 50, 0).pictures().iter().all(|picture| !trained.contains(picture)));
        assert!(Questions::scorer_check(0, 200).percent() >= Some(99.0));
    }
}
