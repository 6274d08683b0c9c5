//! Every catchable signal reaches the command; before it exists, the four that ask for an end do end.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::libc;

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, World, children, eventually, puppet, send};

/// Every signal that can be caught, but for the child events that proa keeps.
fn forwardable() -> impl Iterator<Item = i32> {
    (1..=31).chain(34..=64).filter(|number| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD].contains(number))
}

/// As the puppet writes it: `SIGTERM`, `SIGRTMIN+3`.
fn name(number: i32) -> String {
    match number {
        34..=64 => format!("SIGRTMIN+{}", number - 34),
        _ => nix::sys::signal::Signal::try_from(number).expect("a signal").to_string(),
    }
}

/// Such as a shell's own, blocked until it has executed proa.
#[test]
fn a_signal_that_this_process_sent_itself_before_it_was_proa_counts() {
    let world = World::alone();
    let script = "kill -TERM $$; exec \"$@\"";
    let blocked = ["env", "--block-signal=TERM", "sh", "-c", script, "sh"];
    world.proa().through(blocked).run(["sleep", "600"]).expect(143, &[]);
}

/// Each line of the log raises SIGXFSZ then, and each of those would be worth a line.
#[test]
fn a_stderr_that_may_not_grow_costs_neither_signals_nor_the_exit_code() {
    let world = World::alone();
    let log = world.dir.join("log");
    fs::write(&log, [b'x'; 1024]).unwrap();
    let script = format!("ulimit -f 1; exec \"$@\" 2>>{}", log.display());
    let proa = || world.proa().through(["sh", "-c", &script, "sh"]).flag("--log-level=debug");
    proa().run(["sh", "-c", "exit 7"]).expect(7, &[]);
    let mut running = proa().start(["sh", "-c", "trap 'exit 8' TERM; echo up; while :; do sleep 0.01; done"]);
    running.wait_stdout("up");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().code(), Some(8));
}

#[test]
fn every_catchable_signal_is_forwarded_once() {
    let world = World::alone();
    let count = forwardable().count();
    let running = world.proa().start([
        puppet().into_os_string(),
        "signals".into(),
        "--count".into(),
        count.to_string().into(),
    ]);
    running.wait_stdout("ready");
    for number in forwardable() {
        running.signal(number);
        running.wait_stdout(&format!("got {}\n", name(number)));
    }
    let finished = running.finish().expect(0, &[]);
    assert_eq!(finished.stdout.matches("got ").count(), count, "{}", finished.stdout);
}

#[test]
fn signals_go_to_the_child_or_to_its_group_as_asked() {
    let world = World::alone();
    // The shell and a grandchild, each of which says that it was asked to stop.
    let script = "trap 'echo shell; exit 0' USR1; sh -c 'trap \"\" TERM; trap \"echo grandchild; exit 0\" USR1; echo up; \
                  while :; do sleep 0.01; done' & while :; do sleep 0.01; done";
    for (whom, both) in [("child", false), ("group", true)] {
        let mut running = world.proa().flags(["--forward-to", whom]).start(["sh", "-c", script]);
        running.wait_stdout("up");
        let shell = children(running.pid())[0];
        running.signal(libc::SIGUSR1);
        running.wait_stdout("shell");
        if both {
            running.wait_stdout("grandchild");
        }
        running.end();
        assert_eq!(running.stdout_so_far().contains("grandchild"), both);
        send(-shell, libc::SIGUSR1);
        running.finish().expect(0, &[]);
    }
}

#[test]
fn before_the_command_exists_four_signals_end_the_wait_and_the_sidecars() {
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        let world = World::with("Never", &[Beside::Regular("web")]);
        let quit = Endpoint::ok();
        let running = world
            .proa()
            .flags(["--shutdown-http-post", &quit.url(), "--shutdown-timeout=1s"])
            .start(["echo", "never"]);
        running.wait_stderr("waiting for web");
        running.signal(number);
        let finished = running.finish().expect(128 + number, &[&name(number)]);
        assert_eq!(finished.stdout, "", "the command must not run");
        assert!(quit.request().starts_with("POST /quitquitquit "));
        assert_eq!(world.termination_message(), "");
    }
}

#[test]
fn an_end_before_the_command_does_not_wait_for_the_sidecars_exit() {
    // In a mesh whose proxy never comes up nothing would ever tell of it.
    let world = World::with("Never", &[Beside::Regular("web")]);
    let _down = world.cluster.refuse();
    let running = world.proa().flag("--shutdown-timeout=1h").start(["echo", "never"]);
    running.wait_stderr("waiting for the API server");
    running.signal(libc::SIGTERM);
    running.finish().expect(128 + libc::SIGTERM, &[]);
}

#[test]
fn the_containers_own_stop_signal_ends_the_wait() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.update_status("main", |status| status.stop_signal = Some("SIGUSR2".into()));
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "never"]);
    running.wait_stderr("waiting for web");
    running.signal(libc::SIGUSR2);
    running.finish().expect(128 + libc::SIGUSR2, &[]);
}

