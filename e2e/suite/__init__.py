"""The end-to-end suite: real manifests on a real Kubernetes, asserted on by what the kubelet reports.

    scenario    the decorator, and the `t` that each scenario is handed
    observed    Pods and Jobs as the API reports them; read-only views
    watch       one kubectl watch per scenario and kind; waiting without polling
    kube        running kubectl
    images      builds and loads what manifests name
    runner      side by side, one line each, artefacts of failures
    scenarios   one file per promise
"""
