//! Who am I: the own Pod and container, from flags, the kubelet's mounts and the hostname.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, gethostname, sysconf};

use crate::procfs::Stat;
use crate::shortage::{is_shortage, unless_short};

/// What flags and variables say of who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The Pod's namespace.
    pub namespace: Option<String>,
    /// The Pod's name.
    pub pod_name: Option<String>,
    /// Our container's name.
    pub container: Option<String>,
}

/// Who we are, as far as it can be known without the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: PodName,
    /// The Pod's UID, if a mount of the kubelet's tells it.
    pub uid: Option<String>,
    /// Our container's name, if a flag or a mount tells it.
    pub container: Option<String>,
    /// When our container's first process started, if the system tells it.
    pub started: Option<SystemTime>,
}

/// The Pod's name and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodName {
    /// Given by flag or variable: taken at its word.
    Given(String),
    /// The hostname, which is the Pod's name unless `spec.hostname`, `setHostnameAsFQDN`, `hostNetwork`
    /// or a name of more than 63 characters makes it another.
    Hostname(String),
}

impl PodName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(name) | Self::Hostname(name) => name,
        }
    }

    /// Whether the name cannot be the Pod's: cut at 63 characters, or fully qualified.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Hostname(name) if name.len() >= 63 || name.contains('.'))
    }
}

/// Why the own identity is unknown.
#[derive(Debug)]
pub enum Unknown {
    /// Neither flag, variable nor service account tells the namespace.
    Namespace(PathBuf, io::Error),
    /// The system does not tell the hostname.
    Hostname(Errno),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(path, error) => write!(
                f,
                "cannot tell this Pod's namespace: no --namespace, no POD_NAMESPACE, and {}: {error}; proa runs \
                 in a Pod whose service account token is mounted (automountServiceAccountToken, or a projected \
                 volume named by --service-account-dir)",
                path.display()
            ),
            Self::Hostname(error) => {
                write!(f, "cannot tell the hostname: {error}; set --pod-name (POD_NAME)")
            }
        }
    }
}

impl std::error::Error for Unknown {}

impl Identity {
    /// Gathers what flags, mounts and hostname tell. What flags say wins.
    ///
    /// # Errors
    /// When the system is short of what it takes, which says nothing; and when the namespace or the hostname cannot be found out.
    pub fn find(claim: &Claim, mounts: &Mounts, service_account: &Path) -> io::Result<Result<Self, Unknown>> {
        let namespace = if let Some(namespace) = &claim.namespace {
            namespace.clone()
        } else {
            let path = service_account.join("namespace");
            match fs::read_to_string(&path) {
                Ok(text) => text.trim().to_owned(),
                Err(error) if is_shortage(&error) => return Err(error),
                Err(error) => return Ok(Err(Unknown::Namespace(path, error))),
            }
        };
        let pod = match (&claim.pod_name, gethostname()) {
            (Some(name), _) => PodName::Given(name.clone()),
            (None, Ok(hostname)) => PodName::Hostname(hostname.to_string_lossy().into_owned()),
            (None, Err(error)) => return Ok(Err(Unknown::Hostname(error))),
        };
        Ok(Ok(Self {
            namespace,
            pod,
            uid: mounts.uid.clone(),
            container: claim.container.clone().or_else(|| mounts.container.clone()),
            started: container_start()?,
        }))
    }
}

/// What the kubelet's bind mounts tell of this container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts {
    /// The Pod's UID.
    pub uid: Option<String>,
    /// The container's name.
    pub container: Option<String>,
    /// Where the termination message is written: `terminationMessagePath`.
    pub termination_message_path: Option<PathBuf>,
}

impl Mounts {
    /// Reads this process's mounts; nothing is known where they cannot be read.
    ///
    /// # Errors
    /// When the system is short of what it takes to read them.
    pub fn of_this_process() -> io::Result<Self> {
        let mountinfo = unless_short(fs::read("/proc/self/mountinfo"))?;
        Ok(mountinfo.map_or_else(Self::default, |bytes| Self::parse(&bytes)))
    }

