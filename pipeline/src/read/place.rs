//! Where the images of a document stand whose sentences are one list and whose images are another, as MMC4 has them:
//! each image names the sentence that it was matched to and stands before it.

use crate::row::reject::{Reject, RejectReason};

/// The field of an image that holds the number of its text.
pub(crate) const MATCHED: &str = "matched_text_index";

/// The number of a text as an image gives it, or what stands there instead.
pub(crate) type Matched = Result<i64, String>;

/// A number that may be written as a float.
pub(crate) fn whole(number: f64) -> Matched {
    // Beyond that a float holds no number for certain; no document has so many texts.
    let is_whole = number.fract() == 0.0 && number.abs() < 1e15;
    if is_whole { Ok(number as i64) } else { Err(number.to_string()) }
}

/// What stands at a place of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The text of this number.
    Text(usize),
    /// The image of this number.
    Image(usize),
}

/// The places of a document of `texts` texts whose images belong to the texts `matched`. Several images of one text
/// keep their order.
pub(crate) fn slots(texts: usize, matched: &[Matched]) -> Result<Vec<Slot>, Reject> {
    let mut before = vec![Vec::new(); texts];
    for (image, number) in matched.iter().enumerate() {
        let of_text = number.as_ref().ok().and_then(|&number| usize::try_from(number).ok());
        match of_text.and_then(|number| before.get_mut(number)) {
            Some(images) => images.push(Slot::Image(image)),
            None => return Err(misplaced(image, number, texts)),
        }
    }
    let mut slots = Vec::with_capacity(texts + matched.len());
    for (text, images) in before.into_iter().enumerate() {
        slots.extend(images);
        slots.push(Slot::Text(text));
    }
    Ok(slots)
}

fn misplaced(image: usize, number: &Matched, texts: usize) -> Reject {
    let number = number.as_ref().map_or_else(String::clone, i64::to_string);
    let detail = format!("`{MATCHED}` of image {image} is {number}, the document has {texts} texts");
    Reject::new(RejectReason::WrongType, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_before_their_texts() {
        use Slot::{Image, Text};
        let found = slots(3, &[Ok(2), whole(0.0), Ok(2)]).expect("in order");
        assert_eq!(found, [Image(1), Text(0), Text(1), Image(0), Image(2), Text(2)]);
        assert_eq!(slots(0, &[]).expect("nothing"), []);
    }

    #[test]
    fn an_image_of_no_text_is_refused() {
        for (number, shown) in [
            (Ok(3), "3"),
            (Ok(-1), "-1"),
            (Err("null".to_owned()), "null"),
            (whole(0.5), "0.5"),
            (whole(f64::NAN), "NaN"),
        ] {
            let reject = slots(3, &[Ok(0), number]).expect_err("no such text");
            assert_eq!(reject.reason, RejectReason::WrongType);
            let expected = format!("`{MATCHED}` of image 1 is {shown}, the document has 3 texts");
            assert_eq!(reject.detail, expected);
        }
    }
}
