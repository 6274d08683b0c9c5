//! What proas say to one another: a message reads back as it was written, and nothing else is one.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use proa::peer::{Message, Word};

fuzz_target!(|line: &[u8]| {
    let word = Word::parse(line);
    if let Some(word) = &word {
        let (Word::Quit(message) | Word::Ended(message)) = word;
        assert!(!message.container.contains([' ', '\n']), "{message:?}");
        assert_eq!(Word::parse(word.to_string().as_bytes()).as_ref(), Some(word));
    }
    // What is left to a main container is said as to a sidecar that is to quit.
    let quit = word.and_then(|word| if let Word::Quit(message) = word { Some(message) } else { None });
    assert_eq!(Message::parse(line), quit);
    let mut u = Unstructured::new(line);
    let (Ok(code), Ok(container)) = (u.arbitrary(), u.arbitrary::<String>()) else { return };
    let message = Message { container, code };
    // Any name that a container may have, and many that it may not.
    for word in [Word::Quit(message.clone()), Word::Ended(message)] {
        let (Word::Quit(message) | Word::Ended(message)) = &word;
        let reads_back = !message.container.contains([' ', '\n']);
        assert_eq!(Word::parse(word.to_string().as_bytes()).as_ref() == Some(&word), reads_back);
    }
});
