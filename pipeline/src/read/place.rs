//! Where the images of a document stand whose sentences are one list and whose images are another, as MMC4 has them:
//! each image names the sentence that it was matched to and stands before it.

use crate::reject::{Reject, RejectReason};

/// The field of an image that holds the number of its text.
pub(crate) const MATCHED: &str = "matched_text_index";

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
pub(crate) fn slots(texts: usize, matched: &[Option<i64>]) -> Result<Vec<Slot>, Reject> {
    let mut before = vec![Vec::new(); texts];
    for (image, number) in matched.iter().enumerate() {
        let of_text =
            number.and_then(|number| usize::try_from(number).ok()).and_then(|number| before.get_mut(number));
        match of_text {
            Some(images) => images.push(Slot::Image(image)),
            None => return Err(misplaced(image, *number, texts)),
        }
    }
    let mut slots = Vec::with_capacity(texts + matched.len());
    for (text, images) in before.into_iter().enumerate() {
        slots.extend(images);
        slots.push(Slot::Text(text));
    }
    Ok(slots)
}

fn misplaced(image: usize, number: Option<i64>, texts: usize) -> Reject {
    let number = number.map_or("null".to_owned(), |number| number.to_string());
    let detail = format!("`{MATCHED}` of image {image} is {number}, the document has {texts} texts");
    Reject::new(RejectReason::WrongType, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_before_their_texts() {
        use Slot::{Image, Text};
        let found = slots(3, &[Some(2), Some(0), Some(2)]).expect("in order");
        assert_eq!(found, [Image(1), Text(0), Text(1), Image(0), Image(2), Text(2)]);
        assert_eq!(slots(0, &[]).expect("nothing"), []);
    }

    #[test]
    fn an_image_of_no_text_is_refused() {
        for number in [Some(3), Some(-1), None] {
            let reject = slots(3, &[Some(0), number]).expect_err("no such text");
            assert_eq!(reject.reason, RejectReason::WrongType);
            assert!(reject.detail.contains("of image 1"), "{}", reject.detail);
        }
    }
}
