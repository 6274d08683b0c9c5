//! A sidecar's HTTP server on 127.0.0.1.
//!
//! ```text
//! --port P               the port; 0, the default, is any, and is printed as `listening on 127.0.0.1:P`
//! --bind-after DURATION  listens only then
//! --name NAME            what it calls itself in the log; by default the container's name
//! --log FILE             appends `NAME started`, `NAME ready`, `NAME quit METHOD`, `NAME got SIGNAL`, `NAME exited`
//! --log-requests         appends `NAME METHOD PATH` as well
//! --not-ready            `/ready` answers 503 until `POST /make-ready`; `POST /make-unready` takes it back
//! --ready-after DURATION ... until then
//! --ready-file FILE      ... until the file is there
//! --quit-path PATH       ends it when asked with GET or POST; default `/quitquitquit`
//! --quit-post-only       a GET there is answered 405
//! --quit-delay DURATION  it ends that much later
//! --quit-silently        it ends without an answer
//! --quit-code N          the exit code then; default 0
//! --term-code N          the exit code after SIGTERM or SIGINT; default 143
//! --term-delay DURATION  it ends that much after the signal
//! --ignore-term          those signals do not end it
//! --exit-after DURATION  it ends by itself, with --exit-code N
//! --status-for PATH=N    answers N there; repeatable
//! --redirect PATH=URL    answers 307 there; repeatable
//! --hang PATH            never answers there; repeatable
//! --reset PATH           closes the connection there; repeatable
//! ```
//!
//! All other paths answer 404.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::Duration;

use crate::{Failure, append, duration, http, signals, wait_for_file};

struct Sidecar {
    name: String,
    log: Option<PathBuf>,
    log_requests: bool,
    ready: AtomicBool,
    quit_path: String,
    quit_post_only: bool,
    quit_silently: bool,
    quit_delay: Duration,
    quit_code: i32,
    routes: Vec<(String, Route)>,
    /// Held by the first to end the process, for good: there is one end.
    ending: Mutex<()>,
}

/// What happens at a path.
enum Route {
    Status(u16),
    Redirect(String),
    Hang,
    Reset,
}

/// The options of a sidecar's end that do not come over HTTP, and of its start.
#[derive(Default)]
struct Course {
    port: u16,
    bind_after: Duration,
    ready_after: Option<Duration>,
    ready_file: Option<PathBuf>,
    term_code: i32,
    term_delay: Duration,
    ignore_term: bool,
    exit_after: Option<Duration>,
    exit_code: i32,
}

pub(crate) fn serve(options: &[&str]) -> Result<i32, Failure> {
    let (sidecar, course) = parse(options)?;
    let sidecar = Arc::new(sidecar);
    // In every thread, so that the one that waits for them gets them.
    signals::block_stops()?;
    sidecar.note("started");
    if sidecar.ready.load(Ordering::SeqCst) {
        sidecar.note("ready");
    }
    background(&sidecar, course.ready_after, move |sidecar, after| {
        sleep(after);
        sidecar.set_ready();
    });
    background(&sidecar, course.ready_file, |sidecar, file| {
        wait_for_file(&file);
        sidecar.set_ready();
    });
    background(&sidecar, course.exit_after, move |sidecar, after| {
        sleep(after);
        sidecar.end(Duration::ZERO, course.exit_code);
    });
    background(&sidecar, Some(()), move |sidecar, ()| {
        while let Ok(signal) = signals::wait_for_stop() {
            sidecar.note(&format!("got {signal}"));
            if !course.ignore_term {
                sidecar.end(course.term_delay, course.term_code);
            }
        }
    });

    sleep(course.bind_after);
    let listener = TcpListener::bind(("127.0.0.1", course.port))?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        background(&sidecar, Some(stream), |sidecar, stream| {
            // The client may have gone, which is no concern of a server's.
            drop(sidecar.answer(&stream));
        });
    }
    Ok(0)
}

/// Runs `task` on a thread if there is something to run it with.
fn background<T: Send + 'static>(
    sidecar: &Arc<Sidecar>,
    with: Option<T>,
    task: impl FnOnce(&Sidecar, T) + Send + 'static,
) {
    if let Some(with) = with {
        let sidecar = Arc::clone(sidecar);
        thread::spawn(move || task(&sidecar, with));
    }
}

