//! Temporary directories that go when their owner does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::random;

/// A directory of its own below the system's temporary one, removed on drop.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn create(purpose: &str) -> io::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("localpod-{purpose}-{}", random::token()?));
        fs::create_dir(&path)?;
        Ok(Scratch(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about a directory that will not go, and a test's verdict must not depend on it.
        drop(fs::remove_dir_all(&self.0));
    }
}
