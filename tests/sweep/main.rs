//! proa disturbed at each of its system calls, with strace in `PATH`:
//! `cargo run --example sweep -- [--signals] [--all] [--write FILE]... BINARY [WORD ...]`.
//!
//! Records the calls of a run through all phases (gate by the API server over TLS, command, quit request, drain), then repeats the run once
//! for each call and each error that fits it, and has that call fail with it (`strace --inject`). With `--signals` it has a signal come
//! there instead. Whatever fails: the command starts once or never, and not before the sidecar is ready, its exit code arrives if it ran,
//! nothing is left of it, the sidecar is asked to exit, proa neither panics nor dies of a signal, and the end comes in time. Whatever signal comes: before the command it stops the wait or has no effect, while the command runs it gets it once, and
//! afterwards the exit code is the command's. Prints each violation with the words that repeat it, and tables. `--all`: each
//! occurrence of a call, and more signals. With words, only runs whose name has them all. With `--write`, the tables go into
//! this Markdown file too, between its marks. A run that breaks a promise is repeated with few beside it.

mod errors;
mod form;
#[path = "../marks.rs"]
mod marks;
mod probe;
mod signals;
mod stage;
mod trace;

use std::env;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use stage::Stage;

/// Runs side by side.
const WORKERS: usize = 8;

/// The same where a broken promise may be the machine's.
const FEW: usize = 2;

/// A run that broke a promise.
pub(crate) struct Broken {
    pub(crate) what: String,
    pub(crate) why: String,
}

fn main() -> Result<()> {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == probe::FLAG) {
        return probe::run(&words[1..]);
    }
    let mut words: Vec<String> = env::args().skip(1).collect();
    let write = marks::asked(&mut words)?;
    let mut flag = |flag: &str| {
        let before = words.len();
        words.retain(|word| word != flag);
        words.len() < before
    };
    let (signals, all) = (flag("--signals"), flag("--all"));
    let usage = "expected [--signals] [--all] [--write FILE]... BINARY [WORD ...]";
    anyhow::ensure!(!words.is_empty(), usage);
    let binary = fs::canonicalize(words.remove(0)).context(usage)?;
    let is_meant = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    let directory = env::temp_dir().join(format!("proa-sweep-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let stage = Stage { binary: &binary, directory: &directory };
    let started = Instant::now();
    let (broken, repeated) = if signals {
        let (counts, broken, repeated) = signals::sweep(&stage, all, is_meant)?;
        let table = signals::table(&counts);
        println!("{table}");
        marks::write(&write, &[("signals", &table)])?;
        (broken, repeated)
    } else {
        let (counts, broken, repeated) = errors::sweep(&stage, all, is_meant)?;
        let (summary, by_call) = (errors::summary(&counts), errors::by_call(&counts));
        println!("{by_call}\n{summary}");
        marks::write(&write, &[("sweep", &summary), ("calls", &by_call)])?;
        (broken, repeated)
    };
    fs::remove_dir_all(&directory)?;
    println!("{repeated} repeated, {} violations, {} s", broken.len(), started.elapsed().as_secs());
    for Broken { what, why } in &broken {
        println!("  {what}: {why}");
    }
    if !broken.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// Does this for each, some side by side; the results in their order.
fn each<T: Sync, R: Send>(
    runs: &[T],
    workers: usize,
    run: impl Fn(usize, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(runs.iter().map(|_| None).collect::<Vec<Option<R>>>());
    let work = |worker: usize| -> Result<()> {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = runs.get(turn) else { return Ok(()) };
            let result = run(worker, one)?;
            results.lock().expect("no worker panics")[turn] = Some(result);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..=workers).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(results.into_inner().expect("no worker panics").into_iter().flatten().collect())
}

/// What was seen of the disturbed call, if it was made, and how the run is judged.
pub(crate) type Judged<S, J> = (Option<S>, Result<J, String>);

/// The same; one that breaks a promise once more, with few beside it, since a machine that is busy enough breaks any limit of time. One in
/// which the call is not made says nothing. With the results, how many were repeated; why is said.
pub(crate) fn each_or_again<T: Sync, S: Send, J: Send>(
    runs: &[T],
    run: impl Fn(usize, &T) -> Result<Judged<S, J>> + Sync,
) -> Result<(Vec<Judged<S, J>>, usize)> {
    let mut results = each(runs, WORKERS, &run)?;
    let mut places = Vec::new();
    for (place, (_, judged)) in results.iter().enumerate() {
        if let Err(why) = judged {
            eprintln!("repeated: {why}");
            places.push(place);
        }
    }
    let again = each(&places, FEW, |worker, place| run(worker, &runs[*place]))?;
    let repeated = places.len();
    for (place, result) in places.into_iter().zip(again).filter(|(_, (seen, _))| seen.is_some()) {
        results[place] = result;
    }
    Ok((results, repeated))
}
