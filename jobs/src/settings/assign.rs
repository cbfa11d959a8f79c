//! One `--set key=value`, applied to a table.

use anyhow::{anyhow, bail};
use toml::{Table, Value};

use super::nearest;
use crate::errors::hinted;

/// Applies `key=value`. Tables of an array are named by their `name` (or `source`) or by place: `source.pairs.uri=x`,
/// `data.0.weight=2`; the place behind the last one appends.
pub(super) fn apply(table: &mut Table, set: &str) -> anyhow::Result<()> {
    let (path, value) = set
        .split_once('=')
        .ok_or_else(|| hinted(anyhow!("there is no `=` in it"), "write `--set key=value`"))?;
    let path: Vec<&str> = path.trim().split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        bail!("the key has an empty part");
    }
    assign(table, &path, parse(value))
}

/// The value as TOML where it is that, else as text. Dates are text: no key is one.
fn parse(value: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {value}"));
    let parsed = parsed.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    match parsed {
        None | Some(Value::Datetime(_)) => Value::String(value.to_owned()),
        Some(value) => value,
    }
}

fn assign(table: &mut Table, path: &[&str], value: Value) -> anyhow::Result<()> {
    let (first, rest) = path.split_first().expect("a path has at least one part");
    let Some(next) = rest.first() else {
        table.insert((*first).to_owned(), value);
        return Ok(());
    };
    let fresh =
        || if next.parse::<usize>().is_ok() { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
    match table.entry(*first).or_insert_with(fresh) {
        Value::Table(inner) => assign(inner, rest, value),
        Value::Array(items) => assign_item(items, first, rest, value),
        _ => bail!("`{first}` is no table"),
    }
}

fn assign_item(items: &mut Vec<Value>, array: &str, path: &[&str], value: Value) -> anyhow::Result<()> {
    let (name, rest) = path.split_first().expect("a path has at least one part");
    let index = match name.parse() {
        Ok(index) => index,
        Err(_) => items
            .iter()
            .position(|item| label(item) == Some(name))
            .ok_or_else(|| no_table(items, array, name))?,
    };
    let count = items.len();
    if index == count {
        items.push(Value::Table(Table::new()));
    }
    match (items.get_mut(index), rest) {
        (Some(item), []) => *item = value,
        (Some(Value::Table(table)), rest) => assign(table, rest, value)?,
        (Some(_), _) => bail!("`{array}.{name}` is no table"),
        (None, _) => bail!("`{array}` has {count} tables, no number {index}"),
    }
    Ok(())
}

fn label(item: &Value) -> Option<&str> {
    item.get("name").or_else(|| item.get("source")).and_then(Value::as_str)
}

fn no_table(items: &[Value], array: &str, name: &str) -> anyhow::Error {
    let names: Vec<_> = items.iter().filter_map(label).collect();
    let error = anyhow!("there is no table `{name}` in `{array}`");
    match nearest(name, names.iter().copied()) {
        Some(near) => hinted(error, format!("did you mean `{near}`?")),
        None => hinted(error, format!("known are {} and the numbers from 0", names.join(", "))),
    }
}
