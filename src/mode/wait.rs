//! `proa wait`: the gate alone, for init containers and probes. It takes nobody's place: it may run beside a proa in the same
//! container, so it announces nothing and shuts nothing down.

use tracing::info;

use super::inspector::Inspector;
use super::{own_pod, patient_runtime, ready_file, unable};
use crate::budget::StopRequests;
use crate::deadline::{now, until};
use crate::env_file;
use crate::exit::Outcome;
use crate::gate::verdict::Unready;
use crate::gate::waiting::{PodWait, Waiting};
use crate::gate::{self, Api, Refusal};
use crate::identity::Mounts;
use crate::plan::wait::WaitPlan;
use crate::pod::Snapshot;
use crate::shutdown::Sight;
use crate::signal::Phase;
use crate::signal::stream::{Listener, Signals};
use crate::status::board::Board;
use crate::status::{Quit, Server};
use crate::telemetry::LogPhase;

/// Carries the plan out.
#[must_use]
pub fn run(plan: &WaitPlan, mounts: &Mounts, signals: &Signals) -> Outcome {
    let _phase = LogPhase::Gate.enter();
    if plan.disabled {
        info!("disabled (PROA_DISABLED): proa waits for nothing");
    }
    let waited = || {
        let (mut asked, dispensable) = (StopRequests::default(), plan.api_is_dispensable());
        let mut own_pod = own_pod(&plan.claim, &plan.api, mounts, dispensable, &mut asked)?;
        // A probe's process is younger than its container, which nothing shows where containers share a PID namespace.
        if let Some(own_pod) = own_pod.as_mut().filter(|_| plan.gate.looks.once) {
            own_pod.identity.started = None;
        }
        let server = Server::bind(plan.status, Quit::None).map_err(Outcome::NoStatus)?;
        // A look, of which there are many, leaves the file as it is until it knows better.
        if let Some(path) = plan.ready_file.as_deref().filter(|_| !plan.gate.looks.once) {
            ready_file::prepare(path)?;
        }
        let api = match &own_pod {
            None => Api::NotAsked,
            Some(own_pod) if dispensable => Api::Dispensable(own_pod.watch()),
            Some(own_pod) => Api::Needed(own_pod.watch()),
        };
        let board = Board::default();
        let (waiting, listener) = patient_runtime(signals, &Sight::none(), &mut asked).map_err(unable)?;
        waiting.block_on(server.during(&board, opened(plan, api, listener, &board)))?;
        plan.ready_file.as_deref().map_or(Ok(()), ready_file::write)
    };
    waited().err().unwrap_or(Outcome::Ready)
}

async fn opened(plan: &WaitPlan, api: Api, mut signals: Listener<'_>, board: &Board) -> Result<(), Outcome> {
    // A look has one limit for all that it looks at.
    let limit = plan.gate.timeout.filter(|_| plan.gate.looks.once);
    let by = limit.and_then(|limit| now().checked_add(limit));
    let inspector = Inspector::new(plan.asked());
    let inspect = |pod: &Snapshot| inspector.look(pod);
    let opened = gate::pass(&plan.gate, api, &mut signals, board, &inspect).await;
    let opened = opened.map_err(|closed| Outcome::from(closed.cause))?;
    let stop = opened.snapshot.as_ref().and_then(|snapshot| snapshot.own.stop_signal);
    tokio::select! {
        stopped = signals.stop(Phase::Gate { stop }) => Err(match stopped {
            Ok(received) => Outcome::Stopped(received.signal),
            Err(error) => Outcome::Failed(error.into()),
        }),
        read = env_file::read(&plan.env_files) => read.map(drop).map_err(Outcome::EnvFile),
        () = until(by) => {
            let unread = Unready { name: "--env-file".to_owned(), why: "it cannot be read in time".to_owned() };
            let waiting = Waiting { pod: PodWait::Nothing, direct: vec![unread] };
            Err(Outcome::Refused(Refusal::TimedOut { after: limit.unwrap_or_default(), waiting }))
        }
    }
}
