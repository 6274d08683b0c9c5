//! /proc/self/mountinfo: what is found is in the text, and is what it is called.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use proa::identity::Mounts;

/// The text with the kernel's octal escapes resolved, by another way than proa's.
fn resolved(text: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut place = 0;
    while place < text.len() {
        let digits = text.get(place + 1..place + 4).filter(|digits| {
            text[place] == b'\\'
                && (b'0'..=b'3').contains(&digits[0])
                && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        });
        if let Some(digits) = digits {
            found.push(digits.iter().fold(0, |sum, digit| sum * 8 + (digit - b'0')));
            place += 4;
        } else {
            found.push(text[place]);
            place += 1;
        }
    }
    found
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|found| found == part)
}

fuzz_target!(|text: &[u8]| {
    let found = Mounts::parse(text);
    assert_eq!(found, Mounts::parse(text));
    let text = resolved(text);
    let is_there = |name: &str| holds(&text, name.as_bytes());
    if let Some(uid) = &found.uid {
        let groups: Vec<_> = uid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{uid}");
        assert!(uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{uid}");
        assert!(is_there(uid), "{uid}");
    }
    if let Some(container) = &found.container {
        // A name of the API, so that no byte was replaced in it.
        let is_of_a_name = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        assert!(!container.is_empty() && container.chars().all(is_of_a_name), "{container:?}");
        assert!(is_there(container), "{container:?}");
        assert!(found.uid.is_some(), "a container of no Pod: {container:?}");
    }
    if let Some(path) = &found.termination_message_path {
        assert!(found.container.is_some());
        let path = path.as_os_str().as_bytes();
        assert!(holds(&text, path), "{path:?}");
    }
});
