//! Files of variables for the command, which a sidecar may have written.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dotenvy::Iter;
use tokio::time::timeout;

use crate::memory;
use crate::policy::Precedence;
use crate::shortage::{PATIENCE, outlast_shortage};
use crate::thread::aside;

/// How long files may take to be read.
const LIMIT: Duration = Duration::from_secs(10);
/// A file's size, in bytes: twice what a process's arguments and variables come to unless somebody raises its stack's limit
/// (execve(2)).
const LONGEST_FILE: usize = 4 * 1024 * 1024;
/// What references to other variables may add to one, in bytes: no variable can be longer (execve(2), `MAX_ARG_STRLEN`).
const LONGEST_VALUE: usize = 128 * 1024;

/// Files of variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFiles {
    /// In the order given.
    pub paths: Vec<PathBuf>,
    /// Whose word counts.
    pub precedence: Precedence,
}

/// Variables by name.
type Variables = BTreeMap<String, String>;

/// Why a file of variables cannot be used. Tells no value.
#[derive(Debug)]
pub enum Unusable {
    /// It cannot be read.
    Unread(PathBuf, io::Error),
    /// The entry that begins on this line, the first being 1, is no variable.
    Malformed(PathBuf, usize),
    /// It is larger than anything that holds variables, or they are.
    TooLong(PathBuf),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(path, error) if error.kind() == io::ErrorKind::NotFound => {
                let path = path.display();
                write!(f, "--env-file {path}: {error}; --wait-file={path} waits until it is there")
            }
            Self::Unread(path, error) => {
                write!(f, "--env-file {}: {error}; expected a file of NAME=value lines", path.display())
            }
            Self::Malformed(path, line) => write!(
                f,
                "--env-file {}, line {line}: expected NAME=value, with single quotes around a value that has spaces, `$`, \
                 quotes or backslashes",
                path.display()
            ),
            Self::TooLong(path) => write!(
                f,
                "--env-file {}: too long; expected at most 4 MiB, and at most 128 KiB in a variable",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Unusable {}

/// Reads the files by dotenvy's rules, and returns what they add to the process's own environment or replace in it.
/// In a thread of its own, which nobody has to wait for: a volume whose server is away may keep it for ever.
///
/// # Errors
/// When one of them is not there, not what it should be, or takes more than 10 seconds.
pub async fn read(files: &EnvFiles) -> Result<Variables, Unusable> {
    let Some(first) = files.paths.first() else {
        return Ok(Variables::new());
    };
    // Before anything of them is read.
    memory::clear_what_is_freed();
    let copy = files.clone();
    let failed = |why| Err(Unusable::Unread(first.clone(), why));
    match timeout(LIMIT, aside(PATIENCE, move || read_all(&copy))).await {
        Ok(Ok(variables)) => variables,
        Ok(Err(error)) => failed(error),
        Err(_) => {
            let why = format!("not read within {}", humantime::format_duration(LIMIT));
            failed(io::Error::new(io::ErrorKind::TimedOut, why))
        }
    }
}

fn read_all(files: &EnvFiles) -> Result<Variables, Unusable> {
    let mut found = Variables::new();
    for path in &files.paths {
        for (name, value) in parse(path, &read_text(path)?)? {
            match files.precedence {
                Precedence::File => {
                    found.insert(name, value);
                }
                Precedence::Environment if env::var_os(&name).is_some() => {}
                Precedence::Environment => {
                    found.entry(name).or_insert(value);
                }
            }
        }
    }
    Ok(found)
}

fn read_text(path: &Path) -> Result<String, Unusable> {
    let unread = |error| Unusable::Unread(path.to_owned(), error);
    let mut text = Vec::new();
    let more = u64::try_from(LONGEST_FILE).unwrap_or(u64::MAX).saturating_add(1);
    outlast_shortage(|| {
        text.clear();
        fs::File::open(path)?.take(more).read_to_end(&mut text)
    })
    .map_err(unread)?;
    if text.len() > LONGEST_FILE {
        return Err(Unusable::TooLong(path.to_owned()));
    }
    String::from_utf8(text).map_err(|error| unread(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Reads such a file's text. `path`: what it is called in an error.
///
/// # Errors
/// When an entry is no variable.
pub fn parse(path: &Path, text: &str) -> Result<Vec<(String, String)>, Unusable> {
    let (line, referred) = (Cell::new(0), Cell::new(0));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let known = RefCell::new(Known::of_the_environment());
    let lines =
        Lines { rest: text.as_bytes(), line: &line, at_start: true, referred: &referred, known: &known };
    let malformed = |line| Unusable::Malformed(path.to_owned(), line);
    Iter::new(lines)
        .map(|entry| {
            referred.set(0);
            match entry {
                // No variable can hold a null byte (environ(7)).
                Ok((_, value)) if value.contains('\0') => Err(malformed(line.get())),
                Ok((_, value)) if value.len() > LONGEST_VALUE => Err(Unusable::TooLong(path.to_owned())),
                Ok((name, value)) => {
                    known.borrow_mut().add(name.as_bytes(), value.len());
                    Ok((name, value))
                }
                // What is quoted here may be a secret; what is of use is how many lines it has.
                Err(dotenvy::Error::LineParse(entry, _)) => {
                    Err(malformed(line.get() - entry.trim_end_matches('\n').matches('\n').count()))
                }
                Err(dotenvy::Error::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                    Err(Unusable::TooLong(path.to_owned()))
                }
                Err(dotenvy::Error::Io(error)) => Err(Unusable::Unread(path.to_owned(), error)),
                Err(_) => Err(malformed(line.get())),
            }
        })
        .collect()
}

/// The lengths of the variables that a file can refer to: those of the environment, and its own that were before.
#[derive(Default)]
struct Known {
    lengths: HashMap<Vec<u8>, usize>,
    longest: usize,
}

impl Known {
    fn of_the_environment() -> Self {
        let mut known = Self::default();
        for (name, value) in env::vars_os() {
            known.add(name.as_bytes(), value.len());
        }
        known
    }

    /// Either may be the one that counts where there are two of a name.
    fn add(&mut self, name: &[u8], length: usize) {
        self.longest = self.longest.max(length);
        let known = self.lengths.entry(name.to_owned()).or_default();
        *known = length.max(*known);
    }

    /// What the reference after this `$` comes to at most, wherever it stands: it is none in single quotes. A name is what is in
    /// braces, or all that are letters and digits.
    fn referred(&self, rest: &[u8]) -> usize {
        let (name, end): (_, fn(u8) -> bool) = match rest.strip_prefix(b"{") {
            Some(name) => (name, |byte| byte == b'}'),
            None => (rest, |byte| !byte.is_ascii_alphanumeric()),
        };
        match name.iter().take(LONGEST_NAME).position(|byte| end(*byte)) {
            // Letters of other scripts are some too, which takes more to tell.
            Some(length) if !name[..=length].is_ascii() => self.longest,
            Some(length) => self.lengths.get(&name[..length]).copied().unwrap_or_default(),
            None => self.longest,
        }
    }
}

/// How long a name is, in bytes, that is looked up: to do so for each `$` of a file takes no quadratic time.
const LONGEST_NAME: usize = 256;

/// How much the references of one entry may come to: far more than a variable can hold, since one may be in single quotes.
const MOST_REFERRED: usize = 64 * 1024 * 1024;

/// Gives out one line at a time, so that it is known which one the parser has come to.
struct Lines<'a> {
    rest: &'a [u8],
    line: &'a Cell<usize>,
    at_start: bool,
    /// How much the references in the entry that is read may come to.
    referred: &'a Cell<usize>,
    known: &'a RefCell<Known>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at_start && !self.rest.is_empty() {
            self.line.set(self.line.get() + 1);
        }
        let line = self.rest.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let (given, _) = line.split_at(line.len().min(buffer.len()));
        // Before they are put in place: each entry may refer to the one before many times, so that a few come to gigabytes.
        let known = self.known.borrow();
        for (at, _) in given.iter().enumerate().filter(|(_, byte)| **byte == b'$') {
            let length = known.referred(&self.rest[at + 1..]);
            self.referred.set(self.referred.get().saturating_add(length));
        }
        if self.referred.get() > MOST_REFERRED {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        buffer[..given.len()].copy_from_slice(given);
        self.at_start = given.ends_with(b"\n");
        self.rest = &self.rest[given.len()..];
        Ok(given.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, usize> {
        parse(Path::new("x"), text).map_err(|unusable| match unusable {
            Unusable::Malformed(_, line) => line,
            Unusable::Unread(..) | Unusable::TooLong(_) => 0,
        })
    }

    #[test]
    fn the_usual_forms_are_read() {
        let text = "\u{feff}# secrets\nA=1\nexport B='x y' # why\n\nC=\"two\nlines\"\nD=${A}2\n";
        let pairs = [("A", "1"), ("B", "x y"), ("C", "two\nlines"), ("D", "12")];
        let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parsed(text), Ok(expected.to_vec()));
        assert_eq!(parsed(""), Ok(Vec::new()));
    }

    #[test]
    fn an_error_is_on_the_line_where_its_entry_begins() {
        for (text, line) in [
            ("nonsense", 1),
            ("A=1\n\n# x\nB 2\nC=3\n", 4),
            ("A=1\nB=x y\n", 2),
            ("A='1\n2'\nB='open\n\nC=3\n", 3),
            ("A=\"1\n2\" x\n", 1),
            ("A=1\0\n", 1),
        ] {
            assert_eq!(parsed(text), Err(line), "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_one_line() {
        let text = format!("A={}\nB 2\n", "x".repeat(100_000));
        assert_eq!(parsed(&text), Err(2));
    }

    #[test]
    fn variables_that_grow_are_refused_before_they_fill_the_memory() {
        let twice = |number: usize| format!("V{number}=$V{0}$V{0}\n", number - 1);
        let few: String = (1..10).map(twice).collect();
        assert_eq!(parsed(&format!("V0=x\n{few}")).map(|found| found[9].1.len()), Ok(512));
        let many: String = (1..64).map(twice).collect();
        assert_eq!(parsed(&format!("V0=x\n{many}")), Err(0));
        let wide = format!("A={}\nB=\"{}\"\n", "x".repeat(100_000), "$A".repeat(100_000));
        assert_eq!(parsed(&wide), Err(0));
        let said = parse(Path::new("/run/env"), &wide).unwrap_err().to_string();
        assert!(said.contains("/run/env: too long; expected at most 4 MiB"), "{said}");
    }

    /// A file for `htpasswd` has three for each user.
    #[test]
    fn signs_that_refer_to_nothing_count_for_nothing_beside_a_long_variable() {
        let hashes = "user:$2y$10$abcdefghijklm\n".repeat(1000);
        for quoted in [format!("'{hashes}'"), format!("\"{}\"", hashes.replace('$', "\\$"))] {
            let text = format!("BIG={}\nHASHES={quoted}\n# {}\n", "x".repeat(120_000), "$1".repeat(1000));
            assert_eq!(parsed(&text).map(|found| found[1].1.clone()), Ok(hashes.clone()));
        }
        let name = "N".repeat(LONGEST_NAME);
        for reference in ["$BIG", "${BIG}", &format!("${{{name}}}")] {
            let value = "x".repeat(120_000);
            let text = format!("BIG={value}\n{name}={value}\nA=\"{}\"\n", reference.repeat(1000));
            assert_eq!(parsed(&text), Err(0), "{reference}");
        }
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let endless = PathBuf::from("/dev/zero");
        let files = EnvFiles { paths: vec![endless], precedence: Precedence::File };
        assert!(matches!(read_all(&files), Err(Unusable::TooLong(_))));
        assert_eq!(parsed(&"#\n".repeat(LONGEST_FILE / 2)), Ok(Vec::new()));
    }

    #[test]
    fn no_value_is_ever_told() {
        let error = parse(Path::new("/run/env"), "PASSWORD='hunter2").unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("/run/env") && said.contains('1') && !said.contains("hunter"), "{said}");
    }
}
