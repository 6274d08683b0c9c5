//! What PID 1 of a container owes its command, tried on proa and on other inits:
//! `cargo run --example init -- BINARY [--proa-only] [NAME ...]`, with tini, dumb-init and catatonit in `PATH`.
//!
//! Runs each contract (docs/init.md) with each init in a PID namespace of its own: real processes, signals, descriptors and terminals.
//! Prints a table of what was seen, and fails if proa does not do what its column of the contracts says. `NAME`s pick contracts.

mod probe;
mod proc;
mod rows;
mod scene;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use rows::{CONTRACTS, Contract};
use scene::{Init, Kind, Stage, Wish};

/// Where a Pod has its service account, with which proa would not be a plain init.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What came of a contract with an init.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// What the contract says.
    Holds,
    /// Something else.
    Instead(String),
}

impl Seen {
    /// What was seen instead; it holds if that is nothing.
    fn instead(deviations: impl IntoIterator<Item = String>) -> Self {
        let deviations: Vec<_> = deviations.into_iter().filter(|text| !text.is_empty()).collect();
        if deviations.is_empty() { Self::Holds } else { Self::Instead(deviations.join("; ")) }
    }

    fn holds_if(holds: bool, instead: impl FnOnce() -> String) -> Self {
        if holds { Self::Holds } else { Self::Instead(instead()) }
    }

    fn text(&self) -> &str {
        match self {
            Self::Holds => "holds",
            Self::Instead(text) => text,
        }
    }
}

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let first = arguments.next().context("expected BINARY [--proa-only] [NAME ...]")?;
    if first == probe::FLAG {
        return probe::run(&arguments.collect::<Vec<_>>());
    }
    let (flags, names): (Vec<_>, Vec<_>) = arguments.partition(|word| word == "--proa-only");
    let names = names.into_iter().map(OsString::into_string).collect::<Result<Vec<_>, _>>();
    let names = names.map_err(|name| anyhow::anyhow!("{} is no contract", name.display()))?;
    if let Some(unknown) = names.iter().find(|name| CONTRACTS.iter().all(|contract| contract.name != **name))
    {
        bail!("{unknown} is no contract; there are {}", CONTRACTS.map(|contract| contract.name).join(", "));
    }
    let inits =
        inits(&fs::canonicalize(&first).with_context(|| first.display().to_string())?, flags.is_empty())?;
    ensure!(
        !Path::new(SERVICE_ACCOUNT).exists(),
        "{SERVICE_ACCOUNT} is here; expected a machine outside Kubernetes"
    );
    let directory = env::temp_dir().join(format!("proa-init-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let outcome = table(&inits, &names, &directory);
    fs::remove_dir_all(&directory)?;
    let broken = outcome?;
    println!("{} violations", broken.len());
    for violation in &broken {
        println!("  {violation}");
    }
    if !broken.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

/// proa, and the others unless it is tried alone.
fn inits(proa: &Path, others: bool) -> Result<Vec<Init>> {
    let mut inits = vec![Init { kind: Kind::Proa, path: proa.to_owned() }];
    if others {
        for kind in [Kind::Tini, Kind::DumbInit, Kind::Catatonit] {
            let path = in_path(kind.name()).with_context(|| {
                let name = kind.name();
                format!("no {name} in PATH; expected the Debian package {name}, or --proa-only")
            })?;
            inits.push(Init { kind, path });
        }
    }
    Ok(inits)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// What the init calls its version.
fn version(init: &Init) -> Result<String> {
    let output = Command::new(&init.path).arg("--version").stdin(Stdio::null()).output()?;
    // dumb-init says it on stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let word = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    let number = word
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(|word| word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>());
    Ok(format!("{} {}", init.kind.name(), number.into_iter().next().unwrap_or_default()))
}

/// Tries the contracts, and prints the table; where proa does not do what is expected of it.
fn table(inits: &[Init], names: &[String], directory: &Path) -> Result<Vec<String>> {
    let started = Instant::now();
    let versions = inits.iter().map(version).collect::<Result<Vec<_>>>()?;
    println!("| name | contract | {} |\n|---|---|{}", versions.join(" | "), "---|".repeat(inits.len()));
    let mut broken = Vec::new();
    let mut holding = vec![0; inits.len()];
    let chosen: Vec<_> = CONTRACTS
        .iter()
        .filter(|contract| names.is_empty() || names.iter().any(|name| name == contract.name))
        .collect();
    for contract in &chosen {
        let mut cells = Vec::new();
        for (init, holding) in inits.iter().zip(&mut holding) {
            let seen = observe(contract, init, directory)
                .with_context(|| format!("{}, {}", contract.name, init.kind.name()))?;
            *holding += usize::from(seen == Seen::Holds);
            let expected = contract.proa.unwrap_or("holds");
            if init.kind == Kind::Proa && seen.text() != expected {
                broken.push(format!("{}: expected {expected:?}, seen {:?}", contract.name, seen.text()));
            }
            cells.push(seen.text().to_owned());
        }
        println!("| `{}` | {} | {} |", contract.name, contract.text, cells.join(" | "));
    }
    let holding = inits.iter().zip(holding).map(|(init, count)| format!("{} {count}", init.kind.name()));
    let holding: Vec<_> = holding.collect();
    println!(
        "\n{} contracts, {} cells, {} s; hold as they stand: {}\n",
        chosen.len(),
        chosen.len() * inits.len(),
        started.elapsed().as_secs(),
        holding.join(", ")
    );
    Ok(broken)
}

/// Tries it as it stands, and if it does not hold with the flag that asks for it.
fn observe(contract: &Contract, init: &Init, directory: &Path) -> Result<Seen> {
    let stage = Stage::new(init, directory);
    let seen = (contract.observe)(&stage)?;
    let flag = contract.wish.filter(|_| seen != Seen::Holds).and_then(|wish| Some((wish, init.flag(wish)?)));
    if let Some((wish, flag)) = flag
        && (contract.observe)(&stage.wish(wish))? == Seen::Holds
    {
        return Ok(Seen::Instead(format!("only with `{flag}`")));
    }
    Ok(seen)
}

impl Init {
    /// The flag that asks for something.
    fn flag(&self, wish: Wish) -> Option<&'static str> {
        Some(match (self.kind, wish) {
            (Kind::Proa, Wish::Group) => "--forward-to=group",
            (Kind::Proa, Wish::Quiet) => "--log-level=error",
            (Kind::Tini | Kind::Catatonit, Wish::Group) => "-g",
            (Kind::Tini, Wish::Subreaper) => "-s",
            (Kind::DumbInit, Wish::Child) => "-c",
            _ => return None,
        })
    }
}
