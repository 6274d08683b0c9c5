//! /proc/PID/stat and /proc/net/unix: names that anybody may have chosen hide nothing, and are taken for nothing else.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use proa::peer::message::{listening, mains, present};
use proa::procfs::Stat;

fuzz_target!(|text: &[u8]| {
    let _ = Stat::parse(text);
    // A process may be called anything.
    let stat = [b"42 (", text, b") S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3"].concat();
    assert_eq!(Stat::parse(&stat), Some(Stat { parent: 7, start_ticks: 987_654 }));

    let all = |sockets: &[u8], uid: &str| {
        let owned = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect::<Vec<_>>();
        [
            owned(&mut listening(sockets, uid)),
            owned(&mut mains(sockets, uid)),
            owned(&mut present(sockets, uid)),
        ]
    };
    let uid = "u-1";
    let found = all(text, uid);
    for (names, end) in found.iter().zip(["/q", "/m", ""]) {
        for name in names {
            let line = format!("@proa/{uid}/{name}{end}");
            assert!(text.windows(line.len()).any(|part| part == line.as_bytes()), "{line:?}");
            assert!(!name.contains([' ', '\n']), "{name:?}");
        }
    }
    assert!(found[2].iter().all(|name| !name.contains('/')), "{found:?}");
    // Whatever stands before or after, ours are there.
    let ours = b"\n0000: 00000002 00000000 00010000 0001 01 12 @proa/u-1/ours/q\n\
        0000: 00000002 00000000 00010000 0001 01 12 @proa/u-1/ours/m\n\
        0000: 00000002 00000000 00010000 0001 01 12 @proa/u-1/ours\n";
    for sockets in [[ours, text].concat(), [text, ours].concat()] {
        let more = all(&sockets, uid);
        for (few, more) in found.iter().zip(&more) {
            let few: BTreeSet<_> = few.iter().map(String::as_str).chain(["ours"]).collect();
            assert_eq!(few, more.iter().map(String::as_str).collect());
        }
    }
});
