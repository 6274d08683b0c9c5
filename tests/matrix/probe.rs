//! What runs in place of a program: this one again, in one of these roles.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;

use super::filter;

/// The first argument of a probe.
pub(crate) const FLAG: &str = "--probe";

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let [role, rest @ ..] = arguments else { bail!("expected a role") };
    match (role.to_str(), rest) {
        (Some("without"), [what, program, arguments @ ..]) => {
            without(what.to_str().context("what to be without")?)?;
            Err(Command::new(program).args(arguments).exec().into())
        }
        (Some("orphans"), [count, lines, go, code]) => {
            let number =
                |word: &OsString| word.to_str().and_then(|word| word.parse::<u16>().ok()).context("a number");
            orphans(number(count)?)?;
            fs::OpenOptions::new().write(true).open(lines)?.write_all(b"ran\n")?;
            BufReader::new(fs::File::open(go)?).read_line(&mut String::new())?;
            std::process::exit(number(code)?.into())
        }
        _ => bail!("no role {} with {} arguments", role.display(), rest.len()),
    }
}

/// Has this process and its children live without some system calls, as under a seccomp profile or on another kernel.
fn without(what: &str) -> Result<()> {
    let (calls, error): (&[libc::c_long], _) = match what {
        "fork" => (FORKS, libc::EAGAIN),
        "inotify" => (&[libc::SYS_inotify_init1], libc::ENOSYS),
        "Unix sockets" => (&[libc::SYS_socket], libc::EAFNOSUPPORT),
        "signalfd" => (&[libc::SYS_signalfd4], libc::ENOSYS),
        "eventfd" => (&[libc::SYS_eventfd2], libc::ENOSYS),
        "clone3" => (&[libc::SYS_clone3], libc::ENOSYS),
        "getrandom" => (&[libc::SYS_getrandom], libc::ENOSYS),
        "prctl" => (&[libc::SYS_prctl], libc::ENOSYS),
        other => bail!("cannot be without {other}"),
    };
    let family = (what == "Unix sockets").then_some(libc::AF_UNIX);
    Ok(filter::install(&mut filter::refusing(calls, family, error)?)?)
}

#[cfg(target_arch = "x86_64")]
const FORKS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3];

/// Has so many processes lose their parent, and end.
#[expect(unsafe_code, reason = "a program for each would take minutes")]
fn orphans(count: u16) -> Result<()> {
    for _ in 0..count {
        // SAFETY: this program has one thread; the child only forks, and both children only end.
        let parent = unsafe { libc::fork() };
        ensure!(parent != -1, "fork: {}", std::io::Error::last_os_error());
        if parent == 0 {
            // SAFETY: as above.
            unsafe { libc::fork() };
            // SAFETY: takes an integer, and does not return.
            unsafe { libc::_exit(0) };
        }
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(parent), None)?;
    }
    Ok(())
}
