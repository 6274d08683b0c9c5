//! What came of the cells, as tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Results;
use super::cell::{Cell, Mode, Phase};
use super::law::Outcome;

type Broken<'a> = Vec<(&'a Cell, &'a str)>;

/// The cells that broke a promise.
pub(crate) fn broken<'a>(cells: &'a [(usize, Cell)], results: &'a Results) -> Broken<'a> {
    let both = cells.iter().zip(results);
    both.filter_map(|((_, cell), result)| Some((cell, result.as_ref()?.as_ref().err()?.as_str()))).collect()
}

/// How many cells of each mode and phase came to what.
pub(crate) fn summary(cells: &[(usize, Cell)], results: &Results, repeated: usize, seed: u64) -> String {
    let mut rows: BTreeMap<(Mode, Phase), (usize, BTreeMap<Outcome, usize>)> = BTreeMap::new();
    for ((_, cell), result) in cells.iter().zip(results) {
        let row = rows.entry((cell.mode, cell.phase)).or_default();
        row.0 += 1;
        if let Some(Ok(outcome)) = result {
            *row.1.entry(*outcome).or_default() += 1;
        }
    }
    let mut table = "| mode | phase | cells | did what it is for | refused, by exit code | violations |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for ((mode, phase), (cells, mut outcomes)) in rows {
        let violations = cells - outcomes.values().sum::<usize>();
        let done = outcomes.remove(&Outcome::Done).unwrap_or_default();
        let others: Vec<_> = outcomes.iter().map(|(code, times)| format!("{code}: {times}")).collect();
        let others = if others.is_empty() { "-".into() } else { others.join(", ") };
        let _ = writeln!(table, "| `{mode}` | {phase} | {cells} | {done} | {others} | {violations} |");
    }
    let violations = broken(cells, results).len();
    let _ =
        writeln!(table, "\n{} cells, {repeated} repeated, {violations} violations, seed {seed}", cells.len());
    table
}

/// What each cell came to: a table for each mode, a row for each trouble, a column for each phase.
pub(crate) fn outcomes(cells: &[(usize, Cell)], results: &Results) -> String {
    let mut text = String::new();
    for mode in Mode::ALL {
        let mut rows: Vec<(String, BTreeMap<Phase, String>)> = Vec::new();
        for ((_, cell), result) in cells.iter().zip(results).filter(|((_, cell), _)| cell.mode == mode) {
            let name = cell.trouble.to_string();
            let at = rows.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
                rows.push((name, BTreeMap::new()));
                rows.len() - 1
            });
            let shown = match result {
                Some(Ok(outcome)) => outcome.to_string(),
                Some(Err(_)) => "**violation**".into(),
                None => "not run".into(),
            };
            rows[at].1.insert(cell.phase, shown);
        }
        if rows.is_empty() {
            continue;
        }
        let phases = mode.phases();
        let columns: Vec<_> = phases.iter().map(Phase::to_string).collect();
        let _ = writeln!(
            text,
            "\n### `{mode}`\n\n| | {} |\n|---|{}",
            columns.join(" | "),
            "---|".repeat(columns.len())
        );
        for (name, outcomes) in rows {
            let shown: Vec<_> =
                phases.iter().map(|phase| outcomes.get(phase).map_or("-", String::as_str)).collect();
            let _ = writeln!(text, "| {name} | {} |", shown.join(" | "));
        }
    }
    text
}
