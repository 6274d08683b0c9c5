//! Files of variables: what is accepted can be a process's environment, and reads back once written.

#![no_main]

use std::fmt::Write;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use proa::env_file::{Unusable, parse};

/// What the variables of a process come to at most, and more (execve(2), `MAX_ARG_STRLEN` times a thousand).
const MOST: usize = 128 * 1024 * 1024;
/// How much what looks like references in one variable may come to, be it escaped or in single quotes.
const MOST_REFERRED: usize = 64 * 1024 * 1024;

fuzz_target!(|text: &str| {
    let path = Path::new("/run/env");
    let variables = match parse(path, text) {
        Ok(variables) => variables,
        Err(error) => {
            let error = error.to_string();
            let line =
                error.split("line ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            let lines = text.matches('\n').count() + 1;
            assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{error}: {text:?}");
            return;
        }
    };
    let mut written = String::new();
    let mut size = 0;
    for (name, value) in &variables {
        assert!(!name.is_empty() && !name.contains(['=', '\0', '\n', ' ']), "{name:?}");
        assert!(!value.contains('\0'), "{name}: {value:?}");
        size += name.len() + value.len();
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        writeln!(written, "{name}=\"{value}\"").expect("memory");
    }
    assert!(size < MOST, "{size} bytes of {}", text.len());
    match parse(path, &written) {
        Ok(again) => assert_eq!(again, variables, "{written:?}"),
        Err(error) => {
            let environment = std::env::vars().map(|(_, value)| value.len());
            let longest =
                variables.iter().map(|(_, value)| value.len()).chain(environment).max().unwrap_or_default();
            let signs =
                variables.iter().map(|(_, value)| value.matches('$').count()).max().unwrap_or_default();
            assert!(
                matches!(error, Unusable::TooLong(_)) && signs * longest > MOST_REFERRED,
                "{error}: {written:?}"
            );
        }
    }
});
