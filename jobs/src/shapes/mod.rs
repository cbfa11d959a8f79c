//! A benchmark of captioned pictures: coloured shapes on a plain ground, drawn, described and scored by rule.
//!
//! [`scene`] says what a picture shows and how its caption reads, [`drawing`] draws it, [`corpus`] is an endless,
//! repeatable row of such pictures, [`scorer`] judges a picture or a caption without a model, and [`questions`] are what a
//! model is asked, with the scores of its answers. Pure functions of a seed: no model, no file, no terminal, nothing else of
//! this crate.

mod corpus;
mod drawing;
mod questions;
mod scene;
mod scorer;

pub(crate) use corpus::{Corpus, Example, Subset};
pub(crate) use drawing::{Picture, SIDE, png};
pub(crate) use questions::{
    Answers, Description, Drawing, Questions, Score, Tally, milestones, scorer_check, survivors,
};
pub(crate) use scorer::{Verdict, judge};
