//! What a demo has done so far, kept in its folder: a demo that was stopped goes on, with the steps that were fitted to it.

use serde::{Deserialize, Serialize};

use super::recipe::Recipe;

/// One job that ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stage {
    /// Short name.
    pub(super) name: String,
    /// What it did, with its counts.
    pub(super) what: String,
    /// The command that does the same; none for what has no command of its own.
    pub(super) command: Option<String>,
    /// How long it took.
    pub(super) seconds: f64,
}

/// What `demo.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Mark {
    /// The program that runs the demo.
    pub(super) program: String,
    /// The minutes that the recipe was fitted to.
    pub(super) minutes: Option<u32>,
    /// How much is done.
    pub(super) recipe: Recipe,
    /// What is done already, in order.
    pub(super) stages: Vec<Stage>,
    /// Whether all is.
    pub(super) finished: bool,
}

impl Mark {
    /// The mark of a demo that was stopped; none of a finished one, nor of another version of the program.
    pub(super) fn of_stopped(mark: &[u8]) -> Option<Self> {
        let mark: Self = serde_json::from_slice(mark).ok()?;
        (!mark.finished && mark.program == super::program()).then_some(mark)
    }

    /// Seconds of all that is done, over all starts.
    pub(super) fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_demo_is_found_again_and_a_finished_one_is_not() {
        let stage = Stage { name: "codec".into(), what: "w".into(), command: None, seconds: 1.5 };
        let (program, recipe) = (super::super::program(), Recipe::quick(7));
        let mut mark = Mark { program, minutes: Some(3), recipe, stages: vec![stage], finished: false };
        let found = |mark: &Mark| Mark::of_stopped(&serde_json::to_vec(mark).unwrap());
        assert_eq!(found(&mark), Some(mark.clone()));
        mark.finished = true;
        assert_eq!(found(&mark), None);
        assert_eq!(Mark::of_stopped(b"{\"program\":\"transfusion 0.0.1\"}"), None);
    }
}
