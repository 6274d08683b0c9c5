"""The ground the other scenarios stand on: Kubernetes without proa does what they take for granted."""

from suite.scenario import KILLED, in_order, scenario


@scenario
def a_plain_job_completes(t):
    """A plain Job completes."""
    t.apply("""
apiVersion: batch/v1
kind: Job
metadata: {name: hello}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: busybox
        command: [sh, -c, "echo hello; echo farewell > /dev/termination-log"]
""")
    assert t.job("hello").complete
    pod = t.pod_of("hello", lambda pod: pod.finished)
    assert pod.exit_codes() == {"main": 0}
    assert pod.container("main").message == "farewell\n"
    assert t.logs(pod.name, "main") == "hello\n"


@scenario
def a_job_with_a_sidecar_hangs(t):
    """A Job whose sidecar never ends never completes: the problem that proa solves."""
    t.apply("""
apiVersion: batch/v1
kind: Job
metadata: {name: stuck}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: busybox, command: ["true"]}
      - {name: sidecar, image: busybox, command: [sleep, "1000000"]}
""")

    def half_over(pod):
        return pod.container("main").ended and pod.container("sidecar").running

    pod = t.pod_of("stuck", half_over, "to have only its sidecar left")
    assert pod.phase == "Running"
    assert not t.job("stuck", lambda job: True).finished


@scenario
def a_native_sidecar_is_ended_by_the_kubelet(t):
    """A native sidecar gets SIGTERM from the kubelet once main is over, and its Pod succeeds."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: native}
spec:
  restartPolicy: Never
  initContainers:
  - name: sidecar
    image: busybox
    restartPolicy: Always
    command: [sh, -c, "trap 'echo asked to stop; exit 0' TERM; echo up; while :; do sleep 0.1; done"]
  containers:
  - {name: main, image: busybox, command: [sh, -c, "echo working"]}
""")
    pod = t.finished("native")
    assert pod.phase == "Succeeded", pod
    in_order(t.timeline("native"), "sidecar: up", "main: working", "sidecar: asked to stop")


@scenario
def processes_are_shared_where_the_pod_says_so(t):
    """With shareProcessNamespace one container can signal another's processes."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  shareProcessNamespace: true
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "until pid=$(pidof httpd); do sleep 0.1; done; kill -TERM $pid; exit 3"]
  - {name: sidecar, image: busybox, command: [httpd, -f, -p, "8080"]}
""")
    assert t.finished("shared").exit_codes() == {"main": 3, "sidecar": 143}


@scenario
def memory_limits_are_enforced(t):
    """A container over its memory limit is killed: 137, and OOMKilled as a rule."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    resources: {limits: {memory: 20Mi}}
    command: [sh, -c, "x=x; while :; do x=$x$x; done"]
""")
    main = t.finished("greedy").container("main")
    # containerd hears of the want of memory by another way than of the exit, and on a busy machine perhaps later.
    assert main.reason in ("OOMKilled", "Error") and main.exit_code == 137, main


@scenario
def pods_reach_the_api(t):
    """A Pod reaches the API with its service account token, and may do what its Role says."""
    t.grant("list")
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: python
    args:
    - -c
    - |
      import os, ssl, urllib.error, urllib.request
      account = "/var/run/secrets/kubernetes.io/serviceaccount/"
      token, namespace = (open(account + name).read() for name in ("token", "namespace"))
      context = ssl.create_default_context(cafile=account + "ca.crt")
      for resource in ("pods", "secrets"):
          url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}/api/v1/namespaces/{namespace}/{resource}"
          request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
          try:
              print(resource, urllib.request.urlopen(request, context=context).status)
          except urllib.error.HTTPError as error:
              print(resource, error.code)
""")
    t.finished("client")
    assert t.logs("client", "main") == "pods 200\nsecrets 403\n"


@scenario
def deletion_sends_sigterm(t):
    """Deleting a Pod sends SIGTERM and waits for its grace period, and exec works until then."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: lasting}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"]
""")
    t.logged("lasting", "main", "ready")
    assert t.exec("lasting", "main", "cat", stdin="echoed").stdout == "echoed"
    assert t.exec("lasting", "main", "sh", "-c", "exit 4").returncode == 4
    t.delete("lasting")
    assert t.gone("lasting").container("main").exit_code == 9


@scenario
def an_exec_that_ends_its_container(t):
    """A command of kubectl exec whose container it ends is killed with it, and reported so."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: brief}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "echo up; until [ -e /tmp/over ]; do sleep 0.1; done; exit 5"]
""")
    t.logged("brief", "main", "up")
    assert t.exec("brief", "main", "sh", "-c", "touch /tmp/over; sleep 60").returncode == KILLED
    assert t.finished("brief").exit_codes() == {"main": 5}


@scenario(alone=True, one_node=True)
def pods_survive_restarts_of_the_daemons(t):
    """Restarting kubelet, API server and etcd neither ends nor restarts a Pod's containers."""
    t.apply("""
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "echo up; until [ -e /tmp/over ]; do sleep 0.1; done; exit 5"]
""")
    t.logged("steady", "main", "up")
    for daemon in ("kubelet", "apiserver", "etcd"):
        t.node.restart(daemon, now=True)
    # An API server whose etcd was killed may refuse the first.
    t.touch("steady", "main", "/tmp/over", seconds=60)
    main = t.finished("steady").container("main")
    assert (main.exit_code, main.restarts) == (5, 0)
