//! Direct waits: asks an HTTP endpoint, a port or a file, quickly at first, until told to stop.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{BoxStream, StreamExt, unfold};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

use crate::endpoint::{Address, DirectWait, Method, Request};
use crate::http::{Answer, Client};
use crate::tcp::{self, probe};
use crate::thread::aside;

/// The pause after the first look; doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// No shorter pause is taken: it would be a busy loop.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause between looks.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How long an answer may take at first. Doubles up to [`LAST_LIMIT`] while it takes longer: a proxy that
/// swallows connections until it is up costs little, and a slow health check gets its time.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// The longest time for an answer.
const LAST_LIMIT: Duration = Duration::from_secs(8);

/// Whether a direct wait holds, or why it does not.
pub type Finding = Result<(), String>;

/// Asks again and again, and tells what is found whenever that has changed. Never ends by itself. `pause`: between two looks;
/// `None`: short at first, then longer.
///
/// # Errors
/// When it cannot be asked at all.
pub fn follow(wait: &DirectWait, pause: Option<Duration>) -> Result<BoxStream<'static, Finding>, String> {
    let (least, most) = pause.map_or((FIRST_PAUSE, LAST_PAUSE), |pause| (pause, pause));
    let pauses = (least.max(LEAST_PAUSE), most.max(LEAST_PAUSE));
    let subject = Subject::new(wait)?;
    let probe = Probe { subject, pause: Duration::ZERO, pauses, limit: FIRST_LIMIT, last: None };
    let findings = unfold(probe, |mut probe| async move {
        let finding = probe.next().await;
        Some((finding, probe))
    });
    Ok(findings.boxed())
}

struct Probe {
    subject: Subject,
    pause: Duration,
    /// The shortest and the longest.
    pauses: (Duration, Duration),
    limit: Duration,
    last: Option<Finding>,
}

enum Subject {
    /// The client is made once there is what it takes.
    Http(Request, Option<Client>),
    Tcp(Address),
    File(Follow),
}

impl Subject {
    fn new(wait: &DirectWait) -> Result<Self, String> {
        Ok(match wait {
            DirectWait::Http(url) => {
                let (request, mut client) = (Request::new(Method::Get, url.clone()), None);
                if let Err(unready) = Client::prepared(&mut client, &request)
                    && !unready.short
                {
                    return Err(unready.why);
                }
                Self::Http(request, client)
            }
            DirectWait::Tcp(address) => Self::Tcp(address.clone()),
            DirectWait::File(path) => Self::File(Follow::new(path.clone())),
        })
    }
}

impl Probe {
    async fn next(&mut self) -> Finding {
        loop {
            match &mut self.subject {
                Subject::File(follow) => follow.change_or(self.pause).await,
                _ => sleep(self.pause).await,
            }
            self.pause = self.pause.saturating_mul(2).clamp(self.pauses.0, self.pauses.1);
            let finding = self.look().await;
            if self.last.as_ref() != Some(&finding) {
                self.last = Some(finding.clone());
                return finding;
            }
        }
    }

    async fn look(&mut self) -> Finding {
        match &mut self.subject {
            Subject::Http(request, client) => {
                let answer = match Client::prepared(client, request) {
                    Ok(client) => client.send(self.limit).await,
                    Err(unready) => Answer::Short(unready.why),
                };
                if matches!(answer, Answer::None(_)) {
                    self.give_more_time();
                }
                judge(answer)
            }
            Subject::Tcp(address) => match probe(address, self.limit).await {
                tcp::Answer::Accepted => Ok(()),
                tcp::Answer::Refused => Err(REFUSED.to_owned()),
                tcp::Answer::Failed(why) => Err(why),
                tcp::Answer::None => Err(self.no_answer()),
            },
            Subject::File(follow) => match follow.look(self.limit).await {
                Some(finding) => finding,
                None => Err(self.no_answer()),
            },
        }
    }

    fn no_answer(&mut self) -> String {
        let waited = humantime::format_duration(self.limit);
        self.give_more_time();
        format!("no answer within {waited}")
    }

    fn give_more_time(&mut self) {
        self.limit = (self.limit * 2).min(LAST_LIMIT);
    }
}

const REFUSED: &str = "connection refused";

fn judge(answer: Answer) -> Finding {
    match answer {
        Answer::Status(200..=299, _) => Ok(()),
        Answer::Status(status, Some(location)) => {
            Err(format!("{status} to {location}: redirects are not followed"))
        }
        Answer::Status(status, None) => Err(status.to_string()),
        Answer::Refused => Err(REFUSED.to_owned()),
        Answer::Broken(why) | Answer::None(why) | Answer::Short(why) => Err(why),
    }
}

/// Whether a file is there, and where news of its directory come from.
type Seen = (io::Result<()>, Option<OwnedFd>);

/// A file, and news of its directory where the kernel gives them.
struct Follow {
    path: PathBuf,
    events: Option<AsyncFd<OwnedFd>>,
    /// A look that has not come back yet. A volume whose server is away may keep it for ever.
    looking: Option<BoxFuture<'static, io::Result<Seen>>>,
}

impl Follow {
    fn new(path: PathBuf) -> Self {
        Self { path, events: None, looking: None }
    }

    /// Looks, for so long at most: in a thread of its own, which nobody has to wait for.
    async fn look(&mut self, limit: Duration) -> Option<Finding> {
        let (path, watched) = (self.path.clone(), self.events.is_some());
        let looking =
            self.looking.get_or_insert_with(|| aside(Duration::ZERO, move || look(&path, watched)).boxed());
        let looked = timeout(limit, looking).await.ok()?;
        self.looking = None;
        let (found, events) = looked.unwrap_or_else(|error| (Err(error), None));
        if let Some(events) = events {
            self.events = register(events).ok();
        }
        Some(match found {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err("not there".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits for news of the directory, and no longer than this: network filesystems have none for what
    /// another machine writes, and the directory may not be there yet (inotify(7), "Limitations and caveats").
    async fn change_or(&mut self, pause: Duration) {
        let Some(events) = &self.events else {
            return sleep(pause).await;
        };
        if let Ok(Ok(mut ready)) = timeout(pause, events.readable()).await {
            let mut news = [0; 4096];
            while nix::unistd::read(events.get_ref(), &mut news).is_ok_and(|count| count > 0) {}
            ready.clear_ready();
        }
    }
}

/// Looks for a file, and watches its directory unless that is done already.
fn look(path: &Path, watched: bool) -> (io::Result<()>, Option<OwnedFd>) {
    let there = || fs::metadata(path).map(drop);
    let found = there();
    // The kernel takes milliseconds to set up a watch and to forget it: none for a file that is there.
    if found.is_ok() || watched {
        return (found, None);
    }
    let events = events(path).ok();
    // Something may have come between the look and the watch.
    (there(), events)
}

fn events(path: &Path) -> io::Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let appears = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
    let leaves = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    inotify.add_watch(directory, appears | leaves)?;
    Ok(inotify.into())
}

#[expect(unsafe_code, reason = "the runtime wants a promise that the descriptor stays open")]
fn register(events: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is registered, and nothing closes or replaces it before that is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_will_do() {
        for status in [200, 204, 299] {
            assert_eq!(judge(Answer::Status(status, None)), Ok(()));
        }
        for status in [100, 304, 404, 500, 503] {
            assert_eq!(judge(Answer::Status(status, None)), Err(status.to_string()));
        }
        let redirect = judge(Answer::Status(302, Some("/login".into())));
        assert_eq!(redirect, Err("302 to /login: redirects are not followed".into()));
    }
}
