//! What /proc tells of a process. All of it is bytes: names and paths are whatever somebody made them.

use std::fs;
use std::io;

use crate::shortage::unless_short;

/// A part of `proc_pid_stat(5)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The parent's ID; 0 where it is out of sight.
    pub parent: i32,
    /// When it started, in clock ticks since the system did.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads that of a process, by its ID or `self`; `None` if it has ended.
    ///
    /// # Errors
    /// When the system is short of what it takes to read it.
    pub fn of(process: &str) -> io::Result<Option<Self>> {
        let stat = unless_short(fs::read(format!("/proc/{process}/stat")))?;
        Ok(stat.and_then(|stat| Self::parse(&stat)))
    }

    /// Reads the text of /proc/PID/stat. The second field is a name that may hold anything, spaces and parentheses included.
    #[must_use]
    pub fn parse(stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_whitespace();
        // The fourth field, and the twenty-second.
        Some(Self { parent: fields.nth(1)?.parse().ok()?, start_ticks: fields.nth(17)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_read_past() {
        let stat = b"42 (a) b\xff) c) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(Stat::parse(stat), Some(Stat { parent: 7, start_ticks: 987_654 }));
        assert_eq!(Stat::parse(b"garbage"), None);
    }
}
