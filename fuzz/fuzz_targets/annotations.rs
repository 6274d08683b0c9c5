//! Annotations of a Pod: each of ours says something usable of a container or is malformed, and a warning of that is short and
//! on one line.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use proa::pod::annotations::{PREFIX, read};

fuzz_target!(|text: &str| {
    let containers = ["web", "main"];
    // A key and its value on a line each.
    let mut lines = text.split('\n');
    let mut annotations = BTreeMap::new();
    while let Some(key) = lines.next() {
        let value = lines.next().unwrap_or_default().replace('\r', "\n");
        annotations.insert(format!("{PREFIX}{key}"), value.clone());
        annotations.insert(key.to_owned(), value);
    }
    let (found, malformed) = read(Some(&annotations), &containers);
    assert_eq!((&found, &malformed), (&read(Some(&annotations), &containers).0, &malformed));
    for (container, annotated) in &found {
        assert!(containers.contains(&container.as_str()), "{container}");
        let urls = [annotated.shutdown.as_ref().map(|request| &request.url), annotated.ready.as_ref()];
        for url in urls.into_iter().flatten() {
            assert!(url.is_loopback(), "{url}");
            assert_ne!(url.address().port, 0, "{url}");
        }
    }
    for warning in &malformed {
        let text = warning.to_string();
        assert!(warning.key.starts_with(PREFIX), "{text}");
        assert!(text.len() < warning.key.len() * 2 + 4096, "{} bytes", text.len());
        // The key is the API server's, which has letters, digits and `-._/` alone.
        if warning.key.chars().all(|c| !c.is_control()) {
            assert!(!text.contains(['\n', '\r', '\0', '\x1b']), "{text:?}");
        }
    }
    // Each without a dot is somebody else's; all others count.
    let ours =
        annotations.keys().filter(|key| key.strip_prefix(PREFIX).is_some_and(|name| name.contains('.')));
    for key in ours {
        let name = &key[PREFIX.len()..];
        let is_malformed = malformed.iter().any(|warning| warning.key == *key);
        let container = name.split('.').next().unwrap_or_default();
        assert!(is_malformed || found.contains_key(container), "{key} is lost");
    }
});
