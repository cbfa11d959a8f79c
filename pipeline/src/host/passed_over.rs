//! Files that are passed over, as the caller gets them.

use serde::Serialize;

/// Files that a source passes over for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PassedOver {
    /// Name of the source.
    pub source: String,
    /// Why, a name that does not change.
    pub reason: String,
    /// What they are, in words that stand behind their number.
    pub what: String,
    /// How many.
    pub files: u64,
    /// The first of them, by name.
    pub names: Vec<String>,
    /// Whether rows may be lost with them: they are not what their names say, or can't be reached.
    pub warning: bool,
}

impl PassedOver {
    /// In words: ``3 files about the data (`LICENSE.txt`, `README.md`, `md5sums.txt`)``.
    pub fn describe(&self) -> String {
        let mut names: Vec<String> = self.names.iter().map(|name| format!("`{name}`")).collect();
        if self.files > names.len() as u64 {
            names.push("...".to_owned());
        }
        format!("{} {} ({})", self.files, self.what, names.join(", "))
    }
}
