//! The file that others wait for.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use tracing::info;

use crate::exit::Outcome;

/// Removes what an earlier run left, which would let others start too early, and tries whether the file can be written.
pub(super) fn prepare(path: &Path) -> Result<(), Outcome> {
    remove(path).and_then(|()| try_beside(path)).map_err(cannot_write(path))
}

/// Writes it.
pub(super) fn write(path: &Path) -> Result<(), Outcome> {
    touch(path).map_err(cannot_write(path))?;
    info!("wrote {}", path.display());
    Ok(())
}

/// What is there stays as it is. A pipe without a reader is refused, rather than waited for (`open(2)`, `ENXIO`).
fn touch(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(libc::O_NONBLOCK).open(path).map(drop)
}

/// Whether the file could be written, by another name: who waits for it is not to see it.
fn try_beside(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".proa");
    let other = path.with_file_name(hidden);
    touch(&other)?;
    remove(&other)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn cannot_write(path: &Path) -> impl Fn(io::Error) -> Outcome {
    let path = path.to_owned();
    move |error| Outcome::NoReadyFile(path.clone(), error)
}
