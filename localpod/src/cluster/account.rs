//! The service account: its directory as the kubelet mounts it, and its current token.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::random;
use crate::scratch::Scratch;
use crate::sync::lock;

/// The directory and the one token that is accepted.
pub(super) struct Account {
    scratch: Scratch,
    namespace: String,
    ca_pem: String,
    current: Mutex<Current>,
}

struct Current {
    token: String,
    /// The generation directory `..data` points to.
    generation: u32,
}

impl Account {
    pub(super) fn create(namespace: &str, ca_pem: String) -> io::Result<Account> {
        let account = Account {
            scratch: Scratch::create("account")?,
            namespace: namespace.to_owned(),
            ca_pem,
            current: Mutex::new(Current { token: String::new(), generation: 0 }),
        };
        account.rotate()?;
        for file in ["token", "ca.crt", "namespace"] {
            symlink(Path::new("..data").join(file), account.path().join(file))?;
        }
        Ok(account)
    }

    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Issues a new token, after which the old one is no longer accepted.
    ///
    /// As in the kubelet's atomic writer, readers go through the `..data` link, and replacing that link by rename shows
    /// them all files of one generation or all of the next.
    pub(super) fn rotate(&self) -> io::Result<()> {
        let mut current = lock(&self.current);
        let token = random::token()?;
        let generation = current.generation + 1;
        let directory = self.generation_path(generation);
        fs::create_dir(&directory)?;
        fs::write(directory.join("token"), &token)?;
        fs::write(directory.join("ca.crt"), &self.ca_pem)?;
        fs::write(directory.join("namespace"), &self.namespace)?;
        let link = self.path().join("..data_tmp");
        symlink(directory.file_name().unwrap_or_default(), &link)?;
        fs::rename(&link, self.path().join("..data"))?;
        let previous = std::mem::replace(&mut *current, Current { token, generation });
        if previous.generation > 0 {
            fs::remove_dir_all(self.generation_path(previous.generation))?;
        }
        Ok(())
    }

    /// The token that is there is not accepted any more, and there is no other yet.
    pub(super) fn expire(&self) {
        lock(&self.current).token.clear();
    }

    fn generation_path(&self, generation: u32) -> PathBuf {
        self.path().join(format!("..generation_{generation}"))
    }

    pub(super) fn accepts(&self, token: &str) -> bool {
        let current = lock(&self.current);
        !current.token.is_empty() && current.token == token
    }
}
