//! What the system is short of when the command is over, it may have again a moment later: until then the sidecars wait, unless
//! the container is being stopped.

use std::path::Path;

use nix::libc;

use crate::filter;
use crate::mains::{HIDDEN, SHOWN, answering, both, pod, wrapped, wrapped_with};
use crate::mistakes::beside_envoy;
use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Dir, Held, PATIENCE, Proa, Running, World, eventually, say};

/// As many as a process of these tests ever needs.
const PLENTY: libc::rlim_t = 1024;

/// How many descriptors a process may have from now on; 0: this one.
#[expect(unsafe_code, reason = "nix limits the own process alone")]
fn limit_descriptors(pid: i32, most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: PLENTY };
    // SAFETY: reads one structure of ours, and writes none.
    let failed = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// proa that may have so many descriptors from its start on.
fn starting_with(most: libc::rlim_t, proa: Proa) -> Proa {
    proa.setup(move || {
        limit_descriptors(0, most);
        Ok(())
    })
}

/// proa whose command is over, and which may have so many descriptors.
fn short(world: &World, proa: Proa, most: libc::rlim_t) -> Running {
    let held = Held::in_dir(&world.dir, "exit 7");
    let running = proa.start(&held.command);
    running.wait_stdout("up");
    limit_descriptors(running.pid(), most);
    held.let_go();
    running
}

#[test]
fn a_shortage_at_the_commands_end_leaves_no_sidecar_running() {
    // Those that there are already; one and more of those that it takes to ask.
    for most in 3..10 {
        let (world, quit) = (World::alone(), Endpoint::replying(vec![Reply::Last(200)]));
        let flags = ["--api=off", "--log-level=debug", "--shutdown-http-post", &quit.url()];
        let running = short(&world, world.proa().flags(flags), most);
        let mut requests = 0;
        eventually("it is short of something for longer than a sidecar is asked, or of nothing", || {
            requests += quit.more_requests();
            let seen = running.stderr_so_far();
            requests > 0 || seen.contains("trying again") || seen.matches(" asked ").count() > 5
        });
        limit_descriptors(running.pid(), PLENTY);
        if requests == 0 {
            quit.request();
        }
        running.finish().expect(7, &[]);
    }
}

/// SIGKILL may be two seconds away, and would cost the exit code.
#[test]
fn a_shortage_in_a_container_that_is_being_stopped_costs_no_exit_code() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let running = short(&world, world.proa().flags(["--api=off", "--shutdown-http-post", &quit.url()]), 3);
    running.wait_stderr("trying again");
    running.signal(libc::SIGTERM);
    running.finish().expect(7, &["no longer tried: this container is about to be killed"]);
}

#[test]
fn a_shortage_takes_no_signal_away() {
    // It goes on listening, and its end is waited for.
    let (world, quit) = (World::alone(), Endpoint::ok());
    let running = short(&world, world.proa().flags(["--api=off", "--shutdown-http-post", &quit.url()]), 3);
    running.wait_stderr("trying again");
    running.signal(libc::SIGINT);
    limit_descriptors(running.pid(), PLENTY);
    running.finish().expect(7, &["asked to stop", "not waiting for the sidecars to exit"]);
}

/// A limit that leaves a process none but those that it has.
fn none_left(pid: i32) -> libc::rlim_t {
    let free = (0..PLENTY).find(|number| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists());
    free.expect("one of those that there may be")
}

/// The connection is in the kernel's queue, and it takes a descriptor to accept it.
#[test]
fn a_shortage_loses_nothing_that_another_main_container_has_left() {
    // From those that there are already to what it takes.
    for most in 3..20 {
        let world = pod("Never", SHOWN);
        let Some((main, second)) = both(&world) else { return };
        let Some(web) = wrapped(&world) else { return };
        let held = Held::in_dir(&world.dir, "exit 7");
        let main = main.flags(["--api=off", "--log-level=debug"]).start(&held.command);
        main.wait_stdout("up");
        second.flag("--api=off").run(["true"]).expect(0, &["left running for `main`"]);
        limit_descriptors(main.pid(), most);
        held.let_go();
        eventually("it is short of something, or of nothing", || {
            let seen = main.stderr_so_far();
            ["trying again", "cannot take all", "exit with"].iter().any(|said| seen.contains(said))
        });
        limit_descriptors(main.pid(), PLENTY);
        main.finish().expect(7, &["stop request to `web`: accepted\n"]);
        web.finish().expect(0, &[]);
    }
}

