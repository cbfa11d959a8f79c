//! Randomness without state: every draw is named, and its name alone decides its value.
//!
//! A stream is named by the seed, a purpose and a few numbers (step, row of the global batch, image). The BLAKE3 hash of
//! that name is the key of a ChaCha8 stream. So there is no generator to save in a checkpoint, and no draw depends on
//! micro-batches, readers or threads. Streams are made on the host, the same for every device.

use std::f64::consts::TAU;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// A stream of draws with a name.
#[derive(Debug, Clone)]
pub struct Stream {
    generator: ChaCha8Rng,
    /// The second normal of a pair, not yet handed out.
    spare: Option<f64>,
}

impl Stream {
    /// The stream named by `seed`, `purpose` and `numbers`.
    pub fn new(seed: u64, purpose: &str, numbers: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        numbers.iter().for_each(|number| {
            hasher.update(&number.to_le_bytes());
        });
        Self { generator: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()), spare: None }
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `end`, each as likely as the next up to `end / 2^64`.
    ///
    /// # Panics
    ///
    /// If `end` is 0.
    pub fn below(&mut self, end: u32) -> u32 {
        assert!(end > 0, "there is no whole number below 0");
        ((u128::from(self.generator.next_u64()) * u128::from(end)) >> 64) as u32
    }

    /// One draw of the standard normal distribution (Box and Muller, in f64).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sine, cosine) = (TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }

    /// `count` draws of the standard normal distribution.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal() as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_stream() {
        let draw = |seed, purpose, numbers: &[u64]| Stream::new(seed, purpose, numbers).normals(3);
        assert_eq!(draw(1, "noise", &[2, 3]), draw(1, "noise", &[2, 3]));
        assert_ne!(draw(1, "noise", &[2, 3]), draw(2, "noise", &[2, 3]));
        assert_ne!(draw(1, "noise", &[2, 3]), draw(1, "time", &[2, 3]));
        assert_ne!(draw(1, "noise", &[2, 3]), draw(1, "noise", &[3, 2]));
    }

    /// Checkpoints of other days and machines rely on these numbers.
    #[test]
    fn the_stream_of_a_name_never_changes() {
        let mut stream = Stream::new(0, "noise", &[1, 2, 3]);
        let drawn = (stream.below(1000), (stream.uniform() * 1e6) as u32, (stream.normal() * 1e6) as i32);
        assert_eq!(drawn, (191, 636_330, -831_144));
    }

    #[test]
    fn normals_have_the_moments_of_the_normal_distribution() {
        let count = 200_000;
        let drawn = Stream::new(5, "test", &[]).normals(count);
        let moment =
            |power| drawn.iter().map(|&value| f64::from(value).powi(power)).sum::<f64>() / count as f64;
        // Five standard deviations of each estimate.
        let tolerance = |variance: f64| 5.0 * (variance / count as f64).sqrt();
        assert!(moment(1).abs() < tolerance(1.0));
        assert!((moment(2) - 1.0).abs() < tolerance(2.0));
        assert!(moment(3).abs() < tolerance(15.0));
        assert!((moment(4) - 3.0).abs() < tolerance(96.0));
    }

    #[test]
    fn whole_numbers_cover_their_range_evenly() {
        let mut stream = Stream::new(6, "test", &[]);
        let mut seen = [0u32; 10];
        (0..100_000).for_each(|_| seen[stream.below(10) as usize] += 1);
        // Standard deviation 95; five of them.
        assert!(seen.iter().all(|&count| count.abs_diff(10_000) < 475), "{seen:?}");
    }
}
