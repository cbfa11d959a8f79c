//! A table that is joined to a source.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::form::Format;

/// A table with further columns for a source's rows, found by a key: a left outer join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct JoinConfig {
    /// Address of the table: a file, a folder or a glob.
    #[schemars(extend("x-required" = true))]
    pub uri: String,
    /// The columns whose values, as text, must be equal.
    #[schemars(extend("x-required" = true))]
    pub on: JoinKeys,
    /// The columns to take; by default, an empty list, all but the keys.
    pub columns: Vec<String>,
    /// The form of its files; by default their names tell.
    pub format: Option<Format>,
    /// What stands between the values of its CSV files; by default as for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// What stands around values of its CSV files; by default as for a source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
}

/// The columns that a join compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "`on` is a column, or a table of the source's columns and the joined table's, `{ key = \"image_id\" }`"
)]
pub enum JoinKeys {
    /// A column of this name on both sides.
    Same(String),
    /// Columns of the source, each with its name in the joined table. All must be equal.
    Renamed(BTreeMap<String, String>),
}

impl Default for JoinKeys {
    fn default() -> Self {
        Self::Renamed(BTreeMap::new())
    }
}

impl JoinKeys {
    /// Names in the source and in the joined table.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        match self {
            Self::Same(name) => vec![(name.clone(), name.clone())],
            Self::Renamed(names) => names.iter().map(|(own, other)| (own.clone(), other.clone())).collect(),
        }
    }
}
