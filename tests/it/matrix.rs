//! The table of the fault matrix is of the cells that the program has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[expect(dead_code, reason = "the program that runs the cells asks more of them")]
#[path = "../matrix/cell.rs"]
mod cell;
#[expect(dead_code, reason = "the program that runs the cells asks more of them")]
#[path = "../matrix/trouble.rs"]
mod trouble;

#[test]
fn the_table_has_each_cell_and_no_other() {
    let names: Vec<_> = cell::all().iter().map(ToString::to_string).collect();
    let program: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(program.len(), names.len(), "two cells have the same name");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability-matrix.md");
    let page = fs::read_to_string(page).expect("the page");
    let table =
        page.split_once("<!-- cells -->").and_then(|(_, rest)| rest.split_once("<!-- end of cells -->"));
    let (mut mode, mut phases, mut documented) = ("", Vec::new(), BTreeSet::new());
    for line in table.expect("marks").0.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            mode = name.trim_matches('`');
        } else if let Some(columns) = line.strip_prefix("| | ") {
            phases = columns.trim_end_matches(" |").split(" | ").collect();
        } else if let Some(row) = line.strip_prefix("| ") {
            let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
            assert_eq!(cells.len(), phases.len() + 1, "{line}");
            for (phase, outcome) in phases.iter().zip(&cells[1..]).filter(|(_, outcome)| **outcome != "-") {
                let is_outcome = ["done", "killed"].contains(outcome) || outcome.parse::<u8>().is_ok();
                assert!(is_outcome, "{mode} / {phase} / {}: {outcome}", cells[0]);
                documented.insert(format!("{mode} / {phase} / {}", cells[0]));
            }
        }
    }
    let lacking: Vec<_> = program.symmetric_difference(&documented).collect();
    assert!(lacking.is_empty(), "in one of both: {lacking:#?}");
}
