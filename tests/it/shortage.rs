//! What the system is short of when the command is over, it may have again a moment later: until then the sidecars wait, unless
//! the container is being stopped.

use std::path::Path;

use nix::libc;

use crate::filter;
use crate::mistakes::beside_envoy;
use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Held, Proa, Running, World, eventually};

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

/// Deaf to its main container's end it would run for ever.
#[test]
fn a_sidecar_that_was_short_at_its_start_hears_of_its_main_containers_end() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((main, sidecar)) = crate::sidecar::both(&world) else { return };
    // Its presence takes the one that is left.
    let sidecar = sidecar.flags(["--api=off", "--until-exit=main"]).setup(|| {
        limit_descriptors(0, 5);
        Ok(())
    });
    let sidecar = sidecar.start(["sleep", "1000"]);
    sidecar.wait_stderr("trying again");
    limit_descriptors(sidecar.pid(), PLENTY);
    sidecar.wait_stderr("command started");
    main.flag("--api=off").run(["true"]).expect(0, &["accepted"]);
    sidecar.finish().expect(0, &["the main container's proa asks this sidecar to stop"]);
}

#[test]
fn a_mistake_while_descriptors_are_short_ends_the_sidecars() {
    let quit = Endpoint::ok();
    let world = beside_envoy("Never", &quit, "running: {}");
    let proa = world.proa().flag("--nonsense").setup(|| {
        // The signals take the one that is left.
        limit_descriptors(0, 4);
        Ok(())
    });
    let running = proa.start(["true"]);
    running.wait_stderr("trying again");
    limit_descriptors(running.pid(), PLENTY);
    quit.request();
    world.set_state("proxy", "terminated: {exitCode: 0}");
    running.finish().expect(2, &[]);
}

/// Where signals cannot be read they can still be seen, and nobody waits for more descriptors who is to stop.
#[test]
fn a_stop_request_while_signals_cannot_be_received_is_obeyed() {
    let forms = [
        ("-- true", 143),
        ("wait --wait-file=/nowhere", 143),
        ("quit --shutdown-http-post=http://localhost:1/", 143),
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
