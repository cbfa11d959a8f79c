//! From the scores of all tokens to one of them.

use crate::random::Stream;

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// At 0 the likeliest token is chosen; otherwise scores are divided by it.
    pub temperature: f64,
    /// Share of the probability that is kept, likeliest tokens first.
    pub top_p: f64,
}

impl Choice {
    /// One of the ids whose score is not minus infinity. A greedy choice draws nothing from `stream`.
    pub(super) fn choose(&self, logits: &[f64], stream: &mut Stream) -> usize {
        if self.temperature == 0.0 {
            return likeliest(logits);
        }
        let kept = probabilities(logits, self.temperature, self.top_p);
        let drawn = stream.uniform();
        let mut reached = 0.0;
        let crossed = kept.iter().position(|share| {
            reached += share;
            drawn < reached
        });
        // Rounding may leave the sum a little below 1.
        crossed.unwrap_or_else(|| likeliest(&kept))
    }
}

/// The first of the largest.
fn likeliest(values: &[f64]) -> usize {
    let larger = |best: usize, index: usize| if values[index] > values[best] { index } else { best };
    (0..values.len()).reduce(larger).expect("a vocabulary has at least one id")
}

/// Probabilities after temperature and top-p: scores are divided by `temperature` (above 0), then the smallest set of most likely
/// tokens that reaches `top_p` is kept, never less than one, and renormalised. Of equally likely tokens the lower id comes first.
pub fn probabilities(logits: &[f64], temperature: f64, top_p: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - largest) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut kept = vec![0.0; weights.len()];
    let (mut before, mut sum) = (0.0, 0.0);
    for index in order {
        if before >= top_p {
            break;
        }
        before += weights[index] / total;
        kept[index] = weights[index];
        sum += weights[index];
    }
    kept.iter_mut().for_each(|weight| *weight /= sum);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{Golden, assert_close};

    #[test]
    fn temperature_and_top_p_equal_the_reference() {
        let golden = Golden::open("sampling.safetensors");
        let logits = golden.f64s("logits");
        for temperature in [0.7, 1.0, 1.5] {
            for top_p in [0.5, 0.9, 1.0] {
                let expected = golden.f64s(&format!("probabilities.t{temperature}.p{top_p}"));
                let found: Vec<f64> =
                    logits.chunks(32).flat_map(|row| probabilities(row, temperature, top_p)).collect();
                assert_close(&found, &expected, 1e-6, &format!("temperature {temperature}, top-p {top_p}"));
            }
        }
        let greedy = Choice { temperature: 0.0, top_p: 1.0 };
        let mut stream = Stream::new(0, "test", &[]);
        let found: Vec<i64> = logits.chunks(32).map(|row| greedy.choose(row, &mut stream) as i64).collect();
        assert_eq!(found, golden.integers("greedy"));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 1.0, f64::NEG_INFINITY, 2.0, -3.0];
        let choice = Choice { temperature: 1.3, top_p: 0.95 };
        let expected = probabilities(&logits, choice.temperature, choice.top_p);
        let mut stream = Stream::new(1, "test", &[]);
        let count = 50_000;
        let mut seen = [0.0; 5];
        (0..count).for_each(|_| seen[choice.choose(&logits, &mut stream)] += 1.0 / f64::from(count));
        // Five standard errors.
        assert_close(&seen, &expected, 5.0 * (0.25 / f64::from(count)).sqrt(), "shares");
        assert_eq!((seen[2], seen[4]), (0.0, 0.0));
    }
}