fn parse(options: &[&str]) -> Result<(Sidecar, Course), Failure> {
    let mut sidecar = Sidecar {
        name: std::env::var("PROA_CONTAINER").unwrap_or_else(|_| "puppet".to_owned()),
        log: None,
        log_requests: false,
        ready: AtomicBool::new(true),
        quit_path: "/quitquitquit".to_owned(),
        quit_post_only: false,
        quit_silently: false,
        quit_delay: Duration::ZERO,
        quit_code: 0,
        routes: Vec::new(),
        ending: Mutex::new(()),
    };
    let mut course = Course { term_code: 143, ..Course::default() };
    let mut words = options.iter().copied();
    while let Some(name) = words.next() {
        let flag = match name {
            "--log-requests" => &mut sidecar.log_requests,
            "--quit-post-only" => &mut sidecar.quit_post_only,
            "--quit-silently" => &mut sidecar.quit_silently,
            "--ignore-term" => &mut course.ignore_term,
            "--not-ready" => {
                sidecar.ready = AtomicBool::new(false);
                continue;
            }
            _ => {
                let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
                set(&mut sidecar, &mut course, name, value)?;
                continue;
            }
        };
        *flag = true;
    }
    if course.ready_after.is_some() || course.ready_file.is_some() {
        sidecar.ready = AtomicBool::new(false);
    }
    Ok((sidecar, course))
}

fn set(sidecar: &mut Sidecar, course: &mut Course, name: &str, value: &str) -> Result<(), Failure> {
    let pair = || value.split_once('=').ok_or_else(|| format!("{name} needs PATH=VALUE"));
    match name {
        "--port" => course.port = value.parse()?,
        "--bind-after" => course.bind_after = duration(value)?,
        "--name" => value.clone_into(&mut sidecar.name),
        "--log" => sidecar.log = Some(value.into()),
        "--ready-after" => course.ready_after = Some(duration(value)?),
        "--ready-file" => course.ready_file = Some(value.into()),
        "--quit-path" => value.clone_into(&mut sidecar.quit_path),
        "--quit-delay" => sidecar.quit_delay = duration(value)?,
        "--quit-code" => sidecar.quit_code = value.parse()?,
        "--term-code" => course.term_code = value.parse()?,
        "--term-delay" => course.term_delay = duration(value)?,
        "--exit-after" => course.exit_after = Some(duration(value)?),
        "--exit-code" => course.exit_code = value.parse()?,
        "--status-for" => sidecar.routes.push((pair()?.0.to_owned(), Route::Status(pair()?.1.parse()?))),
        "--redirect" => sidecar.routes.push((pair()?.0.to_owned(), Route::Redirect(pair()?.1.to_owned()))),
        "--hang" => sidecar.routes.push((value.to_owned(), Route::Hang)),
        "--reset" => sidecar.routes.push((value.to_owned(), Route::Reset)),
        _ => return Err(format!("unknown option {name}").into()),
    }
    Ok(())
}

impl Sidecar {
    fn note(&self, what: &str) {
        let Some(log) = &self.log else { return };
        if let Err(error) = append(Path::new(log), &format!("{} {what}", self.name)) {
            eprintln!("puppet: cannot write {}: {error}", log.display());
        }
    }

    fn set_ready(&self) {
        // Before anyone can see it, so that what follows from it is logged after it.
        if !self.ready.load(Ordering::SeqCst) {
            self.note("ready");
        }
        self.ready.store(true, Ordering::SeqCst);
    }

    fn end(&self, after: Duration, code: i32) -> ! {
        let _ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        sleep(after);
        self.note("exited");
        exit(code);
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let Some((method, path)) = http::read_request(stream)? else { return Ok(()) };
        if self.log_requests {
            self.note(&format!("{method} {path}"));
        }
        if let Some((_, route)) = self.routes.iter().find(|(at, _)| *at == path) {
            return match route {
                Route::Status(status) => http::respond(stream, *status, "", ""),
                Route::Redirect(url) => http::respond(stream, 307, &format!("Location: {url}\r\n"), ""),
                Route::Reset => Ok(()),
                Route::Hang => loop {
                    thread::park();
                },
            };
        }
        match (method.as_str(), path.as_str()) {
            ("GET", path) if path == self.quit_path && self.quit_post_only => {
                http::respond(stream, 405, "", "")
            }
            ("GET" | "POST", path) if path == self.quit_path => {
                self.note(&format!("quit {method}"));
                if !self.quit_silently {
                    // A client that does not wait for the answer has asked all the same.
                    drop(http::respond(stream, 200, "", "bye\n"));
                }
                self.end(self.quit_delay, self.quit_code)
            }
            ("GET" | "HEAD", "/ready") if self.ready.load(Ordering::SeqCst) => {
                http::respond(stream, 200, "", "")
            }
            ("GET" | "HEAD", "/ready") => http::respond(stream, 503, "", ""),
            ("POST", "/make-ready") => {
                self.set_ready();
                http::respond(stream, 200, "", "")
            }
            ("POST", "/make-unready") => {
                self.ready.store(false, Ordering::SeqCst);
                http::respond(stream, 200, "", "")
            }
            _ => http::respond(stream, 404, "", ""),
        }
    }
}
