//! `transfusion demo`: everything the program does, on a corpus it draws itself.

mod corpus;
mod drawing;
mod evaluation;
mod packed;
mod report;
mod scene;
mod scorer;
