//! The table of well-known sidecars, one row each.

use super::{Enabling, End, Endpoint, Known, Needs, Off, Ready, Setting, Traffic};
use crate::endpoint::Method;

const fn on(port: u16, path: &'static str, moved_by: &'static [Setting]) -> Endpoint {
    Endpoint { port, injected: None, moved_by, path, path_by: &[], headers: &[] }
}

/// Where the agents of Vault and `OpenBao` are asked to stop.
const fn agent(port_by: &'static [Setting]) -> Endpoint {
    Endpoint { headers: &[("X-Vault-Request", "true")], ..on(8200, "/agent/v1/quit", port_by) }
}

pub(super) const NO_QUIT: &str =
    "no quit endpoint; --kill stops its process where shareProcessNamespace is true";
/// For programs that SIGTERM kills, which is a failure to the Pod.
const NO_QUIT_143: &str = "no quit endpoint; run it under `proa sidecar`: with --kill it exits with 143";
const NO_QUIT_OR_2: &str =
    "no quit endpoint; --kill stops its process, with exit code 2 if connections are open";
const ENVOY_ADMIN: &str = "an admin listener on this port";

/// What no manifest shows.
const fn configured(text: &'static str) -> Needs {
    Needs { text, enabled_by: &[], off: Off::Unseen, hidden_in: &[] }
}

/// What the agents of Vault and `OpenBao` need; their injector marks the Pods that it has changed.
const fn agent_quit(
    text: &'static str,
    enabled_by: &'static [Enabling],
    injected: &'static str,
    hidden_in: &'static [Setting],
) -> Needs {
    Needs { text, enabled_by, off: Off::Annotated(injected, "injected"), hidden_in }
}

/// What Google's database proxies need.
const fn quitquitquit(enabled_by: &'static [Enabling], hidden_in: &'static [Setting]) -> Needs {
    Needs { text: "--quitquitquit", enabled_by, off: Off::ByImage, hidden_in }
}

const ISTIO_PORT: &[Setting] = &[
    Setting::Annotation("status.sidecar.istio.io/port"),
    Setting::InAnnotation("proxy.istio.io/config", "statusPort"),
    Setting::InVariable("PROXY_CONFIG", "statusPort"),
];
const LINKERD_PORT: &[Setting] = &[
    Setting::Variable("LINKERD2_PROXY_ADMIN_LISTEN_ADDR"),
    Setting::Annotation("config.linkerd.io/admin-port"),
];
const APP_MESH_PORT: &[Setting] = &[Setting::Variable("ENVOY_ADMIN_ACCESS_PORT")];
const ENVOY_PROBE: &[Setting] = &[Setting::Probe("/ready")];
const CONSUL_ADMIN_PORT: &[Setting] =
    &[Setting::Flag("envoy-admin-bind-port"), Setting::Variable("DP_ENVOY_ADMIN_BIND_PORT")];
const CONSUL_QUIT_PORT: &[Setting] = &[
    Setting::Flag("graceful-port"),
    Setting::Variable("DP_GRACEFUL_PORT"),
    Setting::Annotation("consul.hashicorp.com/sidecar-proxy-lifecycle-graceful-port"),
];
const CONSUL_QUIT_PATH: &[Setting] = &[
    Setting::Flag("graceful-shutdown-path"),
    Setting::Variable("DP_GRACEFUL_SHUTDOWN_PATH"),
    Setting::Annotation("consul.hashicorp.com/sidecar-proxy-lifecycle-graceful-shutdown-path"),
];
const KUMA_PORT: &[Setting] = &[Setting::Variable("KUMA_READINESS_PORT"), Setting::Probe("/ready")];
const DAPR_PORT: &[Setting] = &[Setting::Flag("dapr-http-port")];

/// A sidecar whose entrypoint is `proa sidecar`. It stands in no table, since it needs no look-up.
pub(super) static WRAPPED: Known = Known {
    name: "proa-sidecar",
    title: "proa sidecar",
    containers: &[],
    images: &[],
    ready: Ready::KubernetesAlone,
    end: End::Peer,
    traffic: Traffic::Own,
    native: None,
    source: "src/mode/sidecar.rs",
};

