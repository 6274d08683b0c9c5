//! Pods, from bytes or of the fields that are read: read as Kubernetes' own types read them, and decided on as promised.

#![no_main]

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use arbitrary::{Result, Unstructured};
use k8s_openapi::api::core::v1 as whole;
use libfuzzer_sys::fuzz_target;
use proa::budget::{Now, StopRequests, budget};
use proa::endpoint::HttpUrl;
use proa::gate::verdict::{Reason, Verdict, asked_instead, verdict};
use proa::peer::message::{Message, Peer, Peers};
use proa::plan::selection::{Requirement, Selection};
use proa::pod::mains::{Awaited, End, Mains, find, progress};
use proa::pod::object::Pod;
use proa::pod::{Life, Role, Sidecar, Snapshot};
use proa::policy::{HoldTerm, Limit, ShutdownAuto, ShutdownWhen};
use proa::shutdown::again::DoneTask;
use proa::shutdown::awaited::{
    Drain, Rounds, Scope, Seen, TaskResult, awaited, carrier_leaves, drain, unattributed_traces,
};
use proa::shutdown::stages::{Step, stages, yet_to_start};
use proa::shutdown::{Origin, Others, Shutdown, Spared, Turn, Worth, decide, turn};
use proa::signal::Sender;
use proa::warnings::{Asked, Wait, warnings};
use proa_fuzz::pods;
use serde_json::Value;

const NAMES: [&str; 6] = ["main", "web", "istio-proxy", "daprd", "db", "absent"];

fn names(u: &mut Unstructured<'_>, most: usize) -> Result<Vec<String>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| Ok((*u.choose(&NAMES)?).to_owned())).collect()
}

/// Whether both have the same times, for which Kubernetes' own types know more ways to write than the API server uses.
fn same_times(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => other.iter().all(|(key, value)| match one.get(key) {
            Some(found) if key == "deletionTimestamp" || key == "startedAt" => found == value,
            Some(found) => same_times(found, value),
            None => true,
        }),
        (Value::Array(one), Value::Array(other)) => {
            one.iter().zip(other).all(|(one, other)| same_times(one, other))
        }
        _ => true,
    }
}

/// What Kubernetes' own types make of it, and ours of that, is what ours make of it.
fn read(sent: &Value) -> Option<Pod> {
    let read = serde_json::from_value::<Pod>(sent.clone());
    if let Ok(theirs) = serde_json::from_value::<whole::Pod>(sent.clone()) {
        let normal = serde_json::to_value(theirs).expect("JSON");
        let by_theirs = serde_json::from_value::<Pod>(normal.clone());
        if same_times(sent, &normal)
            && !normal.to_string().contains("\"-00")
            && by_theirs.as_ref().map_or_else(|error| !error.to_string().contains("a time as"), |_| true)
        {
            let read = read.as_ref().unwrap_or_else(|error| panic!("{error}: {sent}"));
            assert_eq!(by_theirs.as_ref().ok(), Some(read), "{sent}");
        }
    }
    read.ok()
}

/// Whether Kubernetes calls the container ready, by the status as it was sent.
fn is_ready(sent: &Value, name: &str) -> bool {
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let of = |list: &str| sent["status"][list].as_array().cloned().unwrap_or_default();
    let mut all = statuses.iter().flat_map(|list| of(list));
    all.find(|status| status["name"].as_str().unwrap_or_default() == name)
        .is_some_and(|status| status["ready"] == true)
}

/// The gate: open only where every selected sidecar is ready, and of one mind.
fn gate(sent: &Value, snapshot: &Snapshot, selection: &Selection) {
    let found = verdict(snapshot, selection);
    assert_eq!(found, verdict(snapshot, selection));
    let required = |sidecar: &&Sidecar| selection.requirement(sidecar) == Requirement::Ready;
    match &found {
        Verdict::Open => {
            for sidecar in snapshot.sidecars.iter().filter(required) {
                assert!(is_ready(sent, &sidecar.name), "`{}` is not ready: {sent}", sidecar.name);
                assert!(sidecar.ended_for_good().is_none(), "`{}` has ended: {sent}", sidecar.name);
            }
            assert_eq!(snapshot.life, Life::Active);
            assert!(sent["metadata"]["deletionTimestamp"].is_null(), "{sent}");
            for name in &selection.wait_for {
                assert!(snapshot.beside().any(|container| container.name == *name), "no `{name}`");
            }
        }
        Verdict::Wait(unready) => {
            assert!(!unready.is_empty());
            for one in unready {
                assert!(snapshot.beside().any(|container| container.name == one.name), "{one}");
            }
        }
        Verdict::Refuse(reason) => {
            if let Reason::SidecarEnded { name, .. } = reason {
                assert!(snapshot.beside().any(|one| one.name == *name && one.ended_for_good().is_some()));
            }
            assert!(!reason.to_string().is_empty());
        }
        Verdict::Outdated => assert!(snapshot.own.run.is_outdated()),
    }
    for instead in asked_instead(snapshot, selection) {
        assert!(instead.url.is_loopback() && instead.url.address().port != 0, "{instead}");
    }
    // Nobody who runs beside us is overlooked.
    if snapshot.own.role == Role::Regular {
        for container in sent["spec"]["containers"].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            assert!(
                name == snapshot.own.name || snapshot.beside().any(|one| one.name == name),
                "`{name}`: {sent}"
            );
        }
    }
}

