//! Probes: when they ask, what they ask, and when an answer counts.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

/// What a probe decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Purpose::Startup => "Startup",
            Purpose::Readiness => "Readiness",
            Purpose::Liveness => "Liveness",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// The command's arguments, the program first.
    Exec(Vec<String>),
    Http {
        host: String,
        port: u16,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        host: String,
        port: u16,
    },
}

impl Question {
    /// A probe's question, or none if it names a port the container does not have.
    pub(super) fn of(probe: &Probe, container: &Container) -> Option<Question> {
        if let Some(exec) = &probe.exec {
            return Some(Question::Exec(exec.command.clone().unwrap_or_default()));
        }
        if let Some(get) = &probe.http_get {
            return Question::of_http(get, container);
        }
        let socket = probe.tcp_socket.as_ref()?;
        Some(Question::Tcp { host: host(socket.host.as_ref()), port: port(&socket.port, container)? })
    }

    pub(super) fn of_http(get: &HTTPGetAction, container: &Container) -> Option<Question> {
        let path = get.path.clone().unwrap_or_default();
        Some(Question::Http {
            host: host(get.host.as_ref()),
            port: port(&get.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: get
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        })
    }

    /// Asks over the network; a command is the caller's to run.
    pub(super) async fn ask(&self, limit: Duration) -> Result<(), String> {
        let answer = async {
            match self {
                Question::Exec(_) => Ok(()),
                Question::Http { host, port, path, headers } => get(host, *port, path, headers).await,
                Question::Tcp { host, port } => TcpStream::connect((host.as_str(), *port))
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string()),
            }
        };
        timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }
}

fn host(given: Option<&String>) -> String {
    given.filter(|host| !host.is_empty()).map_or_else(|| "127.0.0.1".to_owned(), Clone::clone)
}

fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| Some(port.container_port))?
        }
    };
    u16::try_from(number).ok()
}

async fn get(host: &str, port: u16, path: &str, headers: &[(String, String)]) -> Result<(), String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driven = tokio::spawn(connection);
    let mut request = hyper::Request::get(path).header(USER_AGENT, "kube-probe/1.36");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(HOST.as_str())) {
        request = request.header(HOST, format!("{host}:{port}"));
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    driven.abort();
    let status = answer?.status();
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

/// A probe's numbers, with the defaults the API server fills in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    pub(super) success: u32,
    pub(super) failure: u32,
}

impl Pace {
    /// `second` is what a second of delay and period lasts.
    pub(super) fn of(probe: &Probe, second: Duration) -> Pace {
        let number = |given: Option<i32>, default: u32| {
            given
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .unwrap_or(default)
        };
        Pace {
            initial_delay: second * number(probe.initial_delay_seconds, 0),
            period: second * number(probe.period_seconds, 10),
            timeout: Duration::from_secs(number(probe.timeout_seconds, 1).into()),
            success: number(probe.success_threshold, 1),
            failure: number(probe.failure_threshold, 3),
        }
    }

    /// When to ask: first after the initial delay, then once each period.
    pub(super) fn ticks(self, since: Instant) -> Interval {
        // A period of nothing is no period; tests may shorten a second that far.
        let period = self.period.max(Duration::from_millis(1));
        let mut ticks = interval_at(since + self.initial_delay, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

/// How many answers of a kind came in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Threshold {
    last: Option<bool>,
    run: u32,
}

impl Threshold {
    /// Counts an answer; the verdict once there were enough of its kind.
    pub(super) fn count(&mut self, good: bool, pace: &Pace) -> Option<bool> {
        self.run = if self.last == Some(good) { self.run + 1 } else { 1 };
        self.last = Some(good);
        let enough = if good { pace.success } else { pace.failure };
        (self.run >= enough).then_some(good)
    }
}

/// Everything a prober needs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) purpose: Purpose,
    pub(super) question: Question,
    pub(super) pace: Pace,
    /// The grace of the kill that follows, where the probe sets its own.
    pub(super) grace: Option<Duration>,
}

impl Plan {
    /// The probes of a container; one that asks a port it does not have is left out, as it could never succeed.
    pub(super) fn all(container: &Container, second: Duration) -> Vec<Plan> {
        let probes = [
            (Purpose::Startup, &container.startup_probe),
            (Purpose::Readiness, &container.readiness_probe),
            (Purpose::Liveness, &container.liveness_probe),
        ];
        probes
            .into_iter()
            .filter_map(|(purpose, probe)| {
                let probe = probe.as_ref()?;
                let seconds =
                    probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
                Some(Plan {
                    purpose,
                    question: Question::of(probe, container)?,
                    pace: Pace::of(probe, second),
                    grace: seconds.map(Duration::from_secs),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    fn pace(success: u32, failure: u32) -> Pace {
        let probe = Probe {
            success_threshold: success.try_into().ok(),
            failure_threshold: failure.try_into().ok(),
            ..Probe::default()
        };
        Pace::of(&probe, Duration::from_secs(1))
    }

    #[test]
    fn defaults_are_those_of_the_api_server() {
        let pace = Pace::of(&Probe::default(), Duration::from_secs(1));
        assert_eq!((pace.initial_delay.as_secs(), pace.period.as_secs(), pace.timeout.as_secs()), (0, 10, 1));
        assert_eq!((pace.success, pace.failure), (1, 3));
    }

    #[test]
    fn a_verdict_takes_as_many_equal_answers_as_its_threshold() {
        let pace = pace(2, 3);
        let mut threshold = Threshold::default();
        let verdicts: Vec<Option<bool>> = [true, true, false, false, true, false, false, false]
            .into_iter()
            .map(|good| threshold.count(good, &pace))
            .collect();
        assert_eq!(verdicts, [None, Some(true), None, None, None, None, None, Some(false)]);
    }

    #[test]
    fn ports_can_be_named() {
        let ports = vec![ContainerPort {
            name: Some("admin".to_owned()),
            container_port: 9091,
            ..ContainerPort::default()
        }];
        let container = Container { ports: Some(ports), ..Container::default() };
        assert_eq!(port(&IntOrString::String("admin".to_owned()), &container), Some(9091));
        assert_eq!(port(&IntOrString::Int(80), &container), Some(80));
        assert_eq!(port(&IntOrString::String("none".to_owned()), &container), None);
    }
}
