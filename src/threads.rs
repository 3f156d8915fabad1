//! `threads: auto`: how many worker threads the container's CPU limit is good for.
//!
//! The limit is the smallest of the control groups from this process's own up to the root: a pod's may be tighter than its
//! container's. Threads beyond it would only be throttled; a part of a core is rounded up. Without a limit one thread does
//! all, however many cores the machine has: the cheapest beside an app, and enough for 40,000 calls a second.
//!
//! Owns: nothing. Invariants: from 1 to 64, and no more than this process may use at one time.
//! Units: microseconds of CPU for each period; cores.
//! Fails with: never; what cannot be read is no limit.
//! Source: cgroups(7), the kernel's cgroup-v2 (`cpu.max`) and sched-bwc (`cpu.cfs_quota_us`); design §9.

use std::{
    fmt, fs,
    path::{Component, Path, PathBuf},
};

use crate::config::Threads;

/// As many as the setting takes.
const MOST: usize = 64;

/// How many, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub threads: usize,
    pub why: String,
}

/// `root`: where `/proc` and `/sys` are; tests have their own.
pub fn choose(setting: Threads, root: &Path) -> Choice {
    let limit = match setting {
        Threads::Fixed(threads) => {
            let why = "as set".to_owned();
            return Choice { threads, why };
        }
        Threads::Auto => cpu_limit(root),
    };
    match limit {
        None => Choice {
            threads: 1,
            why: "auto: no CPU limit".to_owned(),
        },
        Some((quota, file)) => {
            let usable = usable_cpus(root);
            let why = format!("auto: CPU limit {quota} in {}, {usable} CPUs usable", file.display());
            Choice {
                threads: quota.threads(usable),
                why,
            }
        }
    }
}

/// CPU time for each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota {
    time: u64,
    period: u64,
}

impl Quota {
    fn new(time: u64, period: u64) -> Option<Self> {
        (period > 0).then_some(Self { time, period })
    }

    fn threads(self, usable: usize) -> usize {
        let cores = usize::try_from(self.time.div_ceil(self.period)).unwrap_or(MOST);
        cores.clamp(1, usable.clamp(1, MOST))
    }

    fn is_below(self, other: Self) -> bool {
        u128::from(self.time) * u128::from(other.period) < u128::from(other.time) * u128::from(self.period)
    }
}

/// In cores, as Kubernetes writes them.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milli = u128::from(self.time) * 1000 / u128::from(self.period);
        write!(f, "{milli}m")
    }
}

/// `cpu.max`: `MAX PERIOD`, where `max` is none.
fn cpu_max(text: &str) -> Option<Quota> {
    let (time, period) = text.trim().split_once(' ')?;
    Quota::new(time.parse().ok()?, period.parse().ok()?)
}

/// `cpu.cfs_quota_us` (`-1` is none) and `cpu.cfs_period_us`.
fn cfs(quota: &str, period: &str) -> Option<Quota> {
    Quota::new(quota.trim().parse().ok()?, period.trim().parse().ok()?)
}

/// Which group of the CPU controller a process is in.
#[derive(Debug, PartialEq, Eq)]
enum Membership<'a> {
    V2 {
        path: &'a str,
    },
    /// `controllers` is how the hierarchy is usually called below `/sys/fs/cgroup`.
    V1 {
        controllers: &'a str,
        path: &'a str,
    },
}

/// `/proc/self/cgroup`: lines of `ID:CONTROLLERS:PATH`. A machine may have both versions at one time.
fn memberships(text: &str) -> Vec<Membership<'_>> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match (id, controllers) {
            ("0", "") => Some(Membership::V2 { path }),
            _ if controllers.split(',').any(|controller| controller == "cpu") => {
                Some(Membership::V1 { controllers, path })
            }
            _ => None,
        }
    });
    lines.collect()
}