/// The word takes the last descriptor, and it takes one more to tell whether its sender runs again.
#[test]
fn a_word_that_comes_in_a_shortage_counts_after_it() {
    let world = pod("Never", SHOWN);
    let Some(web) = wrapped_with(&world, &["--until-exit=main", "--log-level=debug"]) else { return };
    assert_eq!(say(&world, "web/q", "ended other 0\n"), "wait\n", "it listens");
    limit_descriptors(web.pid(), none_left(web.pid()) + 1);
    assert_eq!(say(&world, "web/q", "ended main 0\n"), "wait\n");
    web.wait_stderr("cannot ask whether main containers run again");
    limit_descriptors(web.pid(), PLENTY);
    web.finish().expect(0, &["whose exit this sidecar waits for have exited"]);
}

/// It would take one more to look for other main containers, and nothing happens any more that could end a watch.
#[test]
fn a_helper_whose_watch_holds_the_last_descriptor_sees_its_main_containers_end() {
    let world = World::with("Never", &[Beside::Regular("proxy"), Beside::Regular("helper")]);
    let words = ["/proa", "--", "work"].map(str::to_owned).to_vec();
    world.update_container("main", |main| main.command = Some(words));
    let quit = Endpoint::ok();
    let helper = world.proa().sidecar("helper").flags(["-p", &quit.url()]).start_bare();
    helper.wait_stderr("running until the exit of `main`");
    limit_descriptors(helper.pid(), none_left(helper.pid()));
    world.set_state("main", "terminated: {exitCode: 0, reason: Completed}");
    quit.request();
    limit_descriptors(helper.pid(), PLENTY);
    world.set_state("proxy", "terminated: {exitCode: 0, reason: Completed}");
    helper.finish().expect(0, &["the main containers have exited"]);
}

/// It has no flag that names this one, whose image hides its proa, and which nobody could look for.
#[test]
fn a_shortage_hides_no_main_container_that_started_late_from_a_helper() {
    let world = World::with("Never", &["proxy", "late", "helper"].map(Beside::Regular));
    let words = ["/proa", "--", "work"].map(str::to_owned).to_vec();
    world.update_container("main", |main| main.command = Some(words));
    let Some(late) = world.mounted("late", "pod") else { return };
    let Some(helper) = world.mounted("helper", "pod") else { return };
    let quit = Endpoint::ok();
    let helper = helper.sidecar("helper").flags(["--log-level=debug", "-p", &quit.url()]).start_bare();
    helper.wait_stderr("running until the exit of `main`");
    let held = Held::in_dir(&world.dir, "");
    let late = late.flag("--api=off").start(&held.command);
    late.wait_stdout("up");
    limit_descriptors(helper.pid(), 3);
    world.set_state("main", "terminated: {exitCode: 0, reason: Completed}");
    helper.wait_stderr("trying again");
    limit_descriptors(helper.pid(), PLENTY);
    assert!(world.cluster.wait_for_watches(1, PATIENCE), "{}", helper.stderr_so_far());
    assert_eq!(quit.more_requests(), 0, "under a running main container");
    held.let_go();
    late.finish().expect(0, &[]);
    world.set_state("late", "terminated: {exitCode: 0, reason: Completed}");
    quit.request();
    world.set_state("proxy", "terminated: {exitCode: 0, reason: Completed}");
    helper.finish().expect(0, &["the main containers have exited"]);
}

