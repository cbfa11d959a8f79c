//! Encoded pictures to square RGB crops.

/// A decoded, turned, resized and cropped picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Rows of red, green, blue bytes, `size * size * 3` of them.
    pub rgb: Vec<u8>,
}
