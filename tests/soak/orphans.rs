//! A proa whose command leaves orphans behind by the thousand.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{Machine, descriptors, status};
use super::{Row, Size};

/// In so many batches, each of which ends before the next.
const BATCHES: usize = 10;
/// How much anonymous memory may have grown, in KiB: none, but a page is the least that there is.
const SLACK: u64 = 4;
const LONGEST: Duration = Duration::from_secs(120);
/// A subshell that leaves one behind and ends.
const SCRIPT: &str = "while read -r count; do
    while [ $count -gt 0 ]; do (: &); count=$((count - 1)); done
    echo done
done
exit 7";

pub(crate) fn collected(binary: &str, size: Size) -> Result<Vec<Row>> {
    let before = Machine::now()?;
    let mut command = Command::new(binary);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--", "sh", "-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut input = child.stdin.take().context("no stdin")?;
    let pid = child.id().to_string();
    let mut seen = Vec::new();
    for _ in 0..BATCHES {
        writeln!(input, "{}", size.orphans / BATCHES)?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "done\n", "the command said {line:?}");
        only_the_command(&pid)?;
        seen.push((status(&pid, "RssAnon")?, descriptors(&pid)?, status(&pid, "Threads")?));
    }
    drop(input);
    let status = child.wait()?;
    ensure!(status.code() == Some(7), "{status}");
    let (first, last) = (seen[0], seen[BATCHES - 1]);
    ensure!(last.0 <= first.0 + SLACK, "anonymous memory has grown from {} KiB to {} KiB", first.0, last.0);
    ensure!((last.1, last.2) == (first.1, first.2), "descriptors, threads: {first:?} before, {last:?} after");
    drop(output);
    Ok(vec![
        Row { what: "orphans of one command".to_owned(), seen: size.orphans.to_string() },
        Row {
            what: "anonymous memory in KiB, descriptors, threads after the first tenth and at the end"
                .to_owned(),
            seen: format!("{}, {}, {}; {}, {}, {}", first.0, first.1, first.2, last.0, last.1, last.2),
        },
        Row { what: "left".to_owned(), seen: before.is_as_it_was()? },
    ])
}

/// Waits until every orphan has been collected.
fn only_the_command(pid: &str) -> Result<()> {
    let since = Instant::now();
    loop {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        match children.split_whitespace().count() {
            1 => return Ok(()),
            count => ensure!(since.elapsed() < LONGEST, "{count} children are left"),
        }
        sleep(Duration::from_millis(1));
    }
}
