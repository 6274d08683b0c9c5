//! From flags to the parts of a plan.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::{Environment, Invalid, POD_NAME, POD_NAMESPACE};
use crate::child::Command;
use crate::cli::flags;
use crate::cli::flags::List;
use crate::cluster::{ApiServer, SERVICE_HOST, SERVICE_PORT};
use crate::endpoint::{Address, DirectWait, HttpUrl, Method, Request};
use crate::env_file::EnvFiles;
use crate::gate::{Gate, Insists, Looks};
use crate::identity::Claim;
use crate::known::{Known, Named, NoEndpoint};
use crate::plan::selection::Selection;
use crate::pod::mains::Awaited;
use crate::policy::{AskApi, Precedence, ShutdownAuto, ShutdownWhen};
use crate::shutdown::{Action, Processes, Shutdown, Spared};
use crate::signal::Signal;

/// `--ready-timeout` unless it is given.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// Leaves nothing but the command: no waits, nobody to ask, nobody to shut down.
pub(super) fn disable(
    waiting: &mut flags::Waiting,
    how: &mut flags::Environment,
    (when, ending): (&mut ShutdownWhen, &mut flags::Ending),
    who: &mut flags::Who,
) {
    wait_for_nothing(waiting, who);
    *when = ShutdownWhen::Never;
    // A sidecar would have written them.
    how.env_file.clear();
    ending.shutdown_http_get.clear();
    ending.shutdown_http_post.clear();
    ending.shutdown_known.clear();
    ending.kill.clear();
    ending.kill_all = false;
    ending.shutdown_auto = false;
    ending.no_shutdown_auto = true;
}

/// Leaves no waits, and nobody to ask.
pub(super) fn wait_for_nothing(waiting: &mut flags::Waiting, who: &mut flags::Who) {
    waiting.wait_for.clear();
    waiting.ignore.clear();
    waiting.wait_http_get.clear();
    waiting.wait_tcp.clear();
    waiting.wait_file.clear();
    waiting.wait_known.clear();
    who.api = AskApi::Off;
}

/// Who we are, and whom to ask.
pub(super) fn who(who: flags::Who, environment: &Environment) -> Result<(Claim, ApiServer), Invalid> {
    let address = match server(environment) {
        // Nobody is going to be asked there.
        Err(_) if who.api == AskApi::Off => None,
        address => address?,
    };
    let (claim, api) = who_is_known(who, environment);
    Ok((claim, ApiServer { address, ..api }))
}

/// The same as far as it can be known.
pub(super) fn who_is_known(who: flags::Who, environment: &Environment) -> (Claim, ApiServer) {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let claim = Claim {
        namespace: who.namespace.or_else(|| variable(POD_NAMESPACE)),
        pod_name: who.pod_name.or_else(|| variable(POD_NAME)),
        container: who.container,
    };
    let api = ApiServer {
        ask: who.api,
        service_account: who.service_account_dir,
        address: server(environment).ok().flatten(),
        announced: [SERVICE_HOST, SERVICE_PORT].into_iter().any(|name| variable(name).is_some()),
    };
    (claim, api)
}

/// What is waited for.
pub(super) fn gate(
    waiting: flags::Waiting,
    mains: Vec<String>,
    wait_exit: Vec<Awaited>,
    ask: AskApi,
) -> Result<Gate, Invalid> {
    let (wait_for, ignore) = (flatten(waiting.wait_for), flatten(waiting.ignore));
    let selection = Selection { wait_for, ignore, mains, wait_exit };
    if let Some(both) = selection.wait_for.iter().find(|name| selection.ignore.contains(name)) {
        return Err(Invalid::Contradiction(both.clone()));
    }
    if let Some(name) = selection.wait_for.first().filter(|_| ask == AskApi::Off) {
        return Err(Invalid::Nameless(name.clone()));
    }
    if !selection.wait_exit.is_empty() && ask == AskApi::Off {
        return Err(Invalid::NeedsApi("--wait-exit"));
    }
    Ok(Gate {
        timeout: limit(waiting.ready_timeout.unwrap_or(READY_TIMEOUT)),
        looks: Looks::default(),
        insists: if ask == AskApi::Optional { Insists::No } else { Insists::Yes },
        on_timeout: waiting.on_timeout,
        selection,
        waits: waits(flatten(waiting.wait_http_get), flatten(waiting.wait_tcp), flatten(waiting.wait_file)),
        known: known(flatten(waiting.wait_known)).map_err(Invalid::Known)?,
    })
}

