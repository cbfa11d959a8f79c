//! Token ids: the tokenizer's own, then the markers that packing adds.

use serde::{Deserialize, Serialize};

/// The id space of a dataset.
///
/// Ids `0..V` are the tokenizer's. Behind them, in this order: BOI, EOI, the id that stands at patch positions, the
/// id that stands at padding, and the codes of a VQ codec where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Number of ids of the tokenizer, `V`.
    pub size: u32,
    /// Number of codes of the VQ codec; 0 for a dataset of latents.
    pub codes: u32,
}

/// The integer type of the `tokens` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// Every id fits 16 bits.
    U16,
    /// The last id is over 65,535.
    U32,
}

impl Vocabulary {
    /// A vocabulary of `size` text ids without image codes.
    pub const fn text(size: u32) -> Self {
        Self { size, codes: 0 }
    }

    /// Begin of image, `V`.
    pub const fn boi(self) -> u32 {
        self.size
    }

    /// End of image, `V + 1`.
    pub const fn eoi(self) -> u32 {
        self.size + 1
    }

    /// The id at patch positions, `V + 2`: it says "look at the latent", it has no embedding.
    pub const fn patch(self) -> u32 {
        self.size + 2
    }

    /// The id at padding positions, `V + 3`.
    pub const fn padding(self) -> u32 {
        self.size + 3
    }

    /// The id of code `code` of a VQ codec, `V + 4 + code`.
    pub const fn code(self, code: u32) -> u32 {
        self.size + 4 + code
    }

    /// The largest id that can stand in a row.
    pub const fn last_id(self) -> u32 {
        self.size + 3 + self.codes
    }

    /// Ids that have an embedding and a logit when images are latents: the text ids, BOI and EOI.
    pub const fn embedding_rows(self) -> u32 {
        self.size + 2
    }

    /// The integer type of the `tokens` column.
    pub const fn width(self) -> TokenWidth {
        if self.last_id() > u16::MAX as u32 { TokenWidth::U32 } else { TokenWidth::U16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_follow_the_llama_vocabulary() {
        let vocabulary = Vocabulary { size: 32_000, codes: 16_384 };
        assert_eq!((vocabulary.boi(), vocabulary.eoi()), (32_000, 32_001));
        assert_eq!((vocabulary.patch(), vocabulary.padding()), (32_002, 32_003));
        assert_eq!((vocabulary.code(0), vocabulary.last_id()), (32_004, 48_387));
        assert_eq!(vocabulary.width(), TokenWidth::U16);
    }

    #[test]
    fn width_grows_exactly_when_the_last_id_needs_it() {
        assert_eq!(Vocabulary::text(65_532).width(), TokenWidth::U16);
        assert_eq!(Vocabulary::text(65_533).width(), TokenWidth::U32);
    }
}
