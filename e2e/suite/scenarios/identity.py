"""proa knows its own Pod and container, wherever Kubernetes hides them."""

from suite.pieces import ENVOY, QUIT, container, job, main, pod, shell
from suite.scenario import scenario


@scenario
def a_hostname_of_the_pods_own(t):
    """With spec.hostname proa finds its Pod by UID where it may list, and by POD_NAME where it may not."""
    t.grant("watch", "list")
    t.apply(pod("renamed", main("exit 0"), hostname="somebody-else"))
    assert t.finished("renamed").exit_codes() == {"main": 0}


@scenario
def the_downward_api_saves_a_right(t):
    """With POD_NAME from the downward API `watch` is enough under any hostname."""
    t.grant("watch")
    env = "env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"
    t.apply(pod("renamed", main("exit 0", more=env), hostname="somebody-else"))
    assert t.finished("renamed").exit_codes() == {"main": 0}
    t.apply(pod("unnamed", main("exit 0"), hostname="somebody-else"))
    main_ = t.finished("unnamed").container("main")
    assert main_.exit_code == 77 and "POD_NAME" in main_.message, main_


@scenario
def the_nodes_own_network(t):
    """With hostNetwork, where the hostname is the node's, proa finds its Pod by UID."""
    t.grant("watch", "list")
    t.apply(pod("host", main("exit 0"), hostNetwork="true"))
    assert t.finished("host").exit_codes() == {"main": 0}


@scenario
def a_qualified_hostname(t):
    """With setHostnameAsFQDN the hostname is not the Pod's name, and the Pod is found all the same."""
    t.grant("watch", "list")
    t.apply(pod("qualified", main("exit 0"), setHostnameAsFQDN="true", subdomain="jobs"))
    assert t.finished("qualified").exit_codes() == {"main": 0}


@scenario
def a_name_longer_than_a_hostname(t):
    """A Pod whose name is cut in its hostname is found by UID."""
    t.grant("watch", "list")
    name = "a-name-that-is-a-good-deal-longer-than-the-sixty-three-characters-that-a-hostname-may-have"
    t.apply(pod(name, main("exit 0")))
    assert t.finished(name).exit_codes() == {"main": 0}


@scenario
def a_service_account_at_another_place(t):
    """A projected token at a path of the user's own is found with --service-account-dir."""
    t.grant("watch")
    sources = "[{serviceAccountToken: {path: token, expirationSeconds: 600}}, {configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}}, {downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}}]"
    mount = "volumeMounts: [{name: account, mountPath: /account, readOnly: true}]"
    t.apply(pod("projected", main("exit 0", "--service-account-dir=/account", more=mount), automountServiceAccountToken="false", volumes="[{name: account, projected: {sources: " + sources + "}}]"))
    assert t.finished("projected").exit_codes() == {"main": 0}


@scenario
def no_service_account_at_all(t):
    """Without a token proa ends with 2 and says how to mount one."""
    t.apply(pod("bare", main("echo never"), automountServiceAccountToken="false"))
    main_ = t.finished("bare").container("main")
    assert main_.exit_code == 2 and "automountServiceAccountToken" in main_.message, main_


@scenario
def a_termination_message_at_another_place(t):
    """terminationMessagePath is found from the kubelet's mounts."""
    more = "terminationMessagePath: /tmp/last words"
    t.apply(pod("elsewhere", main("echo never", more=more)))
    main_ = t.finished("elsewhere").container("main")
    assert main_.exit_code == 77 and "pods" in main_.message, main_


@scenario
def a_stateful_sets_pod_that_is_made_anew(t):
    """A Pod made anew under the same name is not mistaken for the one before it."""
    t.grant("watch")
    for code in (3, 4):
        t.apply(pod("web-0", ENVOY, main(f"exit {code}", QUIT)))
        found = t.pod("web-0", lambda pod: pod.finished and pod.exit_codes()["main"] == code)
        assert found.exit_codes() == {"envoy": 0, "main": code}
        t.delete("web-0", grace=0)
        t.gone("web-0")
