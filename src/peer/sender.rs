//! Who is at the other end of a socket, as far as the kernel knows.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};

/// The process at the other end (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// Its ID here; `None` in a PID namespace that we do not see into, as that of another container mostly is.
    pid: Option<i32>,
}

impl Sender {
    /// The process at the other end of this connection; for one that we made, the one that listens.
    pub(super) fn of(socket: &impl AsFd) -> Self {
        let credentials = getsockopt(socket, sockopt::PeerCredentials);
        Self { pid: credentials.ok().map(|credentials| credentials.pid()).filter(|pid| *pid > 0) }
    }

    /// Whether it is in our own container: it has our view of the files.
    pub(super) fn is_in_our_container(self) -> bool {
        let view = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let own = view("self");
        own.is_some() && self.pid.is_some_and(|pid| view(&pid.to_string()) == own)
    }

    /// Whether it belongs to another Pod: only the node's network namespace is shared by several.
    pub(super) fn is_of_another_pod(self, uid: &str) -> bool {
        let cgroup = self.pid.and_then(|pid| fs::read(format!("/proc/{pid}/cgroup")).ok());
        cgroup.is_some_and(|cgroup| names_another_pod(&String::from_utf8_lossy(&cgroup), uid))
    }
}

/// Whether a control group of the kubelet's is that of another Pod: `.../pod<UID>/...`, or `...-pod<UID>.slice` with
/// underscores for hyphens under systemd (`pkg/kubelet/cm/cgroup_manager_linux.go`).
fn names_another_pod(cgroup: &str, uid: &str) -> bool {
    let pods = cgroup.split(['/', '\n', ':']).filter_map(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        let found = name.rsplit_once("pod")?.1.replace('_', "-");
        (found.len() == 36 && found.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
            .then_some(found)
    });
    let mut pods = pods.peekable();
    pods.peek().is_some() && pods.all(|pod| pod != uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1";

    #[test]
    fn a_control_group_tells_the_pod() {
        let other = "0b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1";
        for (cgroup, another) in [
            (format!("0::/kubepods/besteffort/pod{other}/abc"), true),
            (format!("0::/../../pod{UID}/abc\n"), false),
            (
                format!(
                    "0::/kubepods.slice/kubepods-pod{}.slice/cri-containerd-a.scope",
                    other.replace('-', "_")
                ),
                true,
            ),
            (format!("4:memory:/kubepods/pod{UID}/abc\n3:cpu:/kubepods/pod{UID}/abc"), false),
            ("0::/".to_owned(), false),
            ("0::/user.slice/podman-1.scope".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(names_another_pod(&cgroup, UID), another, "{cgroup}");
        }
    }
}
