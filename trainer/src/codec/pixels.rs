//! Pictures between the order that callers have (colour, row, column) and the folded order of networks.
//!
//! Folded: a block of `fold` x `fold` pixels is one position with `3 fold^2` channels (colour, row, column); a fold of 1 puts a
//! pixel's colours side by side.

/// Sizes of a batch of pictures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    pub(crate) fold: usize,
}

impl Pixels {
    /// Sizes of the folded picture: height, width, channels.
    pub(crate) fn folded(&self) -> [usize; 3] {
        let Self { height, width, channels, fold } = *self;
        [height / fold, width / fold, channels * fold * fold]
    }

    fn count(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// (channel, row, column) of each picture to the folded order.
    pub(crate) fn fold(&self, values: &[f32]) -> Vec<f32> {
        let mut folded = vec![0.0; values.len()];
        for (folded, values) in folded.chunks_mut(self.count()).zip(values.chunks(self.count())) {
            self.each(|at, channel, row, column| {
                folded[at] = values[(channel * self.height + row) * self.width + column];
            });
        }
        folded
    }

    /// The inverse of [`Pixels::fold`].
    pub(crate) fn unfold(&self, folded: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; folded.len()];
        for (folded, values) in folded.chunks(self.count()).zip(values.chunks_mut(self.count())) {
            self.each(|at, channel, row, column| {
                values[(channel * self.height + row) * self.width + column] = folded[at];
            });
        }
        values
    }

    /// Appends one picture of bytes (row, column, colour) in the folded order, as -1..1, mirrored if `flip`.
    pub(crate) fn fold_rgb(&self, rgb: &[u8], flip: bool, folded: &mut Vec<f32>) {
        let first = folded.len();
        folded.resize(first + self.count(), 0.0);
        self.each(|at, channel, row, column| {
            let column = if flip { self.width - 1 - column } else { column };
            let byte = rgb[(row * self.width + column) * self.channels + channel];
            folded[first + at] = f32::from(byte) / 127.5 - 1.0;
        });
    }

    #[inline(always)]
    fn each(&self, mut each: impl FnMut(usize, usize, usize, usize)) {
        let [rows, columns, _] = self.folded();
        let mut at = 0;
        for row in 0..rows {
            for column in 0..columns {
                for channel in 0..self.channels {
                    for inner_row in 0..self.fold {
                        for inner_column in 0..self.fold {
                            each(at, channel, row * self.fold + inner_row, column * self.fold + inner_column);
                            at += 1;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_is_pixel_unshuffle_and_can_be_undone() {
        let pixels = Pixels { height: 4, width: 2, channels: 3, fold: 2 };
        let values: Vec<f32> = (0..48).map(|value| value as f32).collect();
        let folded = pixels.fold(&values);
        // The second block: rows 2 and 3; the channels of PyTorch's pixel_unshuffle.
        assert_eq!(folded[12..24], [4.0, 5.0, 6.0, 7.0, 12.0, 13.0, 14.0, 15.0, 20.0, 21.0, 22.0, 23.0]);
        assert_eq!(pixels.unfold(&folded), values);
    }

    #[test]
    fn bytes_are_folded_like_numbers_and_mirrored_on_demand() {
        let pixels = Pixels { height: 2, width: 2, channels: 3, fold: 2 };
        let rgb: Vec<u8> = (0..12).map(|byte| byte * 20).collect();
        let planes: Vec<f32> = [0usize, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]
            .iter()
            .map(|&at| f32::from(rgb[at]) / 127.5 - 1.0)
            .collect();
        let mut folded = vec![9.0];
        pixels.fold_rgb(&rgb, false, &mut folded);
        assert_eq!(folded[1..], pixels.fold(&planes));
        let mut mirrored = Vec::new();
        pixels.fold_rgb(&rgb, true, &mut mirrored);
        assert_eq!(mirrored[..4], [folded[2], folded[1], folded[4], folded[3]]);
    }
}
