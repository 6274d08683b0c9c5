//! Everything that can go wrong, in every phase of everything that proa can be: `cargo run --example matrix -- [--seed N] [--write FILE] BINARY [WORD ...]`.
//!
//! A cell is a mode, a phase and a trouble: of the API server, the Pod, the sidecar's endpoint, or proa's own process. Each is a run of the
//! real binary in a Pod of its own, and the trouble begins at an event that shows from outside that the phase has. Whatever the trouble:
//! the command starts once or never, its exit code arrives if it ran, the sidecar is asked to exit, no process or file is left, the end
//! comes in time, and a refusal's log names the cause. Prints each violation with the command that repeats it, and a table. With words, only
//! cells whose name has them all. With `--write`, the table goes into this Markdown file too, between its marks.

mod cell;
mod law;
mod random;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use cell::{Cell, Mode, Phase};
use law::Outcome;
use random::Random;

/// Where the table stands in a Markdown file.
const BEGIN: &str = "<!-- matrix -->";
const END: &str = "<!-- end of matrix -->";

/// Runs side by side: most of them wait most of the time.
const WORKERS: usize = 12;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1).peekable();
    let mut seed = 1;
    if arguments.next_if_eq("--seed").is_some() {
        seed = arguments.next().context("expected a number after --seed")?.parse().context("--seed")?;
    }
    let write =
        arguments.next_if_eq("--write").map(|_| arguments.next().context("expected a file after --write"));
    let write = write.transpose()?;
    let usage = "expected [--seed N] [--write FILE] BINARY [WORD ...]";
    let binary = fs::canonicalize(arguments.next().context(usage)?)?;
    let words: Vec<String> = arguments.collect();
    let has_all = |cell: &Cell| words.iter().all(|word| cell.to_string().contains(word.as_str()));
    let cells: Vec<(usize, Cell)> =
        cell::all().into_iter().enumerate().filter(|(_, cell)| has_all(cell)).collect();
    ensure!(!cells.is_empty(), "no cell's name has all of {words:?}");
    let directory = env::temp_dir().join(format!("proa-matrix-{}", std::process::id()));
    let started = Instant::now();
    let results = run_all(&cells, &binary, &directory, seed)?;
    fs::remove_dir_all(&directory)?;
    let (mut table, broken) = tabulate(&cells, &results);
    let _ = writeln!(table, "\n{} cells, {} violations, seed {seed}", cells.len(), broken.len());
    println!("{table}{} s", started.elapsed().as_secs());
    for (cell, why) in &broken {
        println!("\n{cell}: {why}\n    cargo run --example matrix -- --seed {seed} BINARY '{cell}'");
    }
    if let Some(file) = write {
        let text = fs::read_to_string(&file)?;
        let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no {BEGIN} in {file}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("no {END} in {file}"))?;
        fs::write(&file, format!("{before}{BEGIN}\n{table}{END}{after}"))?;
    }
    if !broken.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

type Results = Vec<Option<Result<Outcome, String>>>;

fn run_all(cells: &[(usize, Cell)], binary: &Path, directory: &Path, seed: u64) -> Result<Results> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; cells.len()]);
    let work = |worker: usize| -> Result<()> {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let Some((number, cell)) = cells.get(turn) else { return Ok(()) };
            let own = directory.join(worker.to_string());
            let observed = world::run(cell, binary, &own, &mut Random::new(seed, *number))
                .with_context(|| cell.to_string())?;
            let judged = law::judge(cell, &observed);
            if let Err(why) = &judged {
                let log: Vec<_> = observed.log.lines().rev().take(6).collect();
                let log: Vec<_> = log.into_iter().rev().collect();
                let times = format!("ran {}, asked {}, told {}", observed.ran, observed.asked, observed.told);
                let end = observed.status.map_or("no end".into(), world::ended);
                eprintln!("{cell}: {why} ({end}, {times})\n    {}", log.join("\n    "));
            }
            results.lock().expect("no worker panics")[turn] = Some(judged);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(results.into_inner().expect("no worker panics"))
}

/// What came of the cells of a mode and phase.
#[derive(Default)]
struct Row {
    cells: usize,
    outcomes: BTreeMap<Outcome, usize>,
    violations: usize,
}

type Broken<'a> = Vec<(&'a Cell, &'a str)>;

/// What came of the cells of each mode and phase, as a table; those that broke a promise.
fn tabulate<'a>(cells: &'a [(usize, Cell)], results: &'a Results) -> (String, Broken<'a>) {
    let mut rows: BTreeMap<(Mode, Phase), Row> = BTreeMap::new();
    let mut broken = Vec::new();
    for ((_, cell), result) in cells.iter().zip(results) {
        let row = rows.entry((cell.mode, cell.phase)).or_default();
        row.cells += 1;
        match result {
            Some(Ok(outcome)) => *row.outcomes.entry(*outcome).or_default() += 1,
            Some(Err(why)) => {
                row.violations += 1;
                broken.push((cell, why.as_str()));
            }
            None => {}
        }
    }
    let mut table = "| mode | phase | cells | did what it is for | refused, by exit code | violations |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for ((mode, phase), Row { cells, mut outcomes, violations }) in rows {
        let done = outcomes.remove(&Outcome::Done).unwrap_or_default();
        let refused: Vec<_> = outcomes.iter().map(|(code, times)| format!("{code}: {times}")).collect();
        let refused = if refused.is_empty() { "-".into() } else { refused.join(", ") };
        let _ = writeln!(table, "| `{mode}` | {phase} | {cells} | {done} | {refused} | {violations} |");
    }
    (table, broken)
}