    /// Reads mountinfo (`proc_pid_mountinfo(5)`): the fourth field of a line is the path within the source
    /// filesystem, the fifth the mount point.
    ///
    /// The kubelet binds `<root>/pods/<uid>/containers/<name>/<8 hex digits>` on the termination message
    /// path and `<root>/pods/<uid>/etc-hosts` on /etc/hosts (`pkg/kubelet/kubelet_pods.go`,
    /// `pkg/kubelet/kuberuntime/kuberuntime_container.go`). Only the end of the path can be relied on: the
    /// kubelet's root directory is configurable, and where it is a mount of its own the prefix is missing. Paths are
    /// bytes: one that is no text hides no other.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let binds: Vec<_> = mountinfo.split(|byte| *byte == b'\n').filter_map(Bind::parse).collect();
        let message = binds.iter().find_map(|bind| match bind {
            Bind::TerminationMessage { uid, container, path } => Some((uid, container, path)),
            Bind::Hosts { .. } => None,
        });
        let hosts = binds.iter().find_map(|bind| match bind {
            Bind::Hosts { uid } => Some(uid),
            Bind::TerminationMessage { .. } => None,
        });
        Self {
            uid: message.map(|(uid, _, _)| uid).or(hosts).cloned(),
            container: message.map(|(_, container, _)| container.clone()),
            termination_message_path: message.map(|(_, _, path)| path.clone()),
        }
    }
}

/// A bind mount by which the kubelet says who a container is.
enum Bind {
    TerminationMessage { uid: String, container: String, path: PathBuf },
    Hosts { uid: String },
}

impl Bind {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').skip(3);
        let (root, mount_point) = (unescape(fields.next()?), unescape(fields.next()?));
        let root = String::from_utf8_lossy(&root);
        let segments: Vec<_> = root.split('/').collect();
        match segments.as_slice() {
            [.., "pods", uid, "containers", container, file]
                if is_uid(uid) && is_label(container) && is_hex(file, 8) =>
            {
                Some(Self::TerminationMessage {
                    uid: (*uid).to_owned(),
                    container: (*container).to_owned(),
                    path: PathBuf::from(OsString::from_vec(mount_point)),
                })
            }
            // A container that has the node's directories mounted may see other Pods' files, but only its
            // own at /etc/hosts.
            [.., "pods", uid, "etc-hosts"] if is_uid(uid) && mount_point == b"/etc/hosts" => {
                Some(Self::Hosts { uid: (*uid).to_owned() })
            }
            _ => None,
        }
    }
}

/// Groups of 8, 4, 4, 4 and 12 hexadecimal digits.
fn is_uid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let lengths = [8, 4, 4, 4, 12];
    groups.len() == lengths.len() && groups.iter().zip(lengths).all(|(group, length)| is_hex(group, length))
}

