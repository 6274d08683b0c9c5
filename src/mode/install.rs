//! `proa install`: copies the running binary to a volume, from which any image can run it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracing::warn;

/// Why proa was not installed.
#[derive(Debug)]
pub enum NotInstalled {
    /// The running binary cannot be read.
    Source(io::Error),
    /// The target cannot be written.
    Target(PathBuf, io::Error),
    /// What was written is not what was to be written.
    Damaged(PathBuf),
    /// It cannot be executed where it is.
    NotExecutable(PathBuf, String),
}

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => write!(f, "cannot read the running binary at /proc/self/exe: {error}"),
            Self::Target(path, error) => write!(
                f,
                "cannot install to {}: {error}; expected a directory that this user may write, on a volume with \
                 room for the binary",
                path.display()
            ),
            Self::Damaged(path) => {
                write!(f, "what was written to {} is not what was read back from it", path.display())
            }
            Self::NotExecutable(path, why) => write!(
                f,
                "{} cannot be executed: {why}; expected a volume that is not mounted noexec",
                path.display()
            ),
        }
    }
}

impl std::error::Error for NotInstalled {}

/// Copies the running binary to `destination`, or into it if it is a directory. It appears there whole and
/// executable, or not at all. Returns where it is.
///
/// # Errors
/// When it cannot be written, or not be executed there.
pub fn install(destination: &Path) -> Result<PathBuf, NotInstalled> {
    let binary = fs::read("/proc/self/exe").map_err(NotInstalled::Source)?;
    let target = if destination.is_dir() { destination.join("proa") } else { destination.to_owned() };
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let failed = |error| NotInstalled::Target(target.clone(), error);
    if !cfg!(target_feature = "crt-static") {
        warn!(
            "this binary is dynamically linked, so it runs only in images with the same C library, or a newer one; expected one \
             that was built with RUSTFLAGS=\"-C target-feature=+crt-static\""
        );
    }
    // No other's, left over or still at work: in a container every process ID is 1.
    let (file, path) = tempfile(&target, &name).map_err(failed)?;
    let unfinished = Unfinished(path);
    write(file, &binary).map_err(failed)?;
    if fs::read(&unfinished.0).map_err(failed)? != binary {
        return Err(NotInstalled::Damaged(target));
    }
    runs(&unfinished.0).map_err(|why| NotInstalled::NotExecutable(target.clone(), why))?;
    // Replaces an earlier one in one step, even while it runs (rename(2)).
    fs::rename(&unfinished.0, &target).map_err(failed)?;
    Ok(target)
}

fn tempfile(target: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    loop {
        // Seeded at random (std::hash::RandomState).
        let random = RandomState::new().build_hasher().finish();
        let path = target.with_file_name(format!(".{name}.{random:016x}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o755).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

fn write(mut file: File, binary: &[u8]) -> io::Result<()> {
    // The umask may have taken from the mode: every user of the Pod is to run it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    file.write_all(binary)?;
    file.sync_all()
}

fn runs(path: &Path) -> Result<(), String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Removed unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more if all went well.
        let _ = fs::remove_file(&self.0);
    }
}

/// What is said once it is done.
#[must_use]
pub fn said(target: &Path) -> String {
    format!("proa {} is at {}\n", env!("CARGO_PKG_VERSION"), target.display())
}
