//! From flags to the parts of a plan.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Environment, Invalid, POD_NAME, POD_NAMESPACE};
use crate::child::Command;
use crate::cli::flags;
use crate::cli::flags::List;
use crate::cluster::{ApiServer, SERVICE_HOST, SERVICE_PORT};
use crate::endpoint::{Address, DirectWait, HttpUrl, Method, Request};
use crate::env_file::EnvFiles;
use crate::gate::Gate;
use crate::identity::Claim;
use crate::known::{Known, Named, NoEndpoint};
use crate::plan::selection::Selection;
use crate::policy::{AskApi, Precedence, ShutdownAuto};
use crate::shutdown::{Action, Processes, Shutdown};
use crate::signal::Signal;

/// Who we are, and whom to ask.
pub(super) fn who(who: flags::Who, environment: &Environment) -> Result<(Claim, ApiServer), Invalid> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let claim = Claim {
        namespace: who.namespace.or_else(|| variable(POD_NAMESPACE)),
        pod_name: who.pod_name.or_else(|| variable(POD_NAME)),
        container: who.container,
    };
    let api = ApiServer {
        ask: who.api,
        service_account: who.service_account_dir,
        address: server(variable(SERVICE_HOST), variable(SERVICE_PORT))?,
    };
    Ok((claim, api))
}

/// What is waited for.
pub(super) fn gate(waiting: flags::Waiting, mains: Vec<String>, ask: AskApi) -> Result<Gate, Invalid> {
    let selection = Selection { wait_for: flatten(waiting.wait_for), ignore: flatten(waiting.ignore), mains };
    if let Some(both) = selection.wait_for.iter().find(|name| selection.ignore.contains(name)) {
        return Err(Invalid::Contradiction(both.clone()));
    }
    if let Some(name) = selection.wait_for.first().filter(|_| ask == AskApi::Off) {
        return Err(Invalid::Nameless(name.clone()));
    }
    Ok(Gate {
        timeout: Some(waiting.ready_timeout).filter(|timeout| !timeout.is_zero()),
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
pub(super) fn shutdown(ending: flags::Ending, ignore: Vec<String>) -> Result<Shutdown, Invalid> {
    Ok(Shutdown {
        when: ending.shutdown_when,
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
        ignore,
    })
}

pub(super) fn flatten<T>(lists: Vec<List<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|list| list.0).collect()
}

fn server(host: Option<String>, port: Option<String>) -> Result<Option<(String, u16)>, Invalid> {
    let Some((host, port)) = host.zip(port) else {
        return Ok(None);
    };
    match port.parse() {
        Ok(number) if number > 0 => Ok(Some((host, number))),
        _ => Err(Invalid::ServicePort(port)),
    }
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
