//! What whoever shares the Pod's network namespace can do to it, and what not. This process is the neighbour: of another mount
//! namespace, as another container is, and on the node's network as one under `hostNetwork`.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::sidecar::both;
use crate::support::http::Endpoint;
use crate::support::{Beside, Held, Running, World, eventually, peak_memory, say, socket};

const UP: [&str; 3] = ["sh", "-c", "echo up; while :; do sleep 0.01; done"];

/// A wrapped sidecar, and main with a command that runs, both with sight of the Pod.
fn pair(world: &World) -> Option<(Held, Running, Running)> {
    let (main, sidecar) = both(world)?;
    let sidecar = sidecar.start(UP);
    sidecar.wait_stdout("up");
    sidecar.wait_stderr("running until the exit of `main`");
    let held = Held::in_dir(&world.dir, "exit 4");
    let main = main.start(&held.command);
    main.wait_stdout("up");
    Some((held, main, sidecar))
}

/// What a helper says to whoever tells it of an end: the first five bytes are for a proa that knows no more.
const BY_ITSELF: &str = "wait\nby itself\n";

#[test]
fn a_message_ends_the_wrapped_sidecar_and_never_the_command() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((held, main, sidecar)) = pair(&world) else { return };
    assert_eq!(say(&world, "web/q", "quit main 0\n"), "done\n");
    // The API server still shows that main runs, as it does while main's own proa shuts the sidecars down.
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    held.let_go();
    main.finish().expect(4, &["command ended: exit code 4"]);
}

#[test]
fn what_is_no_message_ends_nobody_and_costs_nothing() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((held, main, sidecar)) = pair(&world) else { return };
    let before = [&main, &sidecar].map(|running| peak_memory(running.pid()));
    let long = "x".repeat(100_000);
    for text in
        ["quit", "quit main", "quit main x\n", "QUIT main 0\n", "\n\n\n", "quit main 0 0\n", "\0\0\n", &long]
    {
        let mut stream = UnixStream::connect_addr(&socket(&world, "web/q")).expect("it listens");
        // It may be closed before all is written.
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{text:?}");
    }
    // Half a message each, from more clients than are listened to at once.
    let halves: Vec<_> = (0..100)
        .filter_map(|_| {
            let mut stream = UnixStream::connect_addr(&socket(&world, "web/q")).ok()?;
            stream.write_all(b"quit ma").ok()?;
            Some(stream)
        })
        .collect();
    assert!(!sidecar.stderr_so_far().contains("asks this sidecar to stop"));
    for (running, before) in [&main, &sidecar].into_iter().zip(before) {
        // The kernel counts what a process holds in batches, so that a peak may come out lower later.
        let grown = peak_memory(running.pid()).saturating_sub(before);
        assert!(grown < 2048, "{grown} KiB more");
    }
    held.let_go();
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    main.finish().expect(4, &["every sidecar has exited"]);
    drop(halves);
}

/// As many connections as the kernel queues up, each full of what nobody has sent.
fn flood(world: &World, to: &str) -> Vec<UnixStream> {
    let lines: Vec<_> = (0..5000).map(|number| format!("quit another-{number} 0\n")).collect();
    let text = lines.concat();
    let connect = |_| {
        let mut stream = UnixStream::connect_addr(&socket(world, to)).ok()?;
        stream.set_nonblocking(true).ok()?;
        let _ = stream.write_all(text.as_bytes());
        Some(stream)
    };
    // Fewer than the queue has room for, above which one would have to wait.
    (0..1000).map_while(connect).collect()
}

#[test]
fn a_flood_of_what_others_left_to_main_changes_nothing_of_its_end() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let Some(main) = world.mounted("main", "pod") else { return };
    let (quit, held) = (Endpoint::ok(), Held::in_dir(&world.dir, "exit 4"));
    let main = main.flags(["-p", &quit.url()]).start(&held.command);
    main.wait_stdout("up");
    let flood = flood(&world, "main/m");
    assert!(flood.len() > 100, "{}", flood.len());
    let before = peak_memory(main.pid());
    let ended = Instant::now();
    held.let_go();
    assert!(quit.request().starts_with("POST "));
    assert!(ended.elapsed() < Duration::from_secs(30), "{:?}", ended.elapsed());
    let grown = peak_memory(main.pid()).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    main.finish().expect(4, &["every sidecar has exited"]);
}

#[test]
fn names_of_another_pod_or_of_no_container_are_passed_over() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let Some(main) = world.mounted("main", "pod") else { return };
    let other = "0b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1";
    let bind =
        |name: String| UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let _bound: Vec<_> = ["second", "second/m", "second/q", "web\n/m"]
        .into_iter()
        .flat_map(|name| {
            [
                bind(format!("proa/{other}/{name}-{}", std::process::id())),
                bind(format!("proa/{}/x{name}", world.uid())),
            ]
        })
        .collect();
    let quit = Endpoint::ok();
    let main = main.flags(["-p", &quit.url()]).start(["sh", "-c", "exit 4"]);
    assert!(quit.request().starts_with("POST "), "main is the last one");
    world.set_state("web", "terminated: {exitCode: 0, reason: Completed}");
    main.finish().expect(4, &["every sidecar has exited"]);
}

/// What docs/security.md says of it.
#[test]
fn whoever_takes_the_names_of_a_main_container_passes_for_one() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some(main) = world.mounted("main", "pod") else { return };
    let taken = ["web", "web/m"]
        .map(|container| UnixListener::bind_addr(&socket(&world, container)).expect("a free name"));
    // Not waited for, though it is not ready; and it is its turn to shut the sidecars down.
    let finished = main.run(["sh", "-c", "echo up; exit 4"]).expect(4, &["left running for `web` (running)"]);
    assert_eq!(finished.stdout, "up\n");
    drop(taken);
}

#[test]
fn a_helper_that_is_told_of_an_end_that_was_none_stays_while_the_pod_shows_main_running() {
    let world = World::with("Never", &[Beside::Regular("proxy"), Beside::Regular("helper")]);
    world.make_ready("proxy");
    world.make_ready("helper");
    let quit = Endpoint::ok();
    let Some(helper) = world.mounted("helper", "pod") else { return };
    let helper = helper.sidecar("helper").flags(["--until-exit=main", "-p", &quit.url()]).start_bare();
    helper.wait_stderr("running until the exit of `main`");
    let before = world.cluster.requests().len();
    for number in 0..10 {
        assert_eq!(say(&world, "helper/q", &format!("quit another-{number} 0\n")), BY_ITSELF);
    }
    assert_eq!(say(&world, "helper/q", "quit main 0\n"), BY_ITSELF);
    // Nobody wraps main, so that no proa of its own contradicts. The Pod does, with each watch.
    eventually("it sees the Pod again", || world.cluster.requests().len() > before);
    world.set_state("main", "terminated: {exitCode: 3}");
    assert!(quit.request().starts_with("POST "));
    world.set_state("proxy", "terminated: {exitCode: 0, reason: Completed}");
    helper.finish().expect(0, &["the main containers have exited", "every sidecar has exited"]);
}
