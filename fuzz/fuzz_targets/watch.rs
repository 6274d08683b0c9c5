//! A watch's events: the same whatever pieces they come in, each of bounded size, and what their types say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proa::cluster::answer::{Event, Failure, Lines};
use proa::pod::object::Pod;
use proa_fuzz::pieces;
use serde::de::IgnoredAny;
use serde_json::Value;

/// An event's size (`LONGEST_EVENT`).
const LONGEST: usize = 8 * 1024 * 1024;

/// All events, up to what is too long.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Event, Failure>> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.extend(piece);
        while let Some(event) = lines.next() {
            let is_last = matches!(event, Err(Failure::TooLong(_)));
            found.push(event);
            if is_last {
                return found;
            }
        }
    }
    found
}

fn shown(events: &[Result<Event, Failure>]) -> Vec<String> {
    events.iter().map(|event| format!("{event:?}")).collect()
}

/// What a line is to be read as, by another way than proa's.
fn expected(line: &[u8], event: &Result<Event, Failure>) {
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        // What nobody looks at need have no value: a number may be too large, a text no text, a list too deep.
        let is_json = serde_json::from_slice::<IgnoredAny>(line).is_ok();
        assert!(is_json || event.is_err(), "no JSON: {event:?}");
        return;
    };
    // A list's members can stand for the names that they have in this order.
    let member = |name: &str, place: usize| value.get(name).or_else(|| value.get(place));
    let (kind, object) = (member("type", 0).and_then(Value::as_str), member("object", 1));
    let pod = || serde_json::from_value::<Pod>(object?.clone()).ok();
    match event {
        Ok(Event::Seen(found)) => {
            assert!(matches!(kind, Some("ADDED" | "MODIFIED")), "{kind:?}");
            assert_eq!(Some(found), pod().as_ref());
        }
        Ok(Event::Deleted(found)) => {
            assert_eq!(kind, Some("DELETED"));
            assert_eq!(Some(found), pod().as_ref());
        }
        Ok(Event::Error(_)) => assert_eq!(kind, Some("ERROR")),
        Ok(Event::AllShown) => {
            assert_eq!(kind, Some("BOOKMARK"));
            let end =
                object.and_then(|object| object.pointer("/metadata/annotations/k8s.io~1initial-events-end"));
            assert_eq!(end.and_then(Value::as_str), Some("true"));
        }
        Ok(Event::Other) => {
            assert!(!matches!(kind, None | Some("ADDED" | "MODIFIED" | "DELETED" | "ERROR")), "{kind:?}");
        }
        // Each name once, as the API server has them: what is a Pod then is seen.
        Err(_) if serde_json::to_vec(&value).is_ok_and(|text| text.len() == line.trim_ascii().len()) => {
            let is_pod = matches!(kind, Some("ADDED" | "MODIFIED" | "DELETED"));
            assert!(!is_pod || pod().is_none(), "{event:?}: {}", String::from_utf8_lossy(line));
        }
        Err(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let [padding, near, first, second, text @ ..] = input else { return };
    // Now and then as long as an event may be, or a little more or less.
    let padded;
    let is_long = [*padding, *first, *second] == [0xff; 3];
    let text = if is_long {
        let spaces = (LONGEST + usize::from(*near)).saturating_sub(128 + text.len() % 64);
        padded = [&vec![b' '; spaces][..], text].concat();
        &padded
    } else {
        text
    };
    let lengths = if is_long { [255, 255] } else { [*first, *second] };
    let whole = events(std::iter::once(text));
    assert_eq!(shown(&whole), shown(&events(pieces(text, &lengths))), "in other pieces");
    let lines: Vec<_> =
        text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).collect();
    let mut found = whole.iter();
    for line in lines.iter().filter(|line| line.len() > LONGEST + 1 || !line.trim_ascii().is_empty()) {
        let Some(event) = found.next() else { panic!("an event is lost") };
        if line.len() > LONGEST + 1 {
            assert!(matches!(event, Err(Failure::TooLong(_))), "{} bytes", line.len());
            break;
        }
        expected(line, event);
    }
});
