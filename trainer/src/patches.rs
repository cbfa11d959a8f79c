//! The order in which latent pixels become the numbers of a patch. It knows nothing about networks.
//!
//! Patches go left to right, then top to bottom. Inside a patch the order is row, column, channel, channel fastest (a
//! convention of this project: the paper leaves it open).

/// Size of a latent and of its patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchGrid {
    /// Channels of the latent.
    pub channels: usize,
    /// Rows of latent pixels, a multiple of `patch`.
    pub height: usize,
    /// Columns of latent pixels, a multiple of `patch`.
    pub width: usize,
    /// Side of a patch.
    pub patch: usize,
}

impl PatchGrid {
    /// Number of patches.
    pub fn patches(&self) -> usize {
        (self.height / self.patch) * (self.width / self.patch)
    }

    /// Numbers of one patch.
    pub fn numbers(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// For each number of each patch, its place in the latent (channel, row, column).
    fn places(&self) -> impl Iterator<Item = usize> {
        let Self { channels, height, width, patch } = *self;
        let columns = width / patch;
        (0..self.patches()).flat_map(move |index| {
            let (top, left) = (index / columns * patch, index % columns * patch);
            (0..patch * patch).flat_map(move |inner| {
                let (row, column) = (top + inner / patch, left + inner % patch);
                (0..channels).map(move |channel| (channel * height + row) * width + column)
            })
        })
    }

    /// A latent (channel, row, column) as patches, one after another.
    ///
    /// # Panics
    ///
    /// If `latent` has another number of values.
    pub fn patchify<T: Copy>(&self, latent: &[T]) -> Vec<T> {
        assert_eq!(latent.len(), self.channels * self.height * self.width, "values of a latent");
        self.places().map(|place| latent[place]).collect()
    }

    /// The inverse of [`PatchGrid::patchify`].
    ///
    /// # Panics
    ///
    /// If `patches` has another number of values.
    pub fn unpatchify<T: Copy + Default>(&self, patches: &[T]) -> Vec<T> {
        assert_eq!(patches.len(), self.channels * self.height * self.width, "values of all patches");
        let mut latent = vec![T::default(); patches.len()];
        self.places().zip(patches).for_each(|(place, &value)| latent[place] = value);
        latent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn order_equals_the_reference() {
        let golden = Golden::open("patchify.safetensors");
        for name in ["square", "wide"] {
            let (shape, _) = golden.values(&format!("{name}.latent"));
            let latent = golden.integers(&format!("{name}.latent"));
            for patch in [1, 2, 4, 8] {
                let grid = PatchGrid { channels: shape[0], height: shape[1], width: shape[2], patch };
                let patches = grid.patchify(&latent);
                assert_eq!(patches, golden.integers(&format!("{name}.tokens.p{patch}")), "{name} {patch}");
                assert_eq!(patches.len(), grid.patches() * grid.numbers());
                assert_eq!(grid.unpatchify(&patches), latent, "{name} {patch}");
            }
        }
    }
}
