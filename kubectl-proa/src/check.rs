//! Finds what is wrong in Pod templates.

mod bare;
mod entrypoints;
mod native;
mod pod;
mod rights;

use crate::entrypoint::{Entrypoint, entrypoint};
use crate::finding::Finding;
use crate::workload::Workload;
pub(crate) use bare::{main_container, native};
pub(crate) use entrypoints::switched_on;
pub(crate) use native::{is_awaited, is_native, starts_unready};
pub use rights::Rights;

/// Finds what is wrong, in the order of the texts.
#[must_use]
pub fn check(workloads: &[Workload], rights: &Rights) -> Vec<Finding> {
    let mut found: Vec<_> = workloads.iter().flat_map(|workload| of(workload, rights)).collect();
    let place = |finding: &Finding| (finding.position, finding.rule.name);
    // One text may have several documents of the same place only by chance; texts stay in the order given.
    let order = |finding: &Finding| workloads.iter().position(|workload| workload.source == finding.source);
    found.sort_by(|a, b| (order(a), place(a)).cmp(&(order(b), place(b))));
    found.dedup_by(|a, b| {
        (&a.source, a.rule.name, &a.field, &a.message) == (&b.source, b.rule.name, &b.field, &b.message)
    });
    found
}

fn of(workload: &Workload, rights: &Rights) -> Vec<Finding> {
    let entrypoints: Vec<(String, Entrypoint)> =
        workload.all().map(|(_, container)| (container.name.clone(), entrypoint(container))).collect();
    let mut found = entrypoints::check(workload, &entrypoints);
    if entrypoints.iter().all(|(_, entrypoint)| !shuts_down(entrypoint)) {
        found.extend(bare::check(workload));
    }
    found.extend(native::check(workload, &entrypoints));
    found.extend(pod::check(workload, &entrypoints));
    found.extend(rights::check(workload, &entrypoints, rights));
    found
}

/// Whether this proa may shut sidecars down, as far as can be told.
fn shuts_down(entrypoint: &Entrypoint) -> bool {
    match entrypoint {
        Entrypoint::Absent | Entrypoint::Wait(_) | Entrypoint::Install(_) => false,
        Entrypoint::Obscure
        | Entrypoint::Main(_)
        | Entrypoint::Sidecar(_)
        | Entrypoint::Quit(_)
        | Entrypoint::Mistaken(_) => true,
    }
}
