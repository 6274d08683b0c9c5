//! Variables from files: read once the gate is open, by rules of precedence, and never told.

use std::fs;

use crate::support::http::Endpoint;
use crate::support::{Beside, World};

fn write(world: &World, name: &str, text: &str) -> String {
    let path = world.dir.join(name);
    fs::write(&path, text).unwrap();
    format!("--env-file={}", path.display())
}

const SHOW: [&str; 3] = ["sh", "-c", "echo $A-$B-$C"];

#[test]
fn the_environment_wins_then_the_first_file() {
    let world = World::alone();
    let (one, two) = (write(&world, "one", "A=1\nexport B='1 1'\n"), write(&world, "two", "B=2\nC=\"2\"\n"));
    let finished = world.proa().env("A", "0").flags([&one, &two]).run(SHOW).expect(0, &[]);
    assert_eq!(finished.stdout, "0-1 1-2\n");
}

#[test]
fn a_file_that_hangs_is_given_up() {
    let world = World::alone();
    let path = world.dir.join("pipe");
    // Nobody ever writes to it, as to a file on a volume whose server is away.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    world.proa().flag("--env-file").flag(&path).run(SHOW).expect(2, &["pipe: not read within 10s"]);
}

#[test]
fn with_override_the_last_file_wins() {
    let world = World::alone();
    let (one, two) = (write(&world, "one", "A=1\nB=1\n"), write(&world, "two", "B=2\nC=2\n"));
    let flags = [one.as_str(), &two, "--env-file-override"];
    let finished = world.proa().env("A", "0").flags(flags).run(SHOW).expect(0, &[]);
    assert_eq!(finished.stdout, "1-2-2\n");
}

#[test]
fn a_sidecar_may_write_it_before_it_becomes_ready() {
    let world = World::with("Never", &[Beside::Regular("vault")]);
    let path = world.dir.join("late");
    let running = world.proa().flags(["--shutdown-when=never", "--env-file"]).flag(&path).start(SHOW);
    running.wait_stderr("waiting for vault");
    fs::write(&path, "A=late\n").unwrap();
    world.make_ready("vault");
    assert_eq!(running.finish().expect(0, &[]).stdout, "late--\n");
}

#[test]
fn the_commands_path_is_that_of_the_file() {
    let world = World::alone();
    let bin = world.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink("/bin/echo", bin.join("greet")).unwrap();
    let file = write(&world, "env", &format!("PATH={}\n", bin.display()));
    let finished = world.proa().flags([file.as_str(), "--env-file-override"]).run(["greet", "hello"]);
    assert_eq!(finished.expect(0, &[]).stdout, "hello\n");
}

#[test]
fn what_cannot_be_used_refuses_with_its_place_and_without_a_value() {
    let world = World::alone();
    let missing = format!("--env-file={}", world.dir.join("missing").display());
    let directory = world.dir.join("directory");
    fs::create_dir(&directory).unwrap();
    let directory = format!("--env-file={}", directory.display());
    for (flag, said) in [
        (missing, vec!["missing", "No such file", "--wait-file"]),
        (directory, vec!["directory", "NAME=value"]),
        (write(&world, "quote", "A=1\nSECRET='hunter2\n"), vec!["quote, line 2"]),
        (write(&world, "space", "\n\nSECRET=hunter2 hunter3\n"), vec!["space, line 3"]),
        (write(&world, "binary", "\nSECRET=\0hunter2\n"), vec!["binary, line 2"]),
    ] {
        let quit = Endpoint::ok();
        let finished = world
            .proa()
            .flags([&flag, "-p", &quit.url()])
            .env("RUST_LOG", "trace,proa=trace")
            .run(["echo", "up"]);
        let finished = finished.expect(2, &said);
        assert_eq!(finished.stdout, "", "{flag}");
        assert!(!finished.stderr.contains("hunter"), "{flag}: {}", finished.stderr);
        let message = world.termination_message();
        assert!(said.iter().all(|said| message.contains(said)), "{flag}: {message}");
        assert!(quit.request().starts_with("POST "), "the sidecars are ended all the same");
    }
}