/// What the API server accepts as a container's name: a label of RFC 1123, `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, of 63 characters
/// at most (`ValidateDNS1123Label` of apimachinery's validation).
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The kernel writes space, tab, newline and backslash as three octal digits (`\040`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// When our container's first process started. The runtime makes it before it reports the container's start, by the same
/// clock.
fn container_start() -> io::Result<Option<SystemTime>> {
    let first = if came_later()? { Stat::of("1")? } else { first_ancestor()?.map(|(_, stat)| stat) };
    Ok(first.and_then(|first| since_boot(first.start_ticks)))
}

/// The one among our ancestors whose parent is out of sight, since it was started from outside; ourselves, perhaps.
fn first_ancestor() -> io::Result<Option<(String, Stat)>> {
    let own = unless_short(fs::read_link("/proc/self"))?;
    let Some(mut process) = own.and_then(|own| Some(own.to_str()?.to_owned())) else { return Ok(None) };
    // More ancestors than that has nobody; a cycle is impossible, but costs nothing to rule out.
    for _ in 0..64 {
        let Some(stat) = Stat::of(&process)? else { return Ok(None) };
        if stat.parent == 0 {
            return Ok(Some((process, stat)));
        }
        process = stat.parent.to_string();
    }
    Ok(None)
}

/// Whether this process came to a container that ran already, by `kubectl exec`, a probe or a hook: its first ancestor is
/// not the container's PID 1. Where containers share a PID namespace PID 1 is the Pod's, and nothing shows it.
///
/// # Errors
/// When the system is short of what it takes to tell.
pub fn came_later() -> io::Result<bool> {
    let view = |process: &str| unless_short(fs::read(format!("/proc/{process}/cgroup")));
    if first_ancestor()?.is_none_or(|(process, _)| process == "1") {
        return Ok(false);
    }
    let first = view("1")?;
    Ok(first.is_some() && first == view("self")?)
}

/// The moment so many clock ticks after the system's start; None where that would be in the future.
fn since_boot(ticks: u64) -> Option<SystemTime> {
    let hertz = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|hertz| *hertz > 0)?;
    let started = Duration::from_secs(ticks / hertz)
        + Duration::from_secs(ticks % hertz) / u32::try_from(hertz).ok()?;
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    SystemTime::now().checked_sub(up.checked_sub(started)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1";

    fn found(container: &str, path: &str) -> Mounts {
        Mounts {
            uid: Some(UID.into()),
            container: Some(container.into()),
            termination_message_path: Some(path.into()),
        }
    }

    #[test]
    fn three_octal_digits_are_a_byte_and_nothing_else_is() {
        for (text, expected) in [
            (&br"a\040b\134"[..], &br"a b\"[..]),
            (br"\+35\777\08", br"\+35\777\08"),
            (br"\8\\040", br"\8\ "),
        ] {
            assert_eq!(unescape(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn containerd_on_cgroup_v2() {
        let text = "\
811 745 0:108 / / rw,relatime master:320 - overlay overlay rw,lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/61/fs,upperdir=/u,workdir=/w
812 811 0:110 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
819 811 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
820 811 259:1 /var/lib/kubelet/pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/etc-hosts /etc/hosts rw,relatime - ext4 /dev/nvme0n1p1 rw,discard
821 811 259:1 /var/lib/kubelet/pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/containers/main/5f0c6d11 /dev/termination-log rw,relatime - ext4 /dev/nvme0n1p1 rw,discard
822 811 259:1 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/9d/hostname /etc/hostname rw,relatime - ext4 /dev/nvme0n1p1 rw,discard
824 811 0:96 / /run/secrets/kubernetes.io/serviceaccount ro,relatime - tmpfs tmpfs rw,size=65536k
";
        assert_eq!(Mounts::parse(text.as_bytes()), found("main", "/dev/termination-log"));
    }

    #[test]
    fn docker_on_cgroup_v1_with_the_kubelet_on_a_disk_of_its_own() {
        let text = "\
1712 1620 0:302 / / rw,relatime master:601 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B
1717 1716 0:31 /kubepods/besteffort/pod3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/0f /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:14 - cgroup cgroup rw,memory
1730 1712 8:33 /pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/containers/job/a1b2c3d4 /dev/termination-log rw,relatime - xfs /dev/sdc1 rw,attr2,inode64,noquota
1733 1712 8:33 /pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/etc-hosts /etc/hosts rw,relatime - xfs /dev/sdc1 rw,attr2,inode64,noquota
";
        assert_eq!(Mounts::parse(text.as_bytes()), found("job", "/dev/termination-log"));
    }

    #[test]
    fn crio_with_another_kubelet_root_and_message_path() {
        let text = "\
620 600 0:77 / / rw,relatime - overlay overlay rw,context=\"system_u:object_r:container_file_t:s0:c1,c2\",lowerdir=/var/lib/containers/storage/overlay/l/X
641 620 252:3 /srv/k8s/kubelet/pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/etc-hosts /etc/hosts rw,relatime - xfs /dev/vda3 rw,seclabel
642 620 252:3 /srv/k8s/kubelet/pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/containers/web/0badcafe /tmp/my\\040message rw,relatime - xfs /dev/vda3 rw,seclabel
";
        assert_eq!(Mounts::parse(text.as_bytes()), found("web", "/tmp/my message"));
    }

    #[test]
    fn docker_in_docker_and_btrfs_prefixes() {
        let text = "\
9 8 0:45 /@/var/lib/docker/volumes/2f/_data/lib/kubelet/pods/3b5e8a3c-52ce-4f2a-9d0b-0a8e6a4cf2d1/containers/main/00c0ffee /dev/termination-log rw - btrfs /dev/sda2 rw,subvol=/@
";
        assert_eq!(Mounts::parse(text.as_bytes()), found("main", "/dev/termination-log"));
    }

    #[test]
    fn hosts_alone_tells_the_pod() {
        let text =
            format!("1 2 8:1 /var/lib/kubelet/pods/{UID}/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\n");
        let expected = Mounts { uid: Some(UID.into()), ..Mounts::default() };
        assert_eq!(Mounts::parse(text.as_bytes()), expected);
    }

    #[test]
    fn text_that_matches_nothing_tells_nothing() {
        let other_pods_file = format!("1 2 8:1 /pods/{UID}/etc-hosts /node/hosts rw - ext4 /dev/sda1 rw");
        let volume = format!("1 2 8:1 /pods/{UID}/containers/main/data /data rw - ext4 /dev/sda1 rw");
        let subpath = format!("1 2 8:1 /pods/{UID}/volume-subpaths/v/main/0 /x rw - ext4 /dev/sda1 rw");
        let no_uid =
            "1 2 8:1 /pods/blue/containers/main/5f0c6d11 /dev/termination-log rw - ext4 /dev/sda1 rw";
        let unnamed = format!("1 2 8:1 /pods/{UID}/containers//5f0c6d11 /dev/termination-log rw - ext4 x rw");
        let misnamed =
            format!("1 2 8:1 /pods/{UID}/containers/a_b/5f0c6d11 /dev/termination-log rw - ext4 x rw");
        for text in
            ["", "\n\n", "garbage", "1 2 3", "1 2 8:1 / / rw - ext4 x rw", "\\", "1 2 8:1 \\0 \\999 rw"]
                .into_iter()
                .chain([other_pods_file.as_str(), &volume, &subpath, no_uid, &unnamed, &misnamed])
        {
            assert_eq!(Mounts::parse(text.as_bytes()), Mounts::default(), "{text}");
        }
    }

    #[test]
    fn a_mount_point_that_is_no_text_hides_no_other() {
        let own = format!("3 2 8:1 /pods/{UID}/containers/main/5f0c6d11 /tmp/\\377 rw - ext4 x rw\n");
        let text = [b"1 2 8:1 /a/\xff /data/\xff\xfe rw - ext4 x rw\n", own.as_bytes()].concat();
        let mounts = Mounts::parse(&text);
        assert_eq!((mounts.uid.as_deref(), mounts.container.as_deref()), (Some(UID), Some("main")));
        let path = mounts.termination_message_path.unwrap();
        assert_eq!(
            path.into_os_string().into_vec(),
            b"/tmp/\xff",
            "the file itself can be opened all the same"
        );
    }

    #[test]
    fn the_containers_start_is_in_the_past() {
        assert!(container_start().unwrap().is_some_and(|start| start < SystemTime::now()));
        assert_eq!(since_boot(u64::MAX), None);
    }

    #[test]
    fn a_cut_or_qualified_hostname_is_doubtful() {
        let hostname = |text: &str| PodName::Hostname(text.to_owned());
        assert!(!hostname("report-29183-x7k2p").is_doubtful());
        assert!(hostname("report.jobs.default.svc.cluster.local").is_doubtful());
        assert!(hostname(&"a".repeat(63)).is_doubtful());
        assert!(!PodName::Given("dotted.name".into()).is_doubtful());
    }
}