/// Who is shut down, how, and whose exit is waited for.
fn end(u: &mut Unstructured<'_>, snapshot: &Snapshot, shutdown: &Shutdown) -> Result<()> {
    let peer = |container: &String| Peer { uid: snapshot.uid.clone(), container: container.clone() };
    let peers = Peers {
        ended: vec![Message { container: "main".to_owned(), code: u.arbitrary()? }],
        listening: names(u, 2)?.iter().map(peer).collect(),
    };
    let seen = u.ratio(7, 8)?.then_some(snapshot);
    let found = stages(shutdown, seen, &peers);
    assert_eq!(found, stages(shutdown, seen, &peers));
    let native = |name: &str| snapshot.sidecars.iter().any(|sidecar| sidecar.native && sidecar.name == name);
    for task in found.first.iter().chain(&found.last) {
        assert_ne!(shutdown.auto, ShutdownAuto::Off, "{task}");
        if let Step::Http(request) = &task.step {
            assert!(request.url.is_loopback() && request.url.address().port != 0, "{task}");
        }
        if let (Some(name), Some(_)) = (&task.container, seen) {
            assert!(!native(name) && *name != snapshot.own.name, "{task} for `{name}`");
        }
        let _ = (task.needs(), task.url());
    }
    let _ = yet_to_start(shutdown, snapshot);
    let results = [
        TaskResult::Accepted,
        TaskResult::NotYet,
        TaskResult::ByItself,
        TaskResult::Absent,
        TaskResult::Failed,
    ];
    let mut done = Vec::new();
    for task in found.first.into_iter().chain(found.last) {
        done.push(DoneTask::new(task, *u.choose(&results)?, seen));
    }
    let _ =
        (unattributed_traces(&done), carrier_leaves(&done), done.iter().any(|one| one.is_due_again(seen)));
    for scope in [Scope::Others, Scope::All] {
        let wrapped: Vec<_> = peers.listening.iter().map(|peer| peer.container.clone()).collect();
        let waited_for = awaited(&done, seen, scope, &shutdown.ignore, &wrapped, shutdown.spared);
        if seen.is_some() {
            for one in &waited_for {
                assert!(!native(&one.name) && !shutdown.ignore.contains(&one.name), "`{}`", one.name);
            }
        }
        let now = Seen {
            snapshot: seen.cloned(),
            no_connection: u.arbitrary::<Option<u8>>()?.map(|seconds| Duration::from_secs(seconds.into())),
            denied: u.arbitrary::<Option<u8>>()?.map(|seconds| Duration::from_secs(seconds.into())),
            gone: u.arbitrary::<Option<u8>>()?.map(usize::from).into_iter().collect(),
            carrier_leaves: u.arbitrary()?,
            stopping: u.arbitrary()?,
            rounds: *u.choose(&[Rounds::ByStart, Rounds::ByEnd])?,
        };
        let drained = drain(&waited_for, &now);
        assert_eq!(drained, drain(&waited_for, &now));
        match drained {
            Drain::Waiting(places) => {
                assert!(!places.is_empty() && places.iter().all(|at| *at < waited_for.len()));
            }
            Drain::Done => {
                for (place, one) in waited_for.iter().enumerate() {
                    assert!(
                        now.gone.contains(&place) || one.has_ended(seen, now.rounds),
                        "`{}` has not exited",
                        one.name
                    );
                }
            }
            Drain::Pointless(why) => assert!(!why.to_string().is_empty()),
        }
    }
    Ok(())
}

/// How long all of it may take.
fn time(u: &mut Unstructured<'_>, snapshot: &Snapshot) -> Result<()> {
    let instant = Instant::now();
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let (now, mut asked) = (Now { instant, wall }, StopRequests::default());
    for ago in u.arbitrary::<[Option<u16>; 3]>()?.into_iter().flatten() {
        let at = instant.checked_sub(Duration::from_millis(ago.into())).unwrap_or(instant);
        asked.note(at, if ago % 2 == 0 { Sender::Outside } else { Sender::Inside });
    }
    let life = u.arbitrary::<bool>()?.then_some(snapshot.life);
    let found = budget(&snapshot.termination, life, &asked, now);
    let limit = match u.int_in_range(0..=2)? {
        0 => Limit::Default,
        1 => Limit::None,
        _ => Limit::For(Duration::from_millis(u.arbitrary()?)),
    };
    let time = found.shutdown(limit);
    assert!(time.by.zip(time.others_by).is_none_or(|(all, others)| others <= all.max(instant)), "{time:?}");
    if let Some(kill_at) = found.kill_at() {
        // A moment is left for a request however late it is.
        assert!(time.by.is_some_and(|by| by <= kill_at.max(instant + proa::budget::LEAST)), "{time:?}");
    }
    let _ = (found.command(limit), found.hold(HoldTerm::Grace, instant, limit));
    assert!(found.hold(HoldTerm::For(Duration::MAX), instant, limit) >= instant);
    Ok(())
}

