//! proa knows its own Pod and container from the kubelet's mounts; a wrong Pod is never mistaken for it.

use localpod::cluster::{Access, Fault};

use crate::support::{Beside, Proa, World};

/// proa as the kubelet starts it in container `main`, or another name, on a node of this hostname.
fn mounted(world: &World, container: &str, hostname: &str) -> Option<Proa> {
    Some(world.mounted(container, hostname)?.flag("--shutdown-when=never"))
}

/// A Pod with an injected proxy in the first place.
fn injected() -> World {
    World::with("Never", &[Beside::Regular("proxy")])
}

#[test]
fn the_own_container_is_known_though_it_is_not_the_first() {
    let world = injected();
    let Some(proa) = mounted(&world, "main", "pod") else { return };
    let running = proa.start(["true"]);
    running.wait_stderr("this is container `main`");
    running.wait_stderr("waiting for proxy");
    world.make_ready("proxy");
    running.finish().expect(0, &[]);
    assert_eq!(world.cluster.requests().len(), 1);
}

#[test]
fn the_termination_message_goes_where_the_kubelet_mounted_it() {
    let world = injected();
    world.set_state("proxy", "terminated: {exitCode: 1}");
    let Some(proa) = mounted(&world, "main", "pod") else { return };
    proa.run(["true"]).expect(69, &[]);
    let file = world.dir.join(&format!("pods/{}/containers/main/5f0c6d11", world.uid()));
    assert!(std::fs::read_to_string(file).unwrap().contains("`proxy` exited for good"));
}

#[test]
fn a_hostname_that_is_not_the_pods_name_leads_to_a_search_by_uid() {
    for hostname in ["node-7", "pod.jobs.default.svc.cluster.local"] {
        let world = injected();
        world.make_ready("proxy");
        // Another Pod of the node's name, and enough others for several pages.
        for number in 0..250 {
            let name = if number == 0 { "node-7".to_owned() } else { format!("other-{number}") };
            let yaml = format!(
                "metadata: {{name: {name}, namespace: default}}\nspec: {{containers: [{{name: x, image: x}}]}}"
            );
            world.cluster.apply(serde_saphyr::from_str(&yaml).unwrap());
        }
        let Some(proa) = mounted(&world, "main", hostname) else { return };
        proa.run(["true"]).expect(0, &["of Pod `pod`"]);
        assert!(world.cluster.requests().iter().any(|request| request.verb == "list"));
    }
}

/// As behind a proxy that takes connections before it is up.
#[test]
fn a_search_by_uid_that_is_not_answered_is_made_again() {
    let world = injected();
    world.make_ready("proxy");
    let Some(proa) = mounted(&world, "main", "pod.jobs.default.svc.cluster.local") else { return };
    world.cluster.inject_times(Fault::StallHandshake, 1);
    proa.flag("--ready-timeout=25s").run(["true"]).expect(0, &["no answer within 4s", "of Pod `pod`"]);
}

#[test]
fn a_search_by_uid_that_is_forbidden_names_list_and_the_way_around_it() {
    let world = injected();
    world.cluster.authorize(Access::to(&["watch"]));
    let Some(proa) = mounted(&world, "main", "node-7") else { return };
    proa.run(["true"]).expect(77, &["verbs: [\"list\"]", "POD_NAME"]);
}

#[test]
fn a_given_name_of_another_pod_is_refused() {
    let world = injected();
    let Some(proa) = mounted(&world, "main", "pod") else { return };
    let own = world.uid();
    world.update(|pod| pod.metadata.uid = Some("00000000-52ce-4f2a-9d0b-0a8e6a4cf2d1".into()));
    let proa = proa.env("POD_NAME", "pod");
    proa.run(["true"]).expect(2, &["default/pod", "00000000-52ce", &own, "POD_NAME"]);
}

#[test]
fn a_pod_that_does_not_exist_is_refused() {
    let world = World::alone();
    world.proa().flag("--pod-name=absent").run(["true"]).expect(2, &["no Pod `default/absent`", "POD_NAME"]);
    assert!(world.termination_message().contains("default/absent"));
}

#[test]
fn the_only_container_is_ours_and_of_two_one_must_be_named() {
    let world = World::alone();
    world.proa().without("PROA_CONTAINER").run(["true"]).expect(0, &["container `main`"]);
    let world = World::with("Never", &[Beside::Regular("web")]);
    world
        .proa()
        .without("PROA_CONTAINER")
        .flag("--shutdown-when=never")
        .run(["true"])
        .expect(2, &["`web`, `main`", "--container"]);
    world
        .proa()
        .env("PROA_CONTAINER", "mian")
        .flag("--shutdown-when=never")
        .run(["true"])
        .expect(2, &["no container `mian`", "`web`, `main`"]);
}
