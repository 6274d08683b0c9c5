//! Filters of system calls, as a seccomp profile sets them.

use std::io;

use anyhow::{Context, Result};
use nix::libc;

/// A filter by which these calls fail with this error; with a first argument, only those that have it.
pub(crate) fn refusing(
    calls: &[libc::c_long],
    first: Option<i32>,
    error: i32,
) -> Result<Vec<libc::sock_filter>> {
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
    Ok(filter)
}

/// Has it hold for this process and its children from now on.
#[expect(unsafe_code, reason = "a filter of system calls is set by a system call")]
pub(crate) fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: takes integers alone.
    let private = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if private != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the program and its filter live until the call returns, which copies them.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
