//! What runs in place of a program: this one again, in one of these roles.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::libc;

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
        "pidfd" => (&[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal], libc::ENOSYS),
        "clone3" => (&[libc::SYS_clone3], libc::ENOSYS),
        "getrandom" => (&[libc::SYS_getrandom], libc::ENOSYS),
        "prctl" => (&[libc::SYS_prctl], libc::ENOSYS),
        other => bail!("cannot be without {other}"),
    };
    let family = (what == "Unix sockets").then_some(libc::AF_UNIX);
    refuse(calls, family, error)
}

#[cfg(target_arch = "x86_64")]
const FORKS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[libc::c_long] = &[libc::SYS_clone, libc::SYS_clone3];

/// Has these calls fail with this error from now on; with a first argument, only those that have it.
#[expect(unsafe_code, reason = "a filter of system calls is set by a system call")]
fn refuse(calls: &[libc::c_long], first: Option<i32>, error: i32) -> Result<()> {
    // What a filter sees: the number, and the arguments after it (seccomp(2), struct seccomp_data).
    const NUMBER: u32 = 0;
    const FIRST: u32 = 16;
    let bits = |bits: u32| u16::try_from(bits).context("a code of BPF");
    let load = bits(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS)?;
    let equals = bits(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K)?;
    let back = bits(libc::BPF_RET | libc::BPF_K)?;
    let one = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![one(load, NUMBER, 0, 0)];
    for call in calls {
        let (call, refusal) = (u32::try_from(*call)?, libc::SECCOMP_RET_ERRNO | u32::try_from(error)?);
        match first {
            None => filter.extend([one(equals, call, 0, 1), one(back, refusal, 0, 0)]),
            Some(first) => filter.extend([
                one(equals, call, 0, 4),
                one(load, FIRST, 0, 0),
                one(equals, u32::try_from(first)?, 0, 1),
                one(back, refusal, 0, 0),
                one(load, NUMBER, 0, 0),
            ]),
        }
    }
    filter.push(one(back, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog { len: u16::try_from(filter.len())?, filter: filter.as_mut_ptr() };
    // SAFETY: takes integers alone.
    let private = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    ensure!(private == 0, "PR_SET_NO_NEW_PRIVS: {}", std::io::Error::last_os_error());
    // SAFETY: the program and its filter live until the call returns, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    ensure!(set == 0, "PR_SET_SECCOMP: {}", std::io::Error::last_os_error());
    Ok(())
}

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
