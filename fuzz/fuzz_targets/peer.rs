//! What proas say to one another: a message reads back as it was written, and nothing else is one.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use proa::peer::Message;

fuzz_target!(|line: &[u8]| {
    if let Some(message) = Message::parse(line) {
        assert!(!message.container.contains([' ', '\n']), "{message:?}");
        assert_eq!(Message::parse(message.to_string().as_bytes()), Some(message));
    }
    let mut u = Unstructured::new(line);
    let (Ok(code), Ok(container)) = (u.arbitrary(), u.arbitrary::<String>()) else { return };
    let message = Message { container, code };
    // Any name that a container may have, and many that it may not.
    let read = Message::parse(message.to_string().as_bytes());
    if message.container.contains([' ', '\n']) {
        assert_ne!(read, Some(message));
    } else {
        assert_eq!(read, Some(message));
    }
});
