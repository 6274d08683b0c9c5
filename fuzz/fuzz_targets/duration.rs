//! Durations of the command line: what is read is written back as the same.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proa::cli::flags::duration;

fuzz_target!(|text: &str| {
    if let Ok(read) = duration(text) {
        assert_eq!(duration(&humantime::format_duration(read).to_string()), Ok(read), "{text:?}");
    }
    let Some(bytes) = text.as_bytes().first_chunk::<8>() else { return };
    let any = Duration::new(u64::from_le_bytes(*bytes) / 2, u32::from(bytes[0]) * 1_000_000);
    assert_eq!(duration(&humantime::format_duration(any).to_string()), Ok(any));
});
