//! What the command gets of proa's: no descriptor, and the environment that the container has.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nix::libc;

use crate::support::http::Endpoint;
use crate::support::{Beside, Held, Proa, Running, World, children};

/// The process that proa runs.
fn command_of(running: &Running) -> i32 {
    let [command] = children(running.pid())[..] else { panic!("not one command") };
    command
}

fn descriptors(pid: i32) -> BTreeSet<i32> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    listed.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// The flags of open(2) that a descriptor has; `proc_pid_fdinfo(5)` gives them in octal. `None`: it has been closed meanwhile.
fn flags(pid: i32, descriptor: i32) -> Option<i32> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    Some(i32::from_str_radix(flags.trim(), 8).expect("octal digits"))
}

/// Without what this process may have open for others of its tests.
#[expect(unsafe_code, reason = "no library of the tests has this call")]
fn alone(proa: Proa) -> Proa {
    proa.setup(|| {
        // SAFETY: takes three integers, and touches no memory of ours.
        match unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    })
}

/// Runs a command under proa, and looks at the descriptors of both while it runs.
#[track_caller]
fn assert_nothing_is_inherited(world: &World, proa: Proa) {
    let held = Held::in_dir(&world.dir, "");
    let running = alone(proa).start(&held.command);
    running.wait_stdout("up");
    assert_eq!(descriptors(command_of(&running)), BTreeSet::from([0, 1, 2]));
    // Between a fork and the close another thread's child may be made.
    let own = descriptors(running.pid());
    assert!(own.len() > 3, "it has some to leave behind: {own:?}");
    for descriptor in own.into_iter().filter(|descriptor| *descriptor > 2) {
        let path = fs::read_link(format!("/proc/{}/fd/{descriptor}", running.pid()));
        let closes = flags(running.pid(), descriptor).is_none_or(|flags| flags & libc::O_CLOEXEC != 0);
        assert!(closes, "{descriptor} is {path:?}");
    }
}

fn beside_web() -> World {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    world
}

#[test]
fn the_command_sees_three_descriptors_whatever_proa_does_beside_it() {
    let (ready, world) = (Endpoint::ok(), beside_web());
    let (file, variables) = (world.dir.join("here"), world.dir.join("variables"));
    fs::write(&file, "").unwrap();
    fs::write(&variables, "A=1\n").unwrap();
    let url = ready.url();
    let tcp = format!("--wait-tcp=127.0.0.1:{}", ready.port());
    let wait_file = format!("--wait-file={}", file.display());
    let env_file = format!("--env-file={}", variables.display());
    let at = crate::status::address(41);
    let every: [&[&str]; 7] = [
        &[],
        &["--api=off"],
        &["--status-address", &at],
        &["--on-sidecar-exit=stop"],
        &["--wait-http-get", &url, &tcp, &wait_file],
        &[&env_file, "--forward-to=group", "-p", &url, "--kill-all"],
        &["--disabled", "--log-level=trace"],
    ];
    for flags in every {
        assert_nothing_is_inherited(&world, world.proa().flags(flags));
    }
    // What is ignored can be restored in a forked child alone.
    assert_nothing_is_inherited(&world, world.proa().through(["env", "--ignore-signal=CHLD"]));
}

#[test]
fn a_wrapped_sidecars_command_sees_three_descriptors_too() {
    let world = beside_web();
    let at = crate::status::address(42);
    let every: [&[&str]; 3] = [&[], &["--status-address", &at, "--hold-term"], &["--api=off"]];
    for flags in every {
        assert_nothing_is_inherited(&world, world.proa().sidecar("web").flags(flags));
    }
    // With its sockets in the Pod's network namespace, and a watch that goes on.
    let Some(mounted) = world.mounted("web", "pod") else { return };
    let held = Held::in_dir(&world.dir, "");
    let running = mounted.sidecar("web").start(&held.command);
    running.wait_stdout("up");
    running.wait_stderr("running until the exit of `main`");
    let found = descriptors(command_of(&running));
    assert!(found.is_superset(&BTreeSet::from([0, 1, 2])), "{found:?}");
    let links = |pid: i32| -> BTreeSet<PathBuf> {
        descriptors(pid)
            .into_iter()
            .filter_map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok())
            .collect()
    };
    let sockets = |links: BTreeSet<PathBuf>| -> Vec<PathBuf> {
        links.into_iter().filter(|path| path.to_string_lossy().starts_with("socket:")).collect()
    };
    assert!(
        sockets(links(running.pid())).len() >= 3,
        "presence, inbox and watch: {:?}",
        links(running.pid())
    );
    assert!(sockets(links(command_of(&running))).is_empty(), "{:?}", links(command_of(&running)));
}

/// A process's variables.
fn environment(pid: i32) -> BTreeSet<String> {
    let text = fs::read(format!("/proc/{pid}/environ")).expect("a process");
    let variables = text.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    variables.map(|variable| String::from_utf8_lossy(variable).into_owned()).collect()
}

#[test]
fn the_commands_environment_is_the_containers_and_the_files() {
    let world = beside_web();
    let file = world.dir.join("variables");
    fs::write(&file, "FROM_FILE=2\n").unwrap();
    for form in ["main", "web"] {
        let proa = world.proa().env("OWN", "1").env("RUST_LOG", "x=debug").env("PROA_LOG_LEVEL", "debug");
        let proa = if form == "web" { proa.sidecar("web") } else { proa };
        // A program that adds nothing of its own to what it was given, as a shell does.
        let running = proa.flag(format!("--env-file={}", file.display())).start(["sleep", "600"]);
        running.wait_stderr("command started");
        let (own, found) = (environment(running.pid()), environment(command_of(&running)));
        assert!(own.contains("OWN=1") && own.contains("PROA_LOG_LEVEL=debug"), "{own:?}");
        let more: Vec<_> = found.difference(&own).collect();
        assert_eq!(more, ["FROM_FILE=2"]);
        assert!(found.is_superset(&own), "{own:?} is not in {found:?}");
    }
}
