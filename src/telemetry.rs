//! Log lines: to stderr, as text or JSON. They stand in the application's stream, so each says that it is proa's.

pub mod stderr;

use std::env;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;

use crate::policy::{LogFormat, LogLevel};

/// What our own events have as their target, and each line says.
const OURS: &str = "proa";
/// Fields that repeat what a message says, for programs. Text has the message alone.
const IN_MESSAGE: [&str; 5] = ["container", "url", "status", "exit_code", "seconds"];

/// Sets up logging. `level`: of proa's own lines. Without it `RUST_LOG` counts where it names proa, as in
/// `proa=debug`: one that does not is meant for the command.
pub fn set_up(format: LogFormat, level: Option<LogLevel>) {
    let ours = |level| Targets::new().with_target(OURS, level);
    let asked = env::var("RUST_LOG").ok().filter(|text| level.is_none() && names_us(text));
    let asked = asked.map(|text| text.parse::<Targets>());
    let targets = match &asked {
        Some(Ok(targets)) => targets.clone(),
        Some(Err(_)) | None => ours(level.map_or(LevelFilter::INFO, LevelFilter::from)),
    };
    // Fails only where a subscriber is set already, and nobody else sets one.
    let _ = set_global_default(Lines { format, targets });
    if let Some(Err(error)) = asked {
        tracing::warn!("RUST_LOG is not understood ({error}); expected proa=debug");
    }
}

/// A part of the way, as each line of the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LogPhase {
    /// None in particular.
    None,
    /// Until the command may start.
    Gate,
    /// While it runs.
    Command,
    /// Once it has ended.
    Shutdown,
}

/// The phase that lines name. One for all threads: those beside the main one work for its phase.
static PHASE: AtomicU8 = AtomicU8::new(LogPhase::None as u8);

impl LogPhase {
    /// Names it in every line until what is returned is dropped.
    #[must_use]
    pub fn enter(self) -> Entered {
        Entered { before: PHASE.swap(self as u8, Ordering::Relaxed) }
    }

    fn current() -> Option<&'static str> {
        let named = [(Self::Gate, "gate"), (Self::Command, "command"), (Self::Shutdown, "shutdown")];
        let current = PHASE.load(Ordering::Relaxed);
        named.into_iter().find(|(phase, _)| *phase as u8 == current).map(|(_, name)| name)
    }
}

/// A phase that has been entered.
#[derive(Debug)]
pub struct Entered {
    before: u8,
}

impl Drop for Entered {
    fn drop(&mut self) {
        PHASE.store(self.before, Ordering::Relaxed);
    }
}

fn names_us(filter: &str) -> bool {
    let target = |directive: &str| directive.split(['=', ':', '[']).next() == Some(OURS);
    filter.split(',').map(str::trim).any(target)
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// One line an event. There are no spans: what the library has for those is held for as long as the command runs.
struct Lines {
    format: LogFormat,
    targets: Targets,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.targets.would_enable(metadata.target(), metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        // Writing to a string cannot fail. A line that cannot be written cannot be complained of either.
        let _ = self.write(&mut line, event);
        stderr::write(&line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Lines {
    fn write(&self, writer: &mut String, event: &Event<'_>) -> fmt::Result {
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        let target = event.metadata().target();
        let logger = if is_ours(target) { OURS } else { target };
        let level = event.metadata().level();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, others } = fields;
        match self.format {
            LogFormat::Text => {
                write!(writer, "{time} {level:>5} {logger}: ")?;
                write_line(writer, &message)?;
                for (name, value) in &others {
                    if is_ours(target) && IN_MESSAGE.contains(&name.as_str()) {
                        continue;
                    }
                    let space = if message.is_empty() { "" } else { " " };
                    write!(writer, "{space}{name}=")?;
                    match value {
                        Value::String(text) => write_line(writer, text)?,
                        other => write!(writer, "{other}")?,
                    }
                }
                writeln!(writer)
            }
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("timestamp".to_owned(), time.to_string().into());
                line.insert("level".to_owned(), level.as_str().into());
                line.insert("logger".to_owned(), logger.into());
                if let Some(phase) = LogPhase::current().filter(|_| is_ours(target)) {
                    line.insert("phase".to_owned(), phase.into());
                }
                line.insert("message".to_owned(), message.into());
                line.extend(others);
                writeln!(writer, "{}", Value::Object(line))
            }
        }
    }
}

fn is_ours(target: &str) -> bool {
    target == OURS || target.strip_prefix(OURS).is_some_and(|rest| rest.starts_with("::"))
}

/// Text as part of one line: what others have written may hold line breaks and terminal sequences.
fn write_line(writer: &mut String, text: &str) -> fmt::Result {
    for character in text.chars() {
        if character.is_control() {
            write!(writer, "{}", character.escape_default())?;
        } else {
            writer.write_char(character)?;
        }
    }
    Ok(())
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, value);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_counts_where_it_names_proa() {
        for filter in
            ["proa", "proa=debug", "kube=trace, proa=debug", "proa::gate=trace", "info,proa[x]=debug"]
        {
            assert!(names_us(filter), "{filter}");
        }
        for filter in ["", "info", "trace", "proactive=debug", "my_app=debug,hyper=info", "=proa"] {
            assert!(!names_us(filter), "{filter}");
        }
    }

    #[test]
    fn what_others_have_written_stays_one_line() {
        let mut line = String::new();
        write_line(&mut line, "a\nb\r\u{1b}[31mé").unwrap();
        assert_eq!(line, "a\\nb\\r\\u{1b}[31mé");
    }

    #[test]
    fn our_own_events_are_told_from_a_librarys() {
        assert!(is_ours("proa") && is_ours("proa::gate"));
        assert!(!is_ours("proactive") && !is_ours("kube_client::client"));
    }
}