/// Every sidecar that proa knows. Where two would match, the first does.
pub static SIDECARS: [Known; 19] = [
    Known {
        name: "istio",
        title: "Istio",
        containers: &["istio-proxy"],
        images: &["proxyv2"],
        ready: Ready::Kubernetes(on(15020, "/healthz/ready", ISTIO_PORT), None),
        end: End::Ask(Method::Post, on(15020, "/quitquitquit", ISTIO_PORT), None),
        traffic: Traffic::Pod,
        native: Some("by default since 1.27 on Kubernetes 1.33; annotation sidecar.istio.io/nativeSidecar"),
        source: "github.com/istio/istio 1.31.0-rc.0 pilot/cmd/pilot-agent/{status,config}",
    },
    Known {
        name: "linkerd",
        title: "Linkerd",
        containers: &["linkerd-proxy"],
        images: &["linkerd/proxy"],
        ready: Ready::Kubernetes(on(4191, "/ready", LINKERD_PORT), None),
        end: End::Ask(
            Method::Post,
            on(4191, "/shutdown", LINKERD_PORT),
            Some(Needs {
                text: "annotation config.linkerd.io/proxy-admin-shutdown: enabled",
                enabled_by: &[
                    Enabling::Bool(Setting::Variable("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED")),
                    Enabling::Word(Setting::Annotation("config.linkerd.io/proxy-admin-shutdown"), "enabled"),
                ],
                off: Off::Default,
                hidden_in: &[],
            }),
        ),
        traffic: Traffic::Pod,
        native: Some("by default since 2.20 (edge-26.5.2); config.linkerd.io/proxy-enable-native-sidecar"),
        source: "github.com/linkerd/linkerd2 edge-26.8.3 pkg/k8s/labels.go",
    },
    Known {
        name: "consul-dataplane",
        title: "Consul dataplane",
        containers: &["consul-dataplane"],
        images: &["consul-dataplane"],
        ready: Ready::Kubernetes(on(19000, "/ready", CONSUL_ADMIN_PORT), None),
        end: End::Ask(
            Method::Post,
            Endpoint {
                injected: Some(20600),
                path_by: CONSUL_QUIT_PATH,
                ..on(20300, "/graceful_shutdown", CONSUL_QUIT_PORT)
            },
            None,
        ),
        traffic: Traffic::Pod,
        native: Some("with annotation consul.hashicorp.com/enable-consul-dataplane-as-sidecar: \"true\""),
        source: "hashicorp/consul-dataplane v2.0.1 cmd/consul-dataplane; hashicorp/consul-k8s v2.0.3",
    },
    Known {
        name: "kuma",
        title: "Kuma",
        containers: &["kuma-sidecar"],
        images: &["kuma-dp"],
        ready: Ready::Kubernetes(on(9902, "/ready", KUMA_PORT), None),
        end: End::AfterOthers("the control plane"),
        traffic: Traffic::Pod,
        native: Some("by default since 2.14, always in 3.0"),
        source: "github.com/kumahq/kuma v2.14.3 and UPGRADE.md for 3.0",
    },
    Known {
        name: "envoy",
        title: "Envoy",
        containers: &["envoy"],
        images: &["envoy", "envoy-alpine", "envoy-contrib", "envoy-dev", "envoy-distroless"],
        ready: Ready::Kubernetes(on(9901, "/ready", ENVOY_PROBE), None),
        end: End::Ask(Method::Post, on(9901, "/quitquitquit", ENVOY_PROBE), Some(configured(ENVOY_ADMIN))),
        traffic: Traffic::Pod,
        native: None,
        source: "envoyproxy.io/docs/envoy/latest/operations/admin",
    },
    Known {
        name: "app-mesh",
        title: "AWS App Mesh",
        containers: &[],
        images: &["aws-appmesh-envoy"],
        ready: Ready::Kubernetes(on(9901, "/ready", APP_MESH_PORT), None),
        end: End::Ask(Method::Post, on(9901, "/quitquitquit", APP_MESH_PORT), None),
        traffic: Traffic::Pod,
        native: None,
        source: "docs.aws.amazon.com/app-mesh/latest/userguide/envoy-config.html",
    },
    Known {
        name: "cloud-sql-proxy",
        title: "Cloud SQL Auth Proxy",
        containers: &["cloud-sql-proxy"],
        images: &["cloud-sql-proxy"],
        ready: Ready::Kubernetes(
            on(9090, "/readiness", &[Setting::Flag("http-port"), Setting::Variable("CSQL_PROXY_HTTP_PORT")]),
            Some("--health-check"),
        ),
        end: End::Ask(
            Method::Post,
            on(
                9091,
                "/quitquitquit",
                &[Setting::Flag("admin-port"), Setting::Variable("CSQL_PROXY_ADMIN_PORT")],
            ),
            Some(quitquitquit(
                &[
                    Enabling::Bool(Setting::Flag("quitquitquit")),
                    Enabling::Bool(Setting::Variable("CSQL_PROXY_QUITQUITQUIT")),
                ],
                &[Setting::Flag("config-file"), Setting::Variable("CSQL_PROXY_CONFIG_FILE")],
            )),
        ),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/GoogleCloudPlatform/cloud-sql-proxy v2.27.0 cmd/root.go, README.md",
    },
    Known {
        name: "cloud-sql-proxy-v1",
        title: "Cloud SQL proxy v1",
        containers: &[],
        images: &["gce-proxy"],
        ready: Ready::Kubernetes(
            on(8090, "/readiness", &[Setting::Flag("health_check_port")]),
            Some("-use_http_health_check"),
        ),
        end: End::Cannot(NO_QUIT_OR_2),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/GoogleCloudPlatform/cloud-sql-proxy v1.38.3 cmd/cloud_sql_proxy",
    },
    Known {
        name: "alloydb-auth-proxy",
        title: "AlloyDB Auth Proxy",
        containers: &["alloydb-auth-proxy", "alloydb-proxy"],
        images: &["alloydb-auth-proxy"],
        ready: Ready::Kubernetes(
            on(
                9090,
                "/readiness",
                &[Setting::Flag("http-port"), Setting::Variable("ALLOYDB_PROXY_HTTP_PORT")],
            ),
            Some("--health-check"),
        ),
        end: End::Ask(
            Method::Post,
            on(
                9091,
                "/quitquitquit",
                &[Setting::Flag("admin-port"), Setting::Variable("ALLOYDB_PROXY_ADMIN_PORT")],
            ),
            Some(quitquitquit(
                &[
                    Enabling::Bool(Setting::Flag("quitquitquit")),
                    Enabling::Bool(Setting::Variable("ALLOYDB_PROXY_QUITQUITQUIT")),
                ],
                &[Setting::Flag("config-file"), Setting::Variable("ALLOYDB_PROXY_CONFIG_FILE")],
            )),
        ),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/GoogleCloudPlatform/alloydb-auth-proxy cmd/root.go",
    },
    Known {
        name: "dapr",
        title: "Dapr",
        containers: &["daprd"],
        images: &["dapr/daprd", "daprio/daprd"],
        ready: Ready::AfterApplication(on(3500, "/v1.0/healthz/outbound", DAPR_PORT)),
        end: End::Ask(Method::Post, on(3500, "/v1.0/shutdown", DAPR_PORT), None),
        traffic: Traffic::Own,
        native: Some("since 1.18 with annotation dapr.io/enable-native-sidecar: \"true\""),
        source: "github.com/dapr/dapr v1.18.3 pkg/api/http/shutdown.go, pkg/injector/annotations",
    },
    Known {
        name: "vault-agent",
        title: "Vault Agent",
        containers: &["vault-agent"],
        images: &[],
        ready: Ready::KubernetesAlone,
        end: End::Ask(
            Method::Post,
            agent(&[Setting::Annotation("vault.hashicorp.com/agent-cache-listener-port")]),
            Some(agent_quit(
                "annotation vault.hashicorp.com/agent-enable-quit: \"true\"",
                &[Enabling::Bool(Setting::Annotation("vault.hashicorp.com/agent-enable-quit"))],
                "vault.hashicorp.com/agent-inject-status",
                &[Setting::Annotation("vault.hashicorp.com/agent-configmap")],
            )),
        ),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/hashicorp/vault-k8s v1.7.6 agent-inject/agent",
    },
    Known {
        name: "openbao-agent",
        title: "OpenBao Agent",
        containers: &["openbao-agent"],
        images: &[],
        ready: Ready::KubernetesAlone,
        end: End::Ask(
            Method::Post,
            agent(&[Setting::Annotation("openbao.org/agent-cache-listener-port")]),
            Some(agent_quit(
                "annotation openbao.org/agent-enable-quit: \"true\"",
                &[Enabling::Bool(Setting::Annotation("openbao.org/agent-enable-quit"))],
                "openbao.org/agent-inject-status",
                &[Setting::Annotation("openbao.org/agent-configmap")],
            )),
        ),
        traffic: Traffic::Own,
        native: None,
        source: "openbao/openbao-k8s v1.4.0 agent-inject/agent; openbao/openbao v2.6.0-beta20260622",
    },
    Known {
        name: "otel-collector",
        title: "OpenTelemetry Collector",
        containers: &["otc-container", "otel-collector", "opentelemetry-collector"],
        images: &[
            "opentelemetry-collector",
            "opentelemetry-collector-contrib",
            "opentelemetry-collector-k8s",
        ],
        ready: Ready::Kubernetes(on(13133, "/", &[]), Some("the health_check extension")),
        end: End::Cannot(NO_QUIT),
        traffic: Traffic::Own,
        native: Some("by its operator since 0.132, on Kubernetes 1.29"),
        source: "open-telemetry/opentelemetry-operator v0.158.0 pkg/sidecar/pod.go, CHANGELOG.md",
    },
    Known {
        name: "fluent-bit",
        title: "Fluent Bit",
        containers: &["fluent-bit"],
        images: &["fluent-bit", "aws-for-fluent-bit"],
        ready: Ready::Kubernetes(on(2020, "/api/v1/health", &[]), Some("http_server and health_check")),
        end: End::Cannot(NO_QUIT),
        traffic: Traffic::Own,
        native: None,
        source: "docs.fluentbit.io/manual/administration/monitoring",
    },
    Known {
        name: "fluentd",
        title: "Fluentd",
        containers: &["fluentd"],
        images: &["fluentd", "fluentd-kubernetes-daemonset"],
        ready: Ready::Kubernetes(
            on(24220, "/api/plugins.json", &[]),
            Some("a source of @type monitor_agent"),
        ),
        end: End::Ask(
            Method::Get,
            on(24444, "/api/processes.flushBuffersAndKillWorkers", &[]),
            Some(configured("<system> rpc_endpoint 127.0.0.1:24444")),
        ),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/fluent/fluentd v1.19.3 lib/fluent/{supervisor,plugin/in_monitor_agent}.rb",
    },
    Known {
        name: "gke-gcsfuse",
        title: "GKE Cloud Storage FUSE",
        containers: &["gke-gcsfuse-sidecar"],
        images: &["gcs-fuse-csi-driver-sidecar-mounter"],
        ready: Ready::KubernetesAlone,
        end: End::AfterOthers("the CSI driver"),
        traffic: Traffic::Own,
        native: Some("since GKE 1.29.3-gke.1093000"),
        source: "GoogleCloudPlatform/gcs-fuse-csi-driver v1.24.4 docs/known-issues.md, pkg/webhook",
    },
    Known {
        name: "aws-sigv4-proxy",
        title: "AWS SigV4 Proxy",
        containers: &["aws-sigv4-proxy"],
        images: &["aws-sigv4-proxy"],
        ready: Ready::KubernetesAlone,
        end: End::Cannot(NO_QUIT_143),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/awslabs/aws-sigv4-proxy v1.11.1 cmd/aws-sigv4-proxy/main.go",
    },
    Known {
        name: "aws-es-proxy",
        title: "aws-es-proxy",
        containers: &["aws-es-proxy"],
        images: &["aws-es-proxy"],
        ready: Ready::KubernetesAlone,
        end: End::Cannot(NO_QUIT_143),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/abutaha/aws-es-proxy v1.5 aws-es-proxy.go",
    },
    Known {
        name: "pgadapter",
        title: "PGAdapter",
        containers: &["pgadapter"],
        images: &["pgadapter"],
        ready: Ready::KubernetesAlone,
        end: End::Cannot(NO_QUIT_143),
        traffic: Traffic::Own,
        native: None,
        source: "github.com/GoogleCloudPlatform/pgadapter v0.40.0 ProxyServer.java, build/startup.sh",
    },
];