#[test]
fn a_signal_around_the_start_of_the_command_is_never_lost() {
    for round in 0..60 {
        let world = World::with("Never", &[Beside::Regular("web")]);
        let running = world.proa().flag("--shutdown-when=never").start([
            puppet().into_os_string(),
            "sleep".into(),
            "60m".into(),
        ]);
        running.wait_stderr("waiting for web");
        world.make_ready("web");
        // Some rounds meet the gate, some the fork, some the new program.
        for _ in 0..round * 300 {
            std::hint::spin_loop();
        }
        running.signal(libc::SIGTERM);
        running.finish().expect(128 + libc::SIGTERM, &[]);
    }
}

#[test]
fn the_command_gets_the_signal_state_that_proa_was_started_with() {
    use nix::sys::signal::{
        SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
    };

    #[expect(unsafe_code, reason = "dispositions can be set in no other way")]
    fn odd_state() -> std::io::Result<()> {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR2);
        blocked.add(Signal::SIGTERM);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGCHLD] {
            // SAFETY: ignoring a signal installs no handler.
            unsafe { sigaction(signal, &ignore) }?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "the set-up runs between fork and exec")]
    fn set_up(command: &mut std::process::Command) {
        use std::os::unix::process::CommandExt;
        // SAFETY: the set-up makes plain system calls alone.
        unsafe { command.pre_exec(odd_state) };
    }

    let world = World::alone();
    let state = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| ["SigBlk", "SigIgn", "SigCgt"].iter().any(|name| line.starts_with(name)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let directly = |odd: bool| {
        let mut command = std::process::Command::new("cat");
        command.arg("/proc/self/status");
        if odd {
            set_up(&mut command);
        }
        state(&String::from_utf8(command.output().expect("cat runs").stdout).expect("text"))
    };
    let command = ["cat", "/proc/self/status"];
    assert_eq!(state(&world.proa().run(command).expect(0, &[]).stdout), directly(false));
    let odd = directly(true);
    assert_eq!(state(&world.proa().setup(odd_state).run(command).expect(0, &[]).stdout), odd);
    assert_eq!(odd[0], "SigBlk:\t0000000000004800", "bit n-1 for signal n: the test blocks USR2 and TERM");
}

#[test]
fn a_stopped_command_can_be_continued_and_ends_as_it_would() {
    let world = World::alone();
    let held = Held::in_dir(&world.dir, "exit 9");
    let running = world.proa().start(&held.command);
    running.wait_stdout("up");
    let child = children(running.pid())[0];
    running.signal(libc::SIGTSTP);
    eventually("the command is stopped", || {
        crate::support::stat(child).is_some_and(|(state, _)| state == 'T')
    });
    assert_ne!(crate::support::stat(running.pid()).map(|(state, _)| state), Some('T'), "proa itself goes on");
    running.signal(libc::SIGCONT);
    held.let_go();
    running.finish().expect(9, &[]);
}

#[test]
fn a_signal_during_the_drain_ends_the_wait_with_the_commands_code() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let running = world.proa().flag("--shutdown-timeout=1h").start(["sh", "-c", "exit 5"]);
    running.wait_stderr("waiting for `web` to exit");
    running.signal(libc::SIGTERM);
    running.finish().expect(5, &["no longer waiting"]);
}

#[test]
fn a_second_signal_gives_up_on_a_hanging_quit_endpoint() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let quit = Endpoint::replying(vec![crate::support::http::Reply::Hang]);
    let running =
        world.proa().flags(["-p", &quit.url(), "--shutdown-timeout=1h"]).start(["sh", "-c", "exit 5"]);
    quit.request();
    running.signal(libc::SIGTERM);
    running.wait_stderr("not waiting for the sidecars to exit");
    running.signal(libc::SIGTERM);
    running.finish().expect(5, &["no longer waiting for the sidecars signal"]);
}

#[test]
fn a_storm_of_signals_at_the_gate_lets_the_command_start() {
    let world = World::with("Never", &[Beside::Native("web")]);
    let running = world.proa().flag("--shutdown-when=never").start(["echo", "up"]);
    running.wait_stderr("waiting for web");
    let (pid, over) = (running.pid(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                send(pid, libc::SIGRTMIN() + 6);
            }
        });
        let _calm = Calm(&over);
        running.wait_stderr("SIGRTMIN+6 came before the command");
        world.make_ready("web");
        running.wait_stderr("command started");
    });
}

struct Calm<'a>(&'a AtomicBool);

impl Drop for Calm<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_storm_of_signals_holds_up_nothing_else() {
    let (world, quit) =
        (World::alone(), Endpoint::replying(vec![Reply::Status(503, None), Reply::Last(200)]));
    let running = world.proa().flags(["--api=off", "--shutdown-http-post", &quit.url()]).start(["true"]);
    quit.request();
    let (pid, over) = (running.pid(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..6 {
            // Real-time signals do not merge: there is always one more.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    send(pid, libc::SIGRTMIN() + 6);
                }
            });
        }
        // However this ends.
        let _calm = Calm(&over);
        quit.request();
    });
    running.finish().expect(0, &[]);
}
