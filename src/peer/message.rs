//! Which proas there are in a Pod, and what they say to one another.

use std::fmt;

/// What a line begins with.
const QUIT: &str = "quit";
const ENDED: &str = "ended";

/// A container of this Pod in which proa may run. Its Pod's UID keeps it apart from those of other Pods where
/// they share the node's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The Pod's UID.
    pub uid: String,
    /// The container's name.
    pub container: String,
}

/// That a main container has ended: `quit NAME CODE` and a line's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The container.
    pub container: String,
    /// Its exit code.
    pub code: u8,
}

impl Message {
    /// Reads a line, its end included.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        match Word::parse(line)? {
            Word::Quit(message) => Some(message),
            Word::Ended(_) => None,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{QUIT} {} {}", self.container, self.code)
    }
}

/// What a main container's proa says to that of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The sidecar is to quit: this main container has ended, and no other one needs it any more as far as its sender knows.
    Quit(Message),
    /// This main container has ended, and leaves the sidecars to others: `ended NAME CODE` and a line's end. That matters to who
    /// waits for it by name.
    Ended(Message),
}

impl Word {
    /// Reads a line, its end included.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let mut parts = line.split(' ');
        let (verb, container, code, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        if line.contains('\n') {
            return None;
        }
        let message = Message { container: container.to_owned(), code: code.parse().ok()? };
        match verb {
            QUIT => Some(Self::Quit(message)),
            ENDED => Some(Self::Ended(message)),
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quit(message) => message.fmt(f),
            Self::Ended(Message { container, code }) => writeln!(f, "{ENDED} {container} {code}"),
        }
    }
}

/// What a sidecar's proa makes of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It shuts down.
    Stopping,
    /// It serves others too.
    NotYet,
    /// A helper: it exits by itself, once the API server shows that the main containers have.
    ByItself,
}

/// The other proas of this Pod, as one of them sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// The main containers that have ended, of which they are notified.
    pub ended: Vec<Message>,
    /// Those that take messages.
    pub listening: Vec<Peer>,
}

/// The containers of the Pod in which somebody takes messages, as /proc/net/unix lists them (`proc_net(5)`). Names are
/// bytes, and anybody may have bound one with a line's end in it: a line that makes no sense hides no other.
pub fn listening<'a>(sockets: &'a [u8], uid: &'a str) -> impl Iterator<Item = &'a str> {
    names(sockets, uid).filter_map(|name| name.strip_suffix("/q"))
}

/// The containers in which proa runs in front of a main container's command that is not over.
pub fn mains<'a>(sockets: &'a [u8], uid: &'a str) -> impl Iterator<Item = &'a str> {
    names(sockets, uid).filter_map(|name| name.strip_suffix("/m"))
}

/// The containers in which proa runs.
pub fn present<'a>(sockets: &'a [u8], uid: &'a str) -> impl Iterator<Item = &'a str> {
    names(sockets, uid).filter(|name| !name.contains('/'))
}

fn names<'a>(sockets: &'a [u8], uid: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = |line: &'a [u8]| line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let names = sockets.split(|byte| *byte == b'\n').filter_map(move |line| fields(line).nth(7));
    names.filter_map(move |name| {
        let name = std::str::from_utf8(name).ok()?.strip_prefix("@proa/")?;
        name.strip_prefix(uid)?.strip_prefix('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let message = Message { container: "main".into(), code: 3 };
        assert_eq!(Message::parse(message.to_string().as_bytes()), Some(message));
        for text in [
            "",
            "quit",
            "quit a 0",
            "quit a\n",
            "quit a x\n",
            "quit a 0 0\n",
            "QUIT a 0\n",
            "quit a 256\n",
            "quit a\nb 0\n",
            "\0\n",
        ] {
            assert_eq!(Message::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Message::parse(b"quit \xff 0\n"), None);
    }

    #[test]
    fn who_has_ended_asks_nobody_to_quit() {
        let message = Message { container: "main".into(), code: 3 };
        let (quit, ended) = (Word::Quit(message.clone()), Word::Ended(message));
        assert_eq!(ended.to_string(), "ended main 3\n");
        for word in [&quit, &ended] {
            assert_eq!(Word::parse(word.to_string().as_bytes()).as_ref(), Some(word));
        }
        assert_eq!(Message::parse(ended.to_string().as_bytes()), None);
        assert_eq!(Word::parse(b"end main 3\n"), None);
    }

    #[test]
    fn an_odd_name_hides_no_other() {
        let sockets = b"Num RefCount Protocol Flags Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 11 @\xff\xfe\n\xfd\n\
            0000: 00000002 00000000 00010000 0001 01 12 @proa/u-1/web/q\n\
            0000: 00000002 00000000 00010000 0001 01 13 @proa/u-1/main\n\
            0000: 00000002 00000000 00010000 0001 01 14 @proa/u-2/other/q\n\
            0000: 00000002 00000000 00010000 0001 01 17 @proa/u-1/main/m\n\
            0000: 00000002 00000000 00010000 0001 01 15\n\
            0000: 00000002 00000000 00010000 0001 01 16 @proa/u-1/\xff/q\n";
        assert_eq!(listening(sockets, "u-1").collect::<Vec<_>>(), ["web"]);
        assert_eq!(mains(sockets, "u-1").collect::<Vec<_>>(), ["main"]);
        assert_eq!(present(sockets, "u-1").collect::<Vec<_>>(), ["main"]);
    }
}