/// A directory that cannot be looked into for want of descriptors is there or not.
#[test]
fn a_shortage_at_the_start_makes_up_no_service_account() {
    let world = World::alone();
    let flags = ["--wait-file=/proc/self", "--namespace=default", "--shutdown-when=never"];
    let absent = world.dir.join("absent");
    let proa = world.proa().flags(flags).env("PROA_SERVICE_ACCOUNT_DIR", absent);
    // The signals take the one that is left.
    let running = starting_with(4, proa).start(["sh", "-c", "exit 5"]);
    running.wait_stderr("trying again");
    limit_descriptors(running.pid(), PLENTY);
    running.finish().expect(5, &["going on without the API server: no service account"]);
}

/// The mounts tell which container this is, and by that the others find it.
#[test]
fn a_main_container_that_was_short_at_its_start_is_known_and_seen() {
    let world = pod("Never", SHOWN);
    let Some((main, second)) = both(&world) else { return };
    let held = Held::in_dir(&world.dir, "exit 7");
    // The signals take the one that is left.
    let main = starting_with(4, main.flag("--shutdown-when=never")).start(&held.command);
    main.wait_stderr("trying again");
    limit_descriptors(main.pid(), PLENTY);
    main.wait_stdout("up");
    second.flag("--api=off").run(["true"]).expect(0, &["left running for `main`"]);
    held.let_go();
    main.finish().expect(7, &["this is container `main` of Pod `pod`"]);
}

/// Deaf to its main container's end it would run for ever.
#[test]
fn a_sidecar_that_was_short_at_its_start_hears_of_its_main_containers_end() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((main, sidecar)) = crate::sidecar::both(&world) else { return };
    // Its presence takes the one that is left.
    let sidecar = starting_with(5, sidecar.flags(["--api=off", "--until-exit=main"]));
    let sidecar = sidecar.start(["sleep", "1000"]);
    sidecar.wait_stderr("trying again");
    limit_descriptors(sidecar.pid(), PLENTY);
    sidecar.wait_stderr("command started");
    main.flag("--api=off").run(["true"]).expect(0, &["accepted"]);
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
}

/// A mistake in the command line, and no descriptor to end the sidecar with.
fn mistaken() -> (World, Endpoint, Running) {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, "running: {}");
    // The signals take the one that is left.
    let running = starting_with(4, world.proa().flag("--nonsense")).start(["true"]);
    running.wait_stderr("trying again");
    (world, quit, running)
}

#[test]
fn a_mistake_while_descriptors_are_short_ends_the_sidecars() {
    let (world, quit, running) = mistaken();
    limit_descriptors(running.pid(), PLENTY);
    quit.request();
    world.set_state("proxy", "terminated: {exitCode: 0}");
    running.finish().expect(2, &[]);
}

/// There was no command that could need anybody, so there is nobody whose exit matters.
#[test]
fn who_is_stopped_after_a_mistake_while_descriptors_are_short_waits_for_no_exit() {
    let (_world, quit, running) = mistaken();
    running.signal(libc::SIGTERM);
    limit_descriptors(running.pid(), PLENTY);
    quit.request();
    let end = running.finish().expect(2, &[]);
    assert!(!end.stderr.contains("waiting for"), "{}", end.stderr);
}

/// What one has to say to another may find no room in the kernel, which says nothing of that other.
#[test]
fn who_cannot_be_told_for_want_of_memory_is_there_all_the_same() {
    let world = pod("Never", HIDDEN);
    let Some((main, second)) = both(&world) else { return };
    let (web, flags) = answering();
    let held = Held::in_dir(&world.dir, "");
    let main = main.flags(&flags).flag("--api=off").start(&held.command);
    main.wait_stdout("up");
    let mut mute = filter::refusing(&[libc::SYS_sendto], None, libc::ENOBUFS).unwrap();
    let second = second.flags(&flags).flag("--api=off").setup(move || filter::install(&mut mute));
    let second = second.start(["sh", "-c", "exit 3"]);
    second.wait_stderr("waiting until the other main containers can be looked for");
    assert_eq!(web.more_requests(), 0);
    held.let_go();
    web.request();
    main.finish().expect(0, &[]);
    second.signal(libc::SIGTERM);
    second.finish().expect(3, &[]);
}