/// The folders of a group and of those above it, up to `base`. A path that leads out of what this process sees (`/../x`, from
/// another namespace) leaves `base`: in a container that is its own group, whatever the path says.
fn up_from(base: &Path, path: &str) -> Vec<PathBuf> {
    let below = Path::new(path.trim_start_matches('/'));
    if below.components().any(|part| part == Component::ParentDir) {
        return vec![base.to_owned()];
    }
    below.ancestors().map(|part| base.join(part)).collect()
}

/// The tightest limit, and the file that says so, as this process calls it.
fn cpu_limit(root: &Path) -> Option<(Quota, PathBuf)> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let groups = root.join("sys/fs/cgroup");
    let mut tightest: Option<(Quota, PathBuf)> = None;
    for membership in memberships(&text) {
        let limits: Vec<_> = match membership {
            Membership::V2 { path } => up_from(&groups, path)
                .into_iter()
                .filter_map(|folder| in_file(folder.join("cpu.max"), cpu_max))
                .collect(),
            Membership::V1 { controllers, path } => [controllers, "cpu"]
                .iter()
                .flat_map(|name| up_from(&groups.join(name), path))
                .filter_map(|folder| {
                    let period = fs::read_to_string(folder.join("cpu.cfs_period_us")).ok()?;
                    in_file(folder.join("cpu.cfs_quota_us"), |quota| cfs(quota, &period))
                })
                .collect(),
        };
        for (quota, file) in limits {
            if tightest.as_ref().is_none_or(|(known, _)| quota.is_below(*known)) {
                tightest = Some((quota, file));
            }
        }
    }
    let (quota, file) = tightest?;
    let shown = file
        .strip_prefix(root)
        .map_or_else(|_| file.clone(), |file| Path::new("/").join(file));
    Some((quota, shown))
}

fn in_file(file: PathBuf, read: impl FnOnce(&str) -> Option<Quota>) -> Option<(Quota, PathBuf)> {
    let quota = read(&fs::read_to_string(&file).ok()?)?;
    Some((quota, file))
}

/// How many CPUs this process may run on. `available_parallelism` has the quota in it already, rounded down: a limit of one
/// and a half would be one.
fn usable_cpus(root: &Path) -> usize {
    let told = fs::read_to_string(root.join("proc/self/status")).ok();
    told.and_then(|text| allowed(&text))
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
}

