//! From a manifest to Pods: a Pod's own, or those a Job makes one after another until one succeeds.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use tokio::task::AbortHandle;

use super::pod::{PodEnd, Worker};
use super::status::Phase;
use super::{JobEnd, Outcome, Stage};
use crate::event::What;
use crate::manifest::Workload;
use crate::random;
use crate::sync::lock;

/// What a Job allows without saying so.
const DEFAULT_BACKOFF_LIMIT: i32 = 6;

/// The longest delay between a Job's Pods, in multiples of the first: 10 s up to 10 minutes.
const DELAY_LIMIT: u32 = 60;

/// Creates the first Pod, and goes on in the background.
pub(super) fn begin(stage: &Arc<Stage>, workload: Workload) -> Option<AbortHandle> {
    let runtime = stage.cluster.runtime()?.clone();
    let entry = stage.registry.enter()?;
    let later = Arc::clone(stage);
    let task = match workload {
        Workload::Pod(pod) => {
            let worker = enter(stage, *pod, None);
            runtime.spawn(async move {
                let _entry = entry;
                let end = worker.run().await;
                settle(&later, Outcome::new(end, None));
                drop(later);
            })
        }
        Workload::Job(job) => {
            let plan = Plan::of(*job);
            let first = plan.enter(stage);
            runtime.spawn(async move {
                let _entry = entry;
                let (end, job_end) = plan.run(&later, first).await;
                let name = lock(&later.current).pod.clone();
                later.log.write(
                    &name,
                    match job_end {
                        JobEnd::Complete => What::JobComplete,
                        JobEnd::Failed => What::JobFailed,
                    },
                );
                settle(&later, Outcome::new(end, Some(job_end)));
                drop(later);
            })
        }
    };
    Some(task.abort_handle())
}

/// Creates a Pod and makes it the current one.
fn enter(stage: &Arc<Stage>, pod: Pod, restart_limit: Option<i32>) -> Worker {
    let pod = scheduled(pod);
    let key = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    {
        let mut current = lock(&stage.current);
        current.namespace = key.0.unwrap_or_else(|| "default".to_owned());
        current.pod = key.1.unwrap_or_default();
    }
    let worker = Worker::create(Arc::clone(stage), pod, restart_limit);
    lock(&stage.current).sender = Some(worker.sender());
    worker
}

fn settle(stage: &Stage, outcome: Outcome) {
    let mut current = lock(&stage.current);
    current.sender = None;
    current.outcome = Some(outcome);
    stage.settled.notify_all();
}

/// The Pod with what the API server and the scheduler fill in, as far as a client looks at it.
fn scheduled(mut pod: Pod) -> Pod {
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".to_owned());
    spec.service_account_name.get_or_insert_with(|| "default".to_owned());
    spec.node_name.get_or_insert_with(|| "localpod".to_owned());
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
        container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    }
    pod
}

/// What a Job makes its Pods from.
struct Plan {
    job: Job,
    uid: String,
    limit: i32,
}

impl Plan {
    fn of(job: Job) -> Plan {
        let limit = job.spec.as_ref().and_then(|spec| spec.backoff_limit).unwrap_or(DEFAULT_BACKOFF_LIMIT);
        Plan { job, uid: random::uid().unwrap_or_default(), limit }
    }

    fn enter(&self, stage: &Arc<Stage>) -> Worker {
        let pod = self.pod();
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        // With OnFailure it is the restarts within one Pod that count.
        let restart_limit = (policy == Some("OnFailure")).then_some(self.limit);
        enter(stage, pod, restart_limit)
    }

    fn pod(&self) -> Pod {
        let template = self.job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let job = self.job.metadata.name.clone().unwrap_or_default();
        let mut metadata = template.metadata.unwrap_or_default();
        metadata.name = Some(format!("{job}-{}", random::name_suffix().unwrap_or_default()));
        metadata.generate_name = Some(format!("{job}-"));
        metadata.namespace.clone_from(&self.job.metadata.namespace);
        let labels = metadata.labels.get_or_insert_default();
        for (label, value) in [("job-name", &job), ("controller-uid", &self.uid)] {
            labels.insert(label.to_owned(), value.clone());
            labels.insert(format!("batch.kubernetes.io/{label}"), value.clone());
        }
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            name: job,
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        Pod { metadata, spec: template.spec, status: None }
    }

    /// Follows each failed Pod with a new one, until one succeeds or too many have failed.
    async fn run(&self, stage: &Arc<Stage>, first: Worker) -> (PodEnd, JobEnd) {
        let mut worker = first;
        let mut failures = 0;
        let mut delay = stage.options.back_off;
        loop {
            let limited_within = worker.limits_restarts();
            let end = worker.run().await;
            if end.phase == Phase::Succeeded {
                return (end, JobEnd::Complete);
            }
            failures += 1;
            if end.deleted || limited_within || failures > self.limit || lock(&stage.current).deleted {
                return (end, JobEnd::Failed);
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(stage.options.back_off * DELAY_LIMIT).max(Duration::from_millis(1));
            if lock(&stage.current).deleted {
                return (end, JobEnd::Failed);
            }
            worker = self.enter(stage);
        }
    }
}