/// As many processes as there may be: a thread of its own for what may block is one more.
#[test]
fn a_thread_that_cannot_be_made_is_waited_for() {
    let world = World::alone();
    for wait in ["--wait-file=/proc/self", "--wait-tcp=db.example:1", "--wait-http-get=http://db.example/"] {
        let mut none = filter::refusing(&[libc::SYS_clone3, libc::SYS_clone], None, libc::EAGAIN).unwrap();
        let flags = ["wait", "--api=off", "--ready-timeout=1s", wait];
        let wait = world.proa().flags(flags).setup(move || filter::install(&mut none)).start_bare();
        let end = wait.finish().expect(75, &["Resource temporarily unavailable"]);
        assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    }
}

/// Where signals cannot be read they can still be seen, and nobody waits for more descriptors who is to stop.
#[test]
fn a_stop_request_while_signals_cannot_be_received_is_obeyed() {
    let forms = [
        ("-- true", 143),
        ("wait --wait-file=/nowhere", 143),
        ("quit --shutdown-http-post=http://localhost:1/", 1),
        // Its command has not started, which is what it was to come to.
        ("sidecar --until-exit=main -- true", 0),
    ];
    for (words, code) in forms {
        let world = World::alone();
        let mut short = filter::refusing(&[libc::SYS_signalfd4], None, libc::EMFILE).unwrap();
        let proa = world.proa().env("PROA_API", "off").flags(words.split(' '));
        let running = proa.setup(move || filter::install(&mut short)).start_bare();
        running.wait_stderr("trying again: cannot receive signals: signalfd(2)");
        running.signal(libc::SIGTERM);
        running.finish().expect(code, &["asked to stop: no longer tried"]);
    }
}

/// proa that has nothing more to get once it looks at the Pod, which comes to nothing: the API server is silent.
fn short_at_the_look(world: &World, proa: Running) -> Running {
    assert!(world.cluster.wait_for_connections(1, PATIENCE), "{}", proa.stderr_so_far());
    limit_descriptors(proa.pid(), 3);
    proa
}

/// The same after its command, in `main`.
fn short_after_the_command(world: &World, main: Proa) -> Running {
    let held = Held::in_dir(&world.dir, "exit 7");
    let main = main.start(&held.command);
    main.wait_stdout("up");
    assert!(world.cluster.wait_for_connections(0, PATIENCE), "the gate's");
    held.let_go();
    short_at_the_look(world, main)
}

/// Who could not look has not seen that nobody is there.
#[test]
fn a_shortage_hides_no_main_container_that_runs() {
    let world = pod("Never", HIDDEN);
    let Some((main, second)) = both(&world) else { return };
    let (web, flags) = answering();
    let dir = Dir::new();
    let held = Held::in_dir(&dir, "");
    let second = second.flags(&flags).flag("--api=off").start(&held.command);
    second.wait_stdout("up");
    let _silent = world.cluster.stall();
    let main = short_after_the_command(&world, main.flags(&flags).flag("--wait-file=/proc/self"));
    main.wait_stderr("waiting until the other main containers can be looked for");
    limit_descriptors(main.pid(), PLENTY);
    main.finish().expect(7, &["left running for `second` (running), whose proa"]);
    assert_eq!(web.more_requests(), 0);
}

/// SIGKILL may be two seconds away, and a shortage is waited for for much longer.
#[test]
fn a_stop_request_while_nobody_can_be_looked_for_is_heard() {
    let world = World::alone();
    let (Some(main), Some(quit)) = (world.mounted("main", "pod"), world.mounted("main", "pod")) else {
        return;
    };
    let _silent = world.cluster.stall();
    let flags = ["--log-level=debug", "--shutdown-http-post=http://localhost:1/"];
    let main = short_after_the_command(&world, main.flags(flags).flag("--wait-file=/proc/self"));
    main.wait_stderr("cannot take all that other main containers have left yet");
    main.signal(libc::SIGTERM);
    main.finish().expect(7, &["not waiting any longer: this container is about to be killed"]);
    let quit = short_at_the_look(&world, quit.flag("quit").flags(flags).start_bare());
    quit.wait_stderr("trying again");
    quit.signal(libc::SIGTERM);
    quit.finish().expect(1, &["no wrapped sidecar is notified", "this container is about to be killed"]);
}