/// `Cpus_allowed_list` of `/proc/self/status`: numbers and ranges, `0-3,8`.
fn allowed(status: &str) -> Option<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut count: usize = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_rounded_up_and_kept_within_what_is_usable() {
        for (text, usable, threads) in [
            ("100000 100000", 8, 1),
            ("100001 100000", 8, 2),
            ("150000 100000\n", 8, 2),
            ("10000 100000", 8, 1),
            ("0 100000", 8, 1),
            ("400000 100000", 2, 2),
            ("400000 100000", 0, 1),
            ("40000 20000", 8, 2),
            ("9000000 100000", 128, 64),
            ("18446744073709551615 1", 128, 64),
        ] {
            assert_eq!(cpu_max(text).unwrap().threads(usable), threads, "{text} of {usable}");
        }
        for text in ["max 100000", "100000 0", "100000", "", "x y", "-1 100000"] {
            assert_eq!(cpu_max(text), None, "{text}");
        }
    }

    #[test]
    fn version_1_has_two_files() {
        assert_eq!(
            cfs("250000\n", "100000\n").map(|quota| quota.to_string()),
            Some("2500m".to_owned())
        );
        for (quota, period) in [("-1", "100000"), ("100000", "0"), ("", "100000"), ("100000", "")] {
            assert_eq!(cfs(quota, period), None, "{quota} {period}");
        }
    }

    #[test]
    fn only_the_cpu_controllers_groups_count() {
        use Membership::{V1, V2};
        let table: [(&str, Vec<Membership<'_>>); 4] = [
            ("0::/\n", vec![V2 { path: "/" }]),
            (
                "4:cpu,cpuacct:/docker/1\n3:cpuset:/x\n1:name=systemd:/y\n",
                vec![V1 {
                    controllers: "cpu,cpuacct",
                    path: "/docker/1",
                }],
            ),
            (
                "2:cpuacct:/a\n1:cpu:/b:c\n0::/d",
                vec![
                    V1 {
                        controllers: "cpu",
                        path: "/b:c",
                    },
                    V2 { path: "/d" },
                ],
            ),
            ("", vec![]),
        ];
        for (text, expected) in table {
            assert_eq!(memberships(text), expected, "{text}");
        }
    }

    #[test]
    fn allowed_cpus_are_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3,8", Some(5)),
            ("2-2", Some(1)),
            ("", None),
            ("3-1", None),
        ] {
            let status = format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n");
            assert_eq!(allowed(&status), count, "{list}");
        }
        assert_eq!(allowed("Name:\tx\n"), None);
    }

    /// Its path and its text.
    type File = (&'static str, &'static str);

    /// A machine with these files and 8 CPUs.
    fn chosen(files: &[File]) -> Choice {
        let root = tempfile::tempdir().unwrap();
        let status = [("proc/self/status", "Cpus_allowed_list:\t0-7\n")];
        for (name, text) in files.iter().chain(&status) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        choose(Threads::Auto, root.path())
    }

    #[test]
    fn the_tightest_group_counts_wherever_it_is() {
        const V2: File = ("proc/self/cgroup", "0::/\n");
        const NESTED: File = ("proc/self/cgroup", "0::/pod/container\n");
        const V1: File = ("proc/self/cgroup", "5:cpu,cpuacct:/docker/1\n");
        let table: &[(&str, &[File], usize)] = &[
            ("nothing to read", &[], 1),
            ("no limit", &[V2, ("sys/fs/cgroup/cpu.max", "max 100000\n")], 1),
            (
                "a namespace of its own",
                &[V2, ("sys/fs/cgroup/cpu.max", "250000 100000\n")],
                3,
            ),
            (
                "the pod's is tighter",
                &[
                    NESTED,
                    ("sys/fs/cgroup/pod/container/cpu.max", "400000 100000\n"),
                    ("sys/fs/cgroup/pod/cpu.max", "200000 100000\n"),
                    ("sys/fs/cgroup/cpu.max", "max 100000\n"),
                ],
                2,
            ),
            (
                "the container's is tighter",
                &[
                    NESTED,
                    ("sys/fs/cgroup/pod/container/cpu.max", "100000 50000\n"),
                    ("sys/fs/cgroup/pod/cpu.max", "300000 100000\n"),
                ],
                2,
            ),
            (
                "a sibling's is none of ours",
                &[NESTED, ("sys/fs/cgroup/pod/other/cpu.max", "200000 100000\n")],
                1,
            ),
            (
                "the host's path, but only its own group is mounted",
                &[NESTED, ("sys/fs/cgroup/cpu.max", "200000 100000\n")],
                2,
            ),
            (
                "moved in from another namespace",
                &[
                    ("proc/self/cgroup", "0::/../../other\n"),
                    ("sys/fs/cgroup/cpu.max", "200000 100000\n"),
                    ("sys/other/cpu.max", "100000 100000\n"),
                ],
                2,
            ),
            (
                "version 1",
                &[
                    V1,
                    ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "300000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                    ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ],
                3,
            ),
            (
                "version 1, only its own group is mounted, under the short name",
                &[
                    V1,
                    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
                    ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ],
                2,
            ),
        ];
        for (what, files, threads) in table {
            assert_eq!(chosen(files).threads, *threads, "{what}");
        }
    }

    #[test]
    fn it_says_why() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", "1250000 100000\n"),
        ];
        let choice = chosen(&files);
        assert_eq!(choice.threads, 8);
        assert_eq!(
            choice.why,
            "auto: CPU limit 12500m in /sys/fs/cgroup/cpu.max, 8 CPUs usable"
        );
        assert_eq!(chosen(&[]).why, "auto: no CPU limit");
        assert_eq!(choose(Threads::Fixed(3), Path::new("/")).why, "as set");
    }
}