fn decide_all(u: &mut Unstructured<'_>, sent: &Value, pod: &Pod) -> Result<()> {
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let own = *u.choose(&[Some("main"), Some("web"), None, Some("main")])?;
    let started = u.arbitrary::<bool>()?.then_some(started);
    let snapshot = Snapshot::of(pod, own, started);
    assert_eq!(snapshot, Snapshot::of(pod, own, started));
    let Ok(mut snapshot) = snapshot else { return Ok(()) };
    assert!(own.is_none_or(|own| own == snapshot.own.name));
    Mains::named(names(u, 1)?).settle(&mut snapshot);
    let end_of = |name| Awaited { name, end: End::ForGood };
    let selection = Selection {
        wait_for: names(u, 1)?,
        ignore: names(u, 1)?,
        mains: Vec::new(),
        wait_exit: names(u, 1)?.into_iter().map(end_of).collect(),
    };
    // A list's members can stand for the fields of ours, and not for those that the API server sends.
    let is_podlike = serde_json::from_value::<whole::Pod>(sent.clone()).is_ok();
    for selection in [&Selection::default(), &selection] {
        if is_podlike {
            gate(sent, &snapshot, selection);
        }
    }
    let whens = [ShutdownWhen::Auto, ShutdownWhen::Always, ShutdownWhen::Success, ShutdownWhen::Never];
    let shutdown = Shutdown {
        when: *u.choose(&whens)?,
        actions: Vec::new(),
        auto: *u.choose(&[ShutdownAuto::Otherwise, ShutdownAuto::Too, ShutdownAuto::Off])?,
        timeout: Limit::Default,
        ignore: selection.ignore.clone(),
        spared: *u.choose(&[Spared::Entrypoint, Spared::OwnContainer])?,
    };
    let code = u.arbitrary()?;
    let decision = |origin| decide(shutdown.when, code, origin, Some(&snapshot));
    for origin in [Origin::Inside, Origin::Runtime] {
        assert_eq!(decision(origin), decision(origin));
    }
    end(u, &snapshot, &shutdown)?;
    time(u, &snapshot)?;
    let listed = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
    let others = Others {
        listening: listed(names(u, 1)?),
        present: listed(names(u, 1)?),
        ended: names(u, 1)?.into_iter().map(|name| Ok((name, u.arbitrary()?))).collect::<Result<_>>()?,
    };
    let worth = *u.choose(&[Worth::Current, Worth::Early, Worth::Past, Worth::Blind])?;
    let whose = turn(Some((&snapshot, worth)), &others);
    assert_eq!(whose, turn(Some((&snapshot, worth)), &others));
    assert!(whose != Turn::Ours || others.listening.is_empty());
    let mains = find(&snapshot, &selection.wait_exit);
    if let Ok(Some(mains)) = &mains {
        let _ = progress(&snapshot, mains);
    }
    let wait = Wait { sidecars: true, directly: false, known: &[], timeout: Some(Duration::from_mins(10)) };
    let asked = Asked {
        selection: &selection,
        wait: Some(wait),
        shutdown: Some(&shutdown),
        stop_timeout: Some(Duration::from_secs(30)),
        status_port: Some(9400),
    };
    for warning in warnings(&snapshot, &asked, &Peers::default()) {
        assert!(!warning.to_string().is_empty());
    }
    for url in snapshot.beside().filter_map(Sidecar::ready_at).chain([&HttpUrl::on_loopback(1, "/")]) {
        assert_ne!(url.address().port, 0, "{url}: {sent}");
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let (sent, mut u) = if input.first() == Some(&b'{') {
        let Ok(sent) = serde_json::from_slice::<Value>(input) else {
            // What no field holds may be no JSON that anybody else would take.
            let _ = serde_json::from_slice::<Pod>(input);
            return;
        };
        (sent, Unstructured::new(&input[input.len() / 2..]))
    } else {
        let mut u = Unstructured::new(input.get(1..).unwrap_or_default());
        let Ok(sent) = pods::pod(&mut u) else { return };
        (sent, u)
    };
    let Some(pod) = read(&sent) else { return };
    for _ in 0..4 {
        let _ = decide_all(&mut u, &sent, &pod);
    }
});
