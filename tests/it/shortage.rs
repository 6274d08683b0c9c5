//! What the system is short of when the command is over, it may have again a moment later: until then the sidecars wait, unless
//! the container is being stopped.

use nix::libc;

use crate::support::http::Endpoint;
use crate::support::{Held, Running, World};

/// How many descriptors a process may have from now on.
#[expect(unsafe_code, reason = "nix limits the own process alone")]
fn limit_descriptors(pid: i32, most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: 1024 };
    // SAFETY: reads one structure of ours, and writes none.
    let failed = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// proa whose command is over, and which is short of descriptors.
fn short(world: &World, quit: &Endpoint) -> Running {
    let held = Held::in_dir(&world.dir, "exit 7");
    let running = world.proa().flags(["--shutdown-http-post", &quit.url()]).start(&held.command);
    running.wait_stdout("up");
    limit_descriptors(running.pid(), 3);
    held.let_go();
    running.wait_stderr("trying again");
    running
}

fn attempts(stderr: &str) -> usize {
    stderr.lines().filter(|line| line.contains("trying again")).count()
}

#[test]
fn a_shortage_at_the_commands_end_leaves_no_sidecar_running() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let running = short(&world, &quit);
    limit_descriptors(running.pid(), 1024);
    quit.request();
    running.finish().expect(7, &[]);
}

/// SIGKILL may be two seconds away, and would cost the exit code.
#[test]
fn a_shortage_in_a_container_that_is_being_stopped_costs_no_exit_code() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let running = short(&world, &quit);
    let before = attempts(&running.stderr_so_far());
    running.signal(libc::SIGTERM);
    let finished = running.finish().expect(7, &["asked to stop", "shutting down the sidecars failed"]);
    let after = attempts(&finished.stderr) - before;
    // A second apart.
    assert!(after <= 3, "{}", finished.stderr);
}

#[test]
fn a_signal_that_stops_nobody_shortens_no_shortage() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let running = short(&world, &quit);
    running.signal(libc::SIGWINCH);
    running.signal(libc::SIGUSR1);
    limit_descriptors(running.pid(), 1024);
    quit.request();
    let finished = running.finish().expect(7, &[]);
    assert!(!finished.stderr.contains("asked to stop"), "{}", finished.stderr);
}
