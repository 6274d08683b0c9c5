//! Bytes by the gigabyte, through stdout and stdin, beside the command alone. How long that takes is told, and decides nothing: what does
//! is that proa has read and written none of them.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::machine::Machine;
use super::{Row, Size};

const ROUNDS: usize = 3;
/// What proa itself may read and write meanwhile: its log, /proc. Were it in between, it would be all of them.
const OWN: u64 = 1024 * 1024;

pub(crate) fn through(binary: &str, size: Size) -> Result<Vec<Row>> {
    let before = Machine::now()?;
    let count = size.bytes.to_string();
    let out = ["head", "-c", &count, "/dev/zero"];
    let into = ["wc", "-c"];
    let mut rows = Vec::new();
    for (what, words, source) in [("stdout", &out[..], false), ("stdin", &into[..], true)] {
        let (mut ratios, mut best) = (Vec::new(), Duration::MAX);
        let mut own = 0;
        for round in 0..ROUNDS {
            let wrapped = [&[binary, "--"], words].concat();
            let measure =
                |words: &[&str]| if source { write(words, size.bytes) } else { read(words, size.bytes) };
            // Whoever is first finds the machine in another state.
            let (alone, within) = if round % 2 == 0 {
                let alone = measure(words)?;
                (alone, measure(&wrapped)?)
            } else {
                let within = measure(&wrapped)?;
                (measure(words)?, within)
            };
            own = own.max(within.1);
            best = best.min(within.0);
            ratios.push(within.0.as_secs_f64() / alone.0.as_secs_f64());
        }
        ensure!(own < OWN, "{what}: proa itself has read and written {own} bytes");
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[ROUNDS / 2];
        let gigabytes = u32::try_from(size.bytes / 1_000_000)?;
        rows.push(Row {
            what: format!(
                "bytes through {what}; time as a multiple of the command's alone, median of {ROUNDS}"
            ),
            seen: format!(
                "{}; {ratio:.2} ({}); {:.1} GB/s; {own} bytes read and written by proa itself",
                size.bytes,
                ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", "),
                f64::from(gigabytes) / 1000.0 / best.as_secs_f64()
            ),
        });
    }
    rows.push(Row { what: "left".to_owned(), seen: before.is_as_it_was()? });
    Ok(rows)
}

fn start(words: &[&str], stdin: Stdio) -> Result<Child> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Reads all that comes; how long that takes, and what the process itself has read and written.
fn read(words: &[&str], expected: u64) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = start(words, Stdio::null())?;
    let mut output = child.stdout.take().context("no stdout")?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match output.read(&mut buffer)? {
            0 => break,
            length => total += length as u64,
        }
    }
    let taken = started.elapsed();
    ensure!(total == expected, "{total} bytes came instead of {expected}");
    end(child, taken)
}

/// Writes as much; the command counts.
fn write(words: &[&str], count: u64) -> Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = start(words, Stdio::piped())?;
    fill(child.stdin.take().context("no stdin")?, count)?;
    let mut counted = String::new();
    child.stdout.take().context("no stdout")?.read_to_string(&mut counted)?;
    let taken = started.elapsed();
    ensure!(counted.trim() == count.to_string(), "{} bytes came instead of {count}", counted.trim());
    end(child, taken)
}

fn fill(mut input: ChildStdin, mut count: u64) -> Result<()> {
    let zeros = vec![0; 256 * 1024];
    while count > 0 {
        let length = usize::try_from(count)?.min(zeros.len());
        input.write_all(&zeros[..length])?;
        count -= length as u64;
    }
    Ok(())
}

fn end(mut child: Child, taken: Duration) -> Result<(Duration, u64)> {
    let pid = Pid::from_raw(child.id().cast_signed());
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    // Of its one thread: the process's sum has its children in it.
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/io"))?;
    let number = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.with_context(|| format!("no {name}"))?.parse()?)
    };
    let own = number("rchar")? + number("wchar")?;
    ensure!(child.wait()?.success(), "it failed");
    Ok((taken, own))
}
