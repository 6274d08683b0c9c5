//! Turning a child process into the command.
//!
//! The standard library's way, execvp(3), hands a file that the kernel does not know how to execute to
//! /bin/sh. A program built for another machine would then fail as a garbled script, or as "not found"
//! where there is no shell. Here it is what it is: not executable.

use std::convert::Infallible;
use std::env;
use std::ffi::{CStr, CString, NulError, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::unistd::{AccessFlags, Pid, access, execve};

use super::{Command, Variables};
use crate::signal::origin::Origin;

/// Where programs are looked for without `PATH`; confstr(3), `_CS_PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Everything that execve(2) needs, made before there is a child.
pub struct Image {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Image {
    /// Prepares the command, with proa's own environment and what replaces or adds to it.
    ///
    /// # Errors
    /// When a word holds a null byte, which no command line can.
    pub fn new(command: &Command, more: &Variables) -> Result<Self, NulError> {
        let replaced = |name: &OsStr| name.to_str().is_some_and(|name| more.contains_key(name));
        let own = env::vars_os().filter(|(name, _)| !replaced(name));
        let more_os = more.iter().map(|(name, value)| (name.into(), value.into()));
        let environment: Vec<(OsString, OsString)> = own.chain(more_os).collect();
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let path = path.as_deref().unwrap_or(OsStr::new(DEFAULT_PATH));
        let words = [&command.program].into_iter().chain(&command.args);
        let variables = environment.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec())
        });
        Ok(Self {
            candidates: candidates(command.program.as_bytes(), path.as_bytes())?,
            arguments: words.map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?,
            environment: variables.collect::<Result<_, _>>()?,
        })
    }

    /// Starts the command as the leader of a process group of its own, with this signal state. The child
    /// borrows our memory until it executes (`posix_spawn(3)`), which is much quicker than a copy of its maps.
    ///
    /// # Errors
    /// Why the command cannot be executed.
    pub fn spawn(&self, origin: &Origin) -> io::Result<Pid> {
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&origin.mask())?;
        attributes.set_sigdefault(&origin.defaults())?;
        let actions = PosixSpawnFileActions::init()?;
        self.first(|candidate| {
            posix_spawn(candidate, &actions, &attributes, &self.arguments, &self.environment)
        })
    }

    /// Becomes the command, in a forked child.
    ///
    /// # Errors
    /// Why the command cannot be executed.
    pub fn execute(&self) -> io::Result<Infallible> {
        self.first(|candidate| execve(candidate, &self.arguments, &self.environment))
    }

    /// Tries one candidate after the other. If none succeeds, a file that is there and may not be executed
    /// counts before files that are not there, as with execvp(3).
    fn first<T>(&self, attempt: impl Fn(&CStr) -> nix::Result<T>) -> io::Result<T> {
        let mut failure = Errno::ENOENT;
        for candidate in &self.candidates {
            // A look at a file that is not there costs less than a process that finds that out.
            match access(candidate.as_c_str(), AccessFlags::F_OK).and_then(|()| attempt(candidate)) {
                Ok(done) => return Ok(done),
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(Errno::EACCES) => failure = Errno::EACCES,
                Err(other) => return Err(other.into()),
            }
        }
        Err(failure.into())
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
