//! Wrong input leads to one clear message that says what to change, the documented code, and no process.

use std::os::unix::fs::PermissionsExt;

use crate::support::World;

#[test]
fn a_wrong_command_line_leads_to_2() {
    let world = World::alone();
    for (flags, said) in [
        (&["true"][..], "after `--`"),
        (&["--"], "after `--`"),
        (&[], "after `--`"),
        (&["--no-such-flag", "--", "true"], "--no-such-flag"),
        (&["-g", "localhost:15020/quit", "--", "true"], "http://HOST[:PORT]/PATH"),
        (&["-p", "http://localhost:0/", "--", "true"], "port 0"),
        (&["-p", "http://", "--", "true"], "http://HOST[:PORT]/PATH"),
        (&["--ready-timeout=5", "--", "true"], "500ms, 30s, 5m or 1h"),
        (&["--ready-timeout=soon", "--", "true"], "500ms, 30s, 5m or 1h"),
        (&["--shutdown-timeout=-1s", "--", "true"], "500ms, 30s, 5m or 1h"),
        (&["--kill-signal=KILL", "--", "true"], "expected a signal that can be caught"),
        (&["--kill-signal=SIGNOPE", "--", "true"], "expected a signal that can be caught"),
        (&["--on-timeout=panic", "--", "true"], "fail, run"),
        (&["--shutdown-when=maybe", "--", "true"], "auto, always, success, never"),
        (&["--wait-for=a", "--ignore=a", "--", "true"], "both --wait-for and --ignore"),
        (&["--", ""], "empty"),
        (&["--wait-http-get=http://:80/", "--", "true"], "http://HOST[:PORT]/PATH"),
        (&["--wait-http-get=http://localhost:0/", "--", "true"], "port 0"),
        (&["--wait-tcp=localhost", "--", "true"], "HOST:PORT"),
        (&["--wait-tcp=localhost:0", "--", "true"], "no port from 1 to 65535"),
        (&["--wait-tcp=:5432", "--", "true"], "no host"),
        (&["--wait-known=vault-agent", "--", "true"], "no readiness endpoint"),
        (&["--shutdown-known=fluent-bit", "--", "true"], "no quit endpoint"),
        (&["--shutdown-known=kuma", "--", "true"], "the control plane shuts it down"),
        (&["--api=off", "--wait-for=a", "--", "true"], "--api=off"),
        (&["--api=maybe", "--", "true"], "auto, require, optional, off"),
        (&["--shutdown-auto", "--no-shutdown-auto", "--", "true"], "--no-shutdown-auto"),
    ] {
        let finished = world.proa().flags(flags).start_bare().finish().expect(2, &[said]);
        assert_eq!(finished.stdout, "");
        assert!(world.termination_message().contains(said), "{flags:?}: {}", world.termination_message());
    }
}

#[test]
fn a_wrong_variable_is_named_by_its_flag() {
    World::alone().proa().env("PROA_READY_TIMEOUT", "soon").run(["true"]).expect(2, &["--ready-timeout"]);
}

#[test]
fn outside_a_pod_it_says_so() {
    let world = World::alone();
    world.proa().without("KUBERNETES_SERVICE_HOST").run(["true"]).expect(2, &["KUBERNETES_SERVICE_HOST"]);
    world.proa().env("KUBERNETES_SERVICE_PORT", "http").run(["true"]).expect(2, &["`http`"]);
    let nowhere = world.dir.join("nowhere");
    world
        .proa()
        .flag("--service-account-dir")
        .flag(&nowhere)
        .run(["true"])
        .expect(2, &["nowhere/token", "automountServiceAccountToken"]);
}

#[test]
fn without_a_namespace_it_says_so() {
    let world = World::alone();
    let bare = world.dir.join("account");
    std::fs::create_dir(&bare).unwrap();
    for file in ["token", "ca.crt"] {
        std::fs::copy(world.cluster.service_account_dir().join(file), bare.join(file)).unwrap();
    }
    let proa = || world.proa().flag("--service-account-dir").flag(&bare);
    proa().run(["true"]).expect(2, &["POD_NAMESPACE"]);
    proa().env("POD_NAMESPACE", "default").run(["true"]).expect(0, &[]);
}

#[test]
fn a_termination_message_that_nobody_reads_keeps_no_exit_code() {
    let world = World::alone();
    let pipe = world.dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let flags =
        ["--shutdown-when=never".to_owned(), format!("--termination-message-path={}", pipe.display())];
    world.proa().flags(&flags).run(["/nowhere"]).expect(127, &["cannot write the termination message"]);
    // Nor is what is full waited for.
    let open = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    std::io::Write::write_all(&mut &open, &[b'.'; 4096]).unwrap();
    world.proa().flags(&flags).run(["/nowhere"]).expect(127, &["cannot write the termination message"]);
}

#[test]
fn an_unwritable_termination_message_file_is_reported_and_changes_nothing() {
    let world = World::alone();
    let directory = world.dir.join("directory");
    std::fs::create_dir(&directory).unwrap();
    world
        .proa()
        .env("PROA_TERMINATION_MESSAGE_PATH", &directory)
        .run(["/no/such/program"])
        .expect(127, &["cannot write the termination message", "terminationMessagePath"]);
}

#[test]
fn a_certificate_of_another_authority_is_not_trusted() {
    let (world, other) = (World::alone(), World::alone());
    let account = world.dir.join("account");
    std::fs::create_dir(&account).unwrap();
    for (file, from) in [("token", &world), ("namespace", &world), ("ca.crt", &other)] {
        std::fs::copy(from.cluster.service_account_dir().join(file), account.join(file)).unwrap();
    }
    std::fs::set_permissions(&account, std::fs::Permissions::from_mode(0o755)).unwrap();
    world
        .proa()
        .flag("--service-account-dir")
        .flag(&account)
        .flag("--ready-timeout=3s")
        .run(["true"])
        .expect(75, &["certificate"]);
    assert_eq!(world.cluster.requests().len(), 0, "the token was not shown to a stranger");
}

#[test]
fn a_log_filter_that_is_not_understood_is_reported() {
    World::alone().proa().env("RUST_LOG", "proa=loud").run(["true"]).expect(0, &["RUST_LOG"]);
}
