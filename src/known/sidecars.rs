//! The table of well-known sidecars, one row each.

use super::{End, Endpoint, Known, Ready, Setting, Traffic};
use crate::endpoint::Method;

const fn on(port: u16, path: &'static str, moved_by: &'static [Setting]) -> Endpoint {
    Endpoint { port, moved_by, path, headers: &[] }
}

pub(super) const NO_QUIT: &str =
    "no quit endpoint; --kill ends its process where shareProcessNamespace is true";
const ENVOY_ADMIN: &str = "an admin listener on this port";

const ISTIO_PORT: &[Setting] = &[Setting::Annotation("status.sidecar.istio.io/port")];
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
    source: "src/sidecar.rs",
};

/// Every sidecar that proa knows. Where two would match, the first does.
pub static SIDECARS: [Known; 14] = [
    Known {
        name: "istio",
        title: "Istio",
        containers: &["istio-proxy"],
        images: &["proxyv2"],
        ready: Ready::Kubernetes(on(15020, "/healthz/ready", ISTIO_PORT), None),
        end: End::Ask(Method::Post, on(15020, "/quitquitquit", ISTIO_PORT), None),
        traffic: Traffic::Pod,
        source: "github.com/istio/istio pilot/cmd/pilot-agent/status/server.go",
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
            Some("annotation config.linkerd.io/proxy-admin-shutdown: enabled"),
        ),
        traffic: Traffic::Pod,
        source: "linkerd.io/2-edge/reference/proxy-configuration",
    },
    Known {
        name: "consul-dataplane",
        title: "Consul dataplane",
        containers: &["consul-dataplane"],
        images: &["consul-dataplane"],
        ready: Ready::Kubernetes(on(19000, "/ready", CONSUL_ADMIN_PORT), None),
        end: End::Ask(Method::Post, on(20600, "/graceful_shutdown", CONSUL_QUIT_PORT), None),
        traffic: Traffic::Pod,
        source: "developer.hashicorp.com/consul/docs/k8s/annotations-and-labels",
    },
    Known {
        name: "kuma",
        title: "Kuma",
        containers: &["kuma-sidecar"],
        images: &["kuma-dp"],
        ready: Ready::Kubernetes(on(9902, "/ready", KUMA_PORT), None),
        end: End::AfterOthers("the control plane"),
        traffic: Traffic::Pod,
        source: "kuma.io/docs/latest/reference/kubernetes-annotations",
    },
    Known {
        name: "envoy",
        title: "Envoy",
        containers: &["envoy"],
        images: &["envoy", "envoy-alpine", "envoy-contrib", "envoy-dev", "envoy-distroless"],
        ready: Ready::Kubernetes(on(9901, "/ready", ENVOY_PROBE), None),
        end: End::Ask(Method::Post, on(9901, "/quitquitquit", ENVOY_PROBE), Some(ENVOY_ADMIN)),
        traffic: Traffic::Pod,
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
            Some("--quitquitquit"),
        ),
        traffic: Traffic::Own,
        source: "github.com/GoogleCloudPlatform/cloud-sql-proxy README.md",
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
        end: End::Cannot(NO_QUIT),
        traffic: Traffic::Own,
        source: "github.com/GoogleCloudPlatform/cloud-sql-proxy v1.38.3",
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
            Some("--quitquitquit"),
        ),
        traffic: Traffic::Own,
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
        source: "docs.dapr.io/reference/api/health_api",
    },
    Known {
        name: "vault-agent",
        title: "Vault Agent",
        containers: &["vault-agent"],
        images: &[],
        ready: Ready::KubernetesAlone,
        end: End::Ask(
            Method::Post,
            Endpoint {
                port: 8200,
                moved_by: &[Setting::Annotation("vault.hashicorp.com/agent-cache-listener-port")],
                path: "/agent/v1/quit",
                headers: &[("X-Vault-Request", "true")],
            },
            Some("annotation vault.hashicorp.com/agent-enable-quit: \"true\""),
        ),
        traffic: Traffic::Own,
        source: "developer.hashicorp.com/vault/docs/agent-and-proxy/agent",
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
        source: "github.com/open-telemetry/opentelemetry-collector-contrib extension/healthcheckextension",
    },
    Known {
        name: "fluent-bit",
        title: "Fluent Bit",
        containers: &["fluent-bit"],
        images: &["fluent-bit", "aws-for-fluent-bit"],
        ready: Ready::Kubernetes(on(2020, "/api/v1/health", &[]), Some("http_server and health_check")),
        end: End::Cannot(NO_QUIT),
        traffic: Traffic::Own,
        source: "docs.fluentbit.io/manual/administration/monitoring",
    },
    Known {
        name: "gke-gcsfuse",
        title: "GKE Cloud Storage FUSE",
        containers: &["gke-gcsfuse-sidecar"],
        images: &["gcs-fuse-csi-driver-sidecar-mounter"],
        ready: Ready::KubernetesAlone,
        end: End::AfterOthers("the CSI driver"),
        traffic: Traffic::Own,
        source: "github.com/GoogleCloudPlatform/gcs-fuse-csi-driver docs/known-issues.md",
    },
];
