"""Rights, tokens and names: as little as possible is enough, and what is wrong is said."""

import re
import ssl
import textwrap
import urllib.error
import urllib.request

from onenode.layout import E2E
from suite.pieces import ENVOY, MOUNT, QUIT, READY_FILE, STATE, main, pod, shell
from suite.scenario import scenario


@scenario
def a_role_for_one_pod_alone(t):
    """A Role that names the one Pod is enough: the watch is by name."""
    t.apply("""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: granted}
rules:
- {apiGroups: [""], resources: [pods], resourceNames: [chosen], verbs: [watch]}
""")
    t.kubectl("create", "rolebinding", "granted", "--role=granted", f"--serviceaccount={t.namespace}:default")
    t.apply(pod("chosen", main("exit 3", QUIT), ENVOY))
    assert t.finished("chosen").exit_codes() == {"main": 3, "envoy": 0}


@scenario
def the_role_that_the_security_page_has_shows_one_pod_alone(t):
    """The Role of docs/security.md is enough for a StatefulSet's first Pod, and with its token no other Pod can be read."""
    page = (E2E.parent / "docs/security.md").read_text()
    rules = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "resourceNames" in block)
    t.apply("apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: granted}\n" + textwrap.dedent(rules))
    t.kubectl("create", "rolebinding", "granted", "--role=granted", f"--serviceaccount={t.namespace}:default")
    t.apply(pod("other", shell("main", "sleep 1000"), terminationGracePeriodSeconds="1"))
    t.apply(pod("web-0", main("echo working; until [ -e /tmp/over ]; do sleep 0.1; done; exit 3", QUIT), ENVOY))
    t.logged("web-0", "main", "working")
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    token, authority = (t.exec("web-0", "main", "cat", f"{account}/{file}").stdout for file in ("token", "ca.crt"))
    server = t.kubectl("config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")

    def status(path):
        url = f"{server}/api/v1/namespaces/{t.namespace}/pods{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token.strip()}"})
        try:
            with urllib.request.urlopen(request, context=ssl.create_default_context(cadata=authority), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    watch, named = "?watch=1&timeoutSeconds=10&resourceVersion=0", "&fieldSelector=metadata.name%3D"
    code, events = status(f"{watch}{named}web-0")
    assert code == 200 and '"name":"web-0"' in events and '"name":"other"' not in events, events
    for path in (f"{watch}{named}other", watch, "", "/web-0", "/other", f"?x=1{named}web-0", f"/web-0/log"):
        assert status(path)[0] == 403, path
    t.touch("web-0", "main", "/tmp/over")
    assert t.finished("web-0").exit_codes() == {"main": 3, "envoy": 0}


@scenario
def rights_that_are_taken_away(t):
    """Rights that are taken away while the command runs change nothing about its exit code, and Envoy is ended."""
    t.grant("watch")
    t.apply(pod("deprived", main("echo working; until [ -e /tmp/over ]; do sleep 0.1; done; exit 6", QUIT), ENVOY))
    t.logged("deprived", "main", "working")
    t.kubectl("delete", "rolebinding", "granted")
    t.touch("deprived", "main", "/tmp/over")
    assert t.finished("deprived").exit_codes() == {"main": 6, "envoy": 0}


@scenario
def a_token_for_somebody_else(t):
    """A token made out to another audience leads to 77, and the message is about the token."""
    t.grant("watch")
    _projected(t, "foreign", "{path: token, audience: vault}", "kube-root-ca.crt")
    main_ = t.finished("foreign").container("main")
    assert main_.exit_code == 77 and "token" in main_.message, main_


@scenario
def an_authority_that_signed_nothing_here(t):
    """A CA that did not sign the API server's certificate is named when time runs out."""
    t.grant("watch")
    script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=stranger -days 1"
    import subprocess

    stranger = subprocess.run(script.split(), capture_output=True, text=True, check=True).stdout
    t.kubectl("create", "configmap", "stranger", f"--from-literal=ca.crt={stranger}")
    _projected(t, "unknown", "{path: token}", "stranger", "--ready-timeout=3s")
    main_ = t.finished("unknown").container("main")
    assert main_.exit_code == 75 and "certificate" in main_.message.lower(), main_


def _projected(t, name, token, authority, *flags):
    volume = f"""
  - name: account
    projected:
      sources:
      - serviceAccountToken: {token}
      - configMap: {{name: {authority}, items: [{{key: ca.crt, path: ca.crt}}]}}
      - downwardAPI: {{items: [{{path: namespace, fieldRef: {{fieldPath: metadata.namespace}}}}]}}"""
    mount = "volumeMounts: [{name: account, mountPath: /account}]"
    command = main("echo never", "--service-account-dir=/account", *flags, more=mount)
    t.apply(pod(name, command, automountServiceAccountToken="false", volumes=volume))


@scenario
def a_hostname_that_is_another_pods_name(t):
    """A hostname that is the name of another Pod, whose sidecars are ready, does not lead proa astray."""
    t.grant("watch", "list")
    t.apply(pod("decoy", shell("web", "touch /tmp/ready; while :; do sleep 0.1; done", READY_FILE), shell("main", "sleep 1000"), terminationGracePeriodSeconds="1"))
    t.pod("decoy", lambda pod: pod.container("web").ready)
    slow = "sleep 4; echo ready; touch /tmp/ready; until [ -e /state/over ]; do sleep 0.1; done"
    own = shell("web", slow, f"{READY_FILE}\n{MOUNT}")
    t.apply(pod("own", main("echo working; touch /state/over", more=MOUNT), own, hostname="decoy", volumes=STATE))
    assert t.finished("own").exit_codes() == {"main": 0, "web": 0}
    lines = [str(line) for line in t.timeline("own")]
    assert lines.index("web: ready") < lines.index("main: working"), lines


@scenario
def a_needle_in_a_large_namespace(t):
    """Among more Pods than the API server lists at once, a Pod with another hostname is found by its UID."""
    t.grant("watch", "list")
    # Nothing schedules them, so that they cost nothing; the list is by name, and ours is the last.
    crowd = [pod(f"a-{number}", shell("main", "true"), schedulerName="nobody") for number in range(220)]
    t.apply("\n---\n".join(crowd))
    t.apply(pod("z", main("exit 3"), hostname="somebody-else"))
    assert t.finished("z", seconds=90).exit_codes() == {"main": 3}


@scenario
def a_hosts_file_of_the_users_own(t):
    """A user's own file over /etc/hosts, one of the mounts that proa knows its Pod by, does no harm."""
    t.grant("watch", "list")
    t.kubectl("create", "configmap", "hosts", "--from-literal=hosts=127.0.0.1 localhost")
    mount = "volumeMounts: [{name: hosts, mountPath: /etc/hosts, subPath: hosts}]"
    t.apply(pod("hosted", ENVOY, main("exit 3", QUIT, more=mount), hostname="somebody-else", volumes="[{name: hosts, configMap: {name: hosts}}]"))
    assert t.finished("hosted").exit_codes() == {"main": 3, "envoy": 0}


@scenario
def a_pod_name_that_is_wrong(t):
    """A POD_NAME that is not the Pod's ends with 2 and says how to set it, however many Pods there are."""
    t.grant("watch", "list")
    t.apply(pod("other", shell("main", "sleep 1000"), terminationGracePeriodSeconds="1"))
    for name, given in [("mistaken", "other"), ("missing", "no-such-pod")]:
        t.apply(pod(name, main("echo never", f"--pod-name={given}")))
    for name in ("mistaken", "missing"):
        main_ = t.finished(name).container("main")
        assert main_.exit_code == 2 and "metadata.name" in main_.message or "correct --pod-name" in main_.message, main_
