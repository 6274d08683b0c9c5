"""Jobs of every kind come to the end that Kubernetes promises for them."""

from onenode import wait
from suite.kube import Failed
from suite.pieces import ENVOY, QUIT, READY_FILE, UNTIL_TERM, job, main, shell
from suite.scenario import scenario


def _with(manifest, fields):
    """The Job with these further fields of its spec."""
    return manifest.replace("  template:", fields.strip("\n") + "\n  template:", 1)


@scenario
def an_indexed_jobs_retries(t):
    """An Indexed Job whose every index fails once completes, and every Pod's Envoy ends with its command."""
    t.grant("watch")
    # The Job controller gives such Pods a hostname without the random part of their names, hence POD_NAME.
    env = """
env:
- {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- name: FAILURES
  valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-index-failure-count']"}}
"""
    manifest = job("many", main('[ "$FAILURES" = 1 ]', QUIT, more=env), ENVOY)
    manifest = manifest.replace("  backoffLimit: 0\n", "")
    t.apply(_with(manifest, "  completionMode: Indexed\n  completions: 2\n  parallelism: 2\n  backoffLimitPerIndex: 1"))
    assert t.job("many", seconds=120).complete
    codes = [tuple(t.finished(pod.name).exit_codes().values()) for pod in t.pods_of("many")]
    assert sorted(codes) == [(0, 0), (0, 0), (1, 0), (1, 0)], codes


@scenario
def a_failed_sidecar_fails_the_job(t):
    """Where one of several sidecars fails for good, the others are ended too: the Job fails instead of hanging."""
    t.grant("watch")
    t.apply(job("work", main("echo never", QUIT), ENVOY, shell("web", "exit 3", READY_FILE)))
    assert t.job("work").failed
    pod = t.pod_of("work", lambda pod: pod.finished)
    assert pod.exit_codes() == {"main": 69, "envoy": 0, "web": 3}, pod


@scenario
def a_sidecar_that_is_late_is_no_failure_of_the_command(t):
    """A podFailurePolicy that ignores 75 has the Job try again with a new Pod, however small its backoffLimit."""
    t.grant("watch")
    policy = "  podFailurePolicy: {rules: [{action: Ignore, onExitCodes: {operator: In, values: [75]}}]}"
    late = job("work", main("echo never", QUIT, "--ready-timeout=1s"), ENVOY.replace("/ready", "/no-such-page"))
    t.apply(_with(late, policy))
    first = t.pod_of("work", lambda pod: pod.finished)
    assert first.exit_codes() == {"main": 75, "envoy": 0}, first
    t.pod_of("work", lambda pod: pod.name != first.name, "to be made anew")
    assert not t.job("work", lambda job: True).finished


@scenario
def a_job_that_is_suspended_and_resumed(t):
    """A Job that is suspended ends its Pod through the command's SIGTERM; resumed, it completes."""
    t.grant("watch")
    script = "trap 'echo saved; exit 9' TERM; echo working; [ -e /config/resumed ] && exit 0; while :; do sleep 0.1; done"
    volume = "[{name: config, configMap: {name: config, optional: true}}]"
    mount = "volumeMounts: [{name: config, mountPath: /config}]"
    t.apply(job("work", main(script, QUIT, more=mount), ENVOY, volumes=volume))
    first = t.pod_of("work", lambda pod: pod.container("main").running)
    t.logged(first.name, "main", "working")
    t.kubectl("patch", "job", "work", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    t.gone(first.name)
    ends = [pod.container("main").exit_code for pod in t.history(first.name)]
    assert ends[-1] == 9, ends
    t.kubectl("create", "configmap", "config", "--from-literal=resumed=yes")
    t.kubectl("patch", "job", "work", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    assert t.job("work").complete


@scenario
def a_job_of_a_cron_job_is_cleaned_up(t):
    """A Job made from a CronJob by hand completes beside its sidecar, and is cleaned up after its time to live."""
    t.grant("watch")
    t.apply("""
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      ttlSecondsAfterFinished: 10
      template:
        spec:
          restartPolicy: Never
          containers:
          - {name: main, image: app, args: ["--shutdown-http-post=http://localhost:9901/quitquitquit", --, "true"]}
          - name: envoy
            image: envoy
            args: [--log-level, error, --config-yaml, "{admin: {address: {socket_address: {address: 0.0.0.0, port_value: 9901}}}}"]
            readinessProbe: {periodSeconds: 1, httpGet: {path: /ready, port: 9901}}
""")
    t.kubectl("create", "job", "now", "--from=cronjob/nightly")
    assert t.job("now").complete

    def gone():
        try:
            t.kubectl("get", "job", "now")
        except Failed as error:
            return "NotFound" in str(error)

    wait.until("the Job to be cleaned up", gone, 60)


@scenario
def past_the_jobs_deadline_the_command_is_asked_to_end(t):
    """A Job past its activeDeadlineSeconds fails, and its command gets SIGTERM and its own time to end."""
    t.grant("watch")
    script = "trap 'echo saved; sleep 1; exit 9' TERM; echo working; while :; do sleep 0.1; done"
    t.apply(job("overdue", main(script), shell("web", UNTIL_TERM)))
    t.logged(t.pod_of("overdue").name, "main", "working")
    t.kubectl("patch", "job", "overdue", "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": 1}}')
    failed = t.job("overdue", lambda job: job.failed).failed
    assert failed["reason"] == "DeadlineExceeded", failed
    name = t.pods_of("overdue")[0].name
    t.gone(name)
    assert t.history(name)[-1].container("main").exit_code == 9, t.history(name)[-1]
