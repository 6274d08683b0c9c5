//! Everything that can go wrong, in every phase of everything that proa can be:
//! `cargo run --example matrix -- [--seed N] [--write FILE]... BINARY [WORD ...]`.
//!
//! A cell is a mode, a phase and a trouble: of the API server, the Pod, the sidecar's endpoint, proa's own process, or its command. Each is a
//! run of the real binary in a Pod of its own, and the trouble begins at an event that shows from outside that the phase has. Whatever the
//! trouble: the command starts once or never, and not before the API server has shown a sidecar that is ready; its exit code arrives if it
//! ran; the sidecar is asked to exit once the command or main is over, and proa ends after it, unless its time is up or the law has a
//! reason (`law.rs`); no process or file is left, the end comes in time, and a refusal's log names the cause. What proa may know is
//! what was sent to it, and what it does is seen once it was done: no such verdict turns on how fast the machine is. Prints each violation with the command that repeats it, and tables. With words,
//! only cells whose name has them all. A cell that breaks a promise is run once more with few beside it, since a machine that is busy
//! enough breaks any limit of time: what breaks it again is a violation, and the table says how many were repeated. With `--write`, the tables go into this Markdown file too, between its marks.

mod cell;
mod crowd;
mod endpoint;
#[path = "../filter.rs"]
mod filter;
mod launch;
mod law;
#[path = "../marks.rs"]
mod marks;
mod pods;
mod probe;
mod random;
mod table;
mod trouble;
mod world;

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use cell::Cell;
use law::Outcome;
use random::Random;
use trouble::Trouble;

/// Runs side by side: most of them wait most of the time.
const WORKERS: usize = 32;
/// The same where a broken promise may be the machine's.
const FEW: usize = 4;

fn main() -> Result<()> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == probe::FLAG) {
        return probe::run(&words[1..]);
    }
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let write = marks::asked(&mut arguments)?;
    let mut arguments = arguments.into_iter().peekable();
    let mut seed = 1;
    if arguments.next_if_eq("--seed").is_some() {
        seed = arguments.next().context("expected a number after --seed")?.parse().context("--seed")?;
    }
    let usage = "expected [--seed N] [--write FILE]... BINARY [WORD ...]";
    let binary = fs::canonicalize(arguments.next().context(usage)?)?;
    let words: Vec<String> = arguments.collect();
    let has_all = |cell: &Cell| words.iter().all(|word| cell.to_string().contains(word.as_str()));
    let cells: Vec<(usize, Cell)> =
        cell::all().into_iter().enumerate().filter(|(_, cell)| has_all(cell)).collect();
    ensure!(!cells.is_empty(), "no cell's name has all of {words:?}");
    let directory = env::temp_dir().join(format!("proa-matrix-{}", std::process::id()));
    let started = Instant::now();
    let (results, repeated) = run_all(&cells, &binary, &directory, seed)?;
    fs::remove_dir_all(&directory)?;
    let (summary, outcomes) =
        (table::summary(&cells, &results, repeated, seed), table::outcomes(&cells, &results));
    println!("{outcomes}\n{summary}{} s", started.elapsed().as_secs());
    let broken = table::broken(&cells, &results);
    for (cell, why) in &broken {
        println!("\n{cell}: {why}\n    cargo run --example matrix -- --seed {seed} BINARY '{cell}'");
    }
    marks::write(&write, &[("matrix", &summary), ("cells", &outcomes)])?;
    if !broken.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// By the cells' order.
pub(crate) type Results = Vec<Option<Result<Outcome, String>>>;

/// What came of all, and how many were repeated.
fn run_all(cells: &[(usize, Cell)], binary: &Path, directory: &Path, seed: u64) -> Result<(Results, usize)> {
    let mut results: Results = vec![None; cells.len()];
    let alone = |turn: &usize| cells[*turn].1.trouble == Trouble::Crowd;
    let beside: Vec<usize> = (0..cells.len()).filter(|turn| !alone(turn)).collect();
    run_some(cells, &beside, WORKERS, binary, directory, seed, &mut results);
    let is_broken = |results: &Results, turn: &usize| matches!(results[*turn], Some(Err(_)));
    let again: Vec<usize> = beside.into_iter().filter(|turn| is_broken(&results, turn)).collect();
    run_some(cells, &again, FEW, binary, directory, seed, &mut results);
    for turn in (0..cells.len()).filter(alone) {
        let cell = &cells[turn].1;
        let judged = crowd::run(cell.mode, binary, &directory.join(format!("crowd-{turn}")));
        results[turn] = Some(judged.with_context(|| cell.to_string())?);
    }
    Ok((results, again.len()))
}

/// Runs the cells of these turns, so many side by side.
fn run_some(
    cells: &[(usize, Cell)],
    turns: &[usize],
    workers: usize,
    binary: &Path,
    directory: &Path,
    seed: u64,
    results: &mut Results,
) {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(results);
    let work = |worker: usize| {
        while let Some(turn) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (number, cell) = &cells[*turn];
            let judged = run(cell, binary, &directory.join(worker.to_string()), Random::new(seed, *number));
            results.lock().expect("no worker panics")[*turn] = Some(judged);
        }
    };
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || work(worker));
        }
    });
}

fn run(cell: &Cell, binary: &Path, directory: &Path, mut random: Random) -> Result<Outcome, String> {
    let observed = match world::run(cell, binary, directory, &mut random) {
        Ok(observed) => observed,
        // The run did not come as far as the trouble.
        Err(why) => {
            let why = format!("{why:#}");
            eprintln!("{cell}: {why}");
            return Err(why);
        }
    };
    let judged = law::judge(cell, &observed);
    if let Err(why) = &judged {
        let log: Vec<_> = observed.log.lines().rev().take(6).collect();
        let log: Vec<_> = log.into_iter().rev().collect();
        let times = format!("ran {}, asked {}, told {}", observed.ran, observed.asked, observed.told);
        let end = observed.status.map_or("no end".into(), world::ended);
        eprintln!("{cell}: {why} ({end}, {times})\n    {}", log.join("\n    "));
    }
    judged
}
