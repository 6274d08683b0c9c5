//! Turning the forked child into the command.
//!
//! The standard library's way, execvp(3), hands a file that the kernel does not know how to execute to
//! /bin/sh. A program built for another machine would then fail as a garbled script, or as "not found"
//! where there is no shell. Here it is what it is: not executable.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, NulError, OsStr, c_char};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use nix::libc;

use crate::plan::Command;

/// Where programs are looked for without `PATH`; confstr(3), `_CS_PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Everything that execve(2) needs, made before the fork: after it nothing may be allocated.
pub struct Image {
    candidates: Vec<CString>,
    arguments: Words,
    environment: Words,
}

/// A null-terminated array of strings.
struct Words {
    pointers: Vec<*const c_char>,
    // What the pointers point to; moving a CString does not move its bytes.
    _strings: Vec<CString>,
}

#[expect(unsafe_code, reason = "raw pointers are not shared between threads by default")]
// SAFETY: the pointers lead to heap memory that the same value owns and nothing changes.
unsafe impl Send for Words {}
#[expect(unsafe_code, reason = "raw pointers are not shared between threads by default")]
// SAFETY: as above; there is no way to change anything through a shared reference.
unsafe impl Sync for Words {}

impl Words {
    fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        Self { pointers, _strings: strings }
    }
}

impl Image {
    /// Prepares the command, with proa's own environment.
    ///
    /// # Errors
    /// When a word holds a null byte, which no command line can.
    pub fn new(command: &Command) -> Result<Self, NulError> {
        let path = env::var_os("PATH");
        let path = path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
        let words = [&command.program].into_iter().chain(&command.args);
        let variables = env::vars_os().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec())
        });
        Ok(Self {
            candidates: candidates(command.program.as_bytes(), path.as_bytes())?,
            arguments: Words::new(words.map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?),
            environment: Words::new(variables.collect::<Result<_, _>>()?),
        })
    }

    /// Becomes the command. Only async-signal-safe calls are made (signal-safety(7)).
    ///
    /// # Errors
    /// Why the command cannot be executed: of the last candidate, but a file that is there and may not be
    /// executed comes before files that are not there, as with execvp(3).
    #[expect(unsafe_code, reason = "nix's execve allocates, which a forked child should not")]
    pub fn execute(&self) -> io::Result<Infallible> {
        let mut denied = None;
        let mut last = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            let (arguments, environment) = (&self.arguments.pointers, &self.environment.pointers);
            // SAFETY: the path is a C string; both arrays end with a null pointer and point to C strings, all
            // alive while `self` is.
            unsafe { libc::execve(candidate.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
            last = io::Error::last_os_error();
            match last.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(libc::EACCES),
                _ => return Err(last),
            }
        }
        Err(denied.map_or(last, io::Error::from_raw_os_error))
    }
}

/// The files that the program may be: itself if its name has a slash, else one in each directory of `path`.
/// An empty entry is the working directory (environ(7)).
fn candidates(program: &[u8], path: &[u8]) -> Result<Vec<CString>, NulError> {
    if program.contains(&b'/') {
        return Ok(vec![CString::new(program)?]);
    }
    let directories = path.split(|byte| *byte == b':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", program].concat())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, path: &str) -> Vec<String> {
        let found = candidates(program.as_bytes(), path.as_bytes()).unwrap();
        found.into_iter().map(|path| path.into_string().unwrap()).collect()
    }

    #[test]
    fn a_name_with_a_slash_is_not_looked_up() {
        assert_eq!(found("/bin/sh", "/usr/bin"), ["/bin/sh"]);
        assert_eq!(found("./run", "/usr/bin"), ["./run"]);
    }

    #[test]
    fn other_names_are_looked_up_in_the_order_of_path() {
        assert_eq!(found("sh", "/usr/bin:/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(found("sh", "/a::/b"), ["/a/sh", "./sh", "/b/sh"]);
    }

    #[test]
    fn a_null_byte_is_an_error() {
        assert!(candidates(b"a\0b", b"/bin").is_err());
    }
}