/// What is run.
pub(super) fn command(words: Vec<OsString>, how: &flags::Environment) -> Result<Command, Invalid> {
    let mut words = words.into_iter();
    let program = words.next().filter(|program| !program.is_empty()).ok_or(Invalid::EmptyCommand)?;
    Ok(Command { program, args: words.collect(), forward_to: how.forward_to })
}

/// Where its variables are read from.
pub(super) fn env_files(how: &mut flags::Environment) -> EnvFiles {
    let precedence = if how.env_file_override { Precedence::File } else { Precedence::Environment };
    EnvFiles { paths: flatten(std::mem::take(&mut how.env_file)), precedence }
}

/// How the sidecars are ended.
pub(super) fn shutdown(
    when: ShutdownWhen,
    ending: flags::Ending,
    ignore: Vec<String>,
) -> Result<Shutdown, Invalid> {
    Ok(Shutdown {
        when,
        actions: actions(
            flatten(ending.shutdown_http_get),
            flatten(ending.shutdown_http_post),
            flatten(ending.shutdown_known),
            flatten(ending.kill),
            ending.kill_all,
            ending.kill_signal,
        )?,
        auto: match (ending.shutdown_auto, ending.no_shutdown_auto) {
            (true, _) => ShutdownAuto::Too,
            (false, true) => ShutdownAuto::Off,
            (false, false) => ShutdownAuto::Otherwise,
        },
        timeout: ending.shutdown_timeout.into(),
        spared: Spared::Entrypoint,
        ignore,
    })
}

pub(super) fn flatten<T>(lists: Vec<List<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|list| list.0).collect()
}

fn server(environment: &Environment) -> Result<Option<(String, u16)>, Invalid> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let Some((host, port)) = variable(SERVICE_HOST).zip(variable(SERVICE_PORT)) else {
        return Ok(None);
    };
    match port.parse() {
        Ok(number) if number > 0 => Ok(Some((host, number))),
        _ => Err(Invalid::ServicePort(port)),
    }
}

/// A limit of time, of which 0 is none.
pub(super) fn limit(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

fn waits(http: Vec<HttpUrl>, tcp: Vec<Address>, file: Vec<PathBuf>) -> Vec<DirectWait> {
    let asked = http.into_iter().map(DirectWait::Http).chain(tcp.into_iter().map(DirectWait::Tcp));
    asked.chain(file.into_iter().map(DirectWait::File)).collect()
}

fn known(names: Vec<Named>) -> Result<Vec<(&'static Known, HttpUrl)>, NoEndpoint> {
    names.into_iter().map(|Named(known)| Ok((known, known.wait()?))).collect()
}

fn actions(
    get: Vec<HttpUrl>,
    post: Vec<HttpUrl>,
    known: Vec<Named>,
    kill: Vec<String>,
    kill_all: bool,
    signal: Signal,
) -> Result<Vec<Action>, Invalid> {
    let get = get.into_iter().map(|url| Ok(Action::Http(Request::new(Method::Get, url))));
    let post = post.into_iter().map(|url| Ok(Action::Http(Request::new(Method::Post, url))));
    let known = known.into_iter().map(|Named(known)| {
        let otherwise = known.shutdown().map_err(Invalid::Known)?;
        Ok(Action::Known(known, otherwise))
    });
    let http = get.chain(post).chain(known);
    let named = kill.into_iter().map(|name| Ok(Action::Kill(Processes::Named(name), signal)));
    let all = kill_all.then_some(Ok(Action::Kill(Processes::All, signal)));
    http.chain(named).chain(all).collect()
}
