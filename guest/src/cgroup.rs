//! Control groups, version 2 only: one per container, limits from `linux.resources`.
//!
//! The group is made before the child exists; the child moves itself in. Controllers are enabled
//! on the way down only when a limit needs them, so that an unlimited system pays nothing, but for
//! the number of processes: a container that names no limit gets a share of what the machine has.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::error::{Context, Error, Result};
use crate::spec::{BlockIo, Config, Cpu, Memory, Resources};
use crate::{bpf, builtin, say};

/// Where the hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Where the number of processes is limited, and to which part of all by default.
const PIDS_MAX: &str = "pids.max";
const PIDS_PERCENT: u64 = 15;

/// A file of a control group and what is written to it.
type Setting = (String, String);

/// Makes a container's group with its limits and its device filter; returns its path, or none on
/// a kernel without cgroup v2 if no limit was asked for.
pub(crate) fn create(id: &str, config: &Config) -> Result<Option<PathBuf>> {
    let resources = &config.linux.resources;
    let settings = settings(resources)?;
    if !Path::new(ROOT).join("cgroup.controllers").exists() {
        let rules = (!resources.devices.is_empty()).then_some("linux.resources.devices");
        let limit = settings.first().map(|(file, _)| file.as_str());
        return match limit.or(rules) {
            None => Ok(None),
            Some(wanted) => Err(Error::new(format!(
                "{wanted}: no cgroup v2 hierarchy at {ROOT}"
            ))),
        };
    }
    let name = match config.linux.cgroups_path.as_str() {
        "" => id,
        path => path,
    };
    // One left over from the last run would keep its limits and filters.
    remove(&path_of(Path::new(ROOT), name)?);
    let path = make(name)?;
    enable_controllers(&path, &settings)?;
    for (file, value) in &settings {
        write(&path, file, value).context(|| format!("{file} = {value}"))?;
    }
    if !settings.iter().any(|(file, _)| file == PIDS_MAX)
        && let Some(limit) = processes_max()
        && let Err(cause) = set_default(&path, (PIDS_MAX.to_owned(), limit.to_string()))
    {
        say!("{id}: its processes are not limited: {cause}");
    }
    if !builtin::is_job(config) {
        bpf::filter_devices(&path, &resources.devices)?;
    }
    Ok(Some(path))
}

/// Returns how many processes and threads a container may have that names no limit: of what the
/// kernel can have, the part that systemd gives a unit (`DefaultTasksMax=`, systemd-system.conf(5)).
/// None on a kernel that cannot count them.
fn processes_max() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let number = |name: &str| {
        read(&format!("/proc/sys/kernel/{name}"))?
            .trim()
            .parse()
            .ok()
    };
    let controllers = read(&format!("{ROOT}/cgroup.controllers"))?;
    if !controllers.split_whitespace().any(|it| it == "pids") {
        return None;
    }
    let all: u64 = number("pid_max")?;
    Some((all.min(number("threads-max")?) * PIDS_PERCENT / 100).max(1))
}

fn set_default(path: &Path, setting: Setting) -> Result<()> {
    enable_controllers(path, std::slice::from_ref(&setting))?;
    fs::write(path.join(&setting.0), setting.1).context(|| &setting.0)
}

/// Writes a setting; some have another place, or none, on some kernels.
fn write(group: &Path, file: &str, value: &str) -> std::io::Result<()> {
    let is_absent = || !group.join(file).exists();
    match value.parse() {
        // Without the bfq scheduler, with another range.
        Ok(weight) if file == BFQ_WEIGHT && is_absent() => {
            fs::write(group.join("io.weight"), io_weight(weight).to_string())
        }
        _ if file.starts_with("hugetlb.") && file.ends_with(".rsvd.max") && is_absent() => Ok(()),
        _ => fs::write(group.join(file), value),
    }
}

/// Makes a group by name, parents included.
pub(crate) fn make(name: &str) -> Result<PathBuf> {
    let path = path_of(Path::new(ROOT), name)?;
    fs::create_dir_all(&path).context(|| path.display())?;
    Ok(path)
}

/// Returns the path of a group; a name that would leave the hierarchy is refused.
fn path_of(root: &Path, name: &str) -> Result<PathBuf> {
    let mut path = root.to_owned();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            _ => {
                return Err(Error::new(format!(
                    "control group {name:?}: leads out of {}",
                    root.display()
                )));
            }
        }
    }
    Ok(path)
}

/// Opens a group, to fork into it.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| path.display())
}

/// Moves a process into a group, unless it is there.
pub(crate) fn enter(path: &Path, pid: Pid) -> std::io::Result<()> {
    let number = pid.as_raw_nonzero().to_string();
    let file = path.join("cgroup.procs");
    match fs::read_to_string(&file) {
        Ok(inside) if inside.lines().any(|line| line == number) => Ok(()),
        _ => fs::write(file, number),
    }
}

/// Kills every process of a group (Linux 5.14).
pub(crate) fn kill(path: &Path) -> std::io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// Returns whether the kernel killed something of a group because its memory was full.
pub(crate) fn ran_out_of_memory(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("memory.events")).unwrap_or_default();
    let count = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count != "0")
}

/// What a group uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time so far.
    pub(crate) cpu: Duration,
    /// Memory now, in bytes. Without the memory controller what its processes have mapped and
    /// resident, shared pages counted once for each.
    pub(crate) memory: u64,
    /// Processes now.
    pub(crate) processes: usize,
}

/// Returns what a group uses.
pub(crate) fn usage(path: &Path) -> Usage {
    let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
    let (cpu, processes) = (read("cpu.stat"), read("cgroup.procs"));
    let micros = cpu
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let resident = || {
        let page = rustix::param::page_size() as u64;
        let pages = processes.lines().filter_map(|pid| {
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
            statm.split(' ').nth(1)?.parse::<u64>().ok()
        });
        pages.sum::<u64>() * page
    };
    Usage {
        cpu: Duration::from_micros(micros.and_then(|n| n.parse().ok()).unwrap_or(0)),
        memory: read("memory.current")
            .trim()
            .parse()
            .unwrap_or_else(|_| resident()),
        processes: processes.lines().count(),
    }
}

/// Removes a group that is empty; one in use stays. Returns whether it is gone.
pub(crate) fn remove(path: &Path) -> bool {
    fs::remove_dir(path).is_ok() || !path.exists()
}

/// Enables the controllers that `settings` belong to, from the root down to the group's parent.
fn enable_controllers(path: &Path, settings: &[Setting]) -> Result<()> {
    let mut wanted: Vec<&str> = settings
        .iter()
        .filter_map(|(file, _)| file.split_once('.'))
        .map(|(controller, _)| controller)
        .filter(|controller| *controller != "cgroup")
        .collect();
    wanted.dedup();
    let above: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|p| p.starts_with(ROOT))
        .collect();
    for group in above.into_iter().rev() {
        for controller in &wanted {
            fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )
            .context(|| format!("enable the {controller} controller in {}", group.display()))?;
        }
    }
    Ok(())
}

/// Translates limits into cgroup v2 files, as runc does (`libcontainer/cgroups/fs2`).
fn settings(resources: &Resources) -> Result<Vec<Setting>> {
    let mut all = Vec::new();
    memory(&resources.memory, &mut all)?;
    cpu(&resources.cpu, &mut all);
    if let Some(limit) = resources.pids.limit {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        all.push((PIDS_MAX.to_owned(), value));
    }
    block_io(&resources.block_io, &mut all);
    for limit in &resources.hugepage_limits {
        if limit.page_size.contains(['/', '.']) {
            return Err(Error::new(format!(
                "linux.resources.hugepageLimits: unknown page size {:?}",
                limit.page_size
            )));
        }
        for kind in ["max", "rsvd.max"] {
            let file = format!("hugetlb.{}.{kind}", limit.page_size);
            all.push((file, limit.limit.to_string()));
        }
    }
    for (device, limit) in &resources.rdma {
        let part = |name: &str, n: Option<u32>| n.map(|n| format!(" {name}={n}"));
        let handles = part("hca_handle", limit.handles).unwrap_or_default();
        let objects = part("hca_object", limit.objects).unwrap_or_default();
        all.push(("rdma.max".to_owned(), format!("{device}{handles}{objects}")));
    }
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::new(format!(
                "linux.resources.unified: {file:?} is not a control group file"
            )));
        }
        all.push((file.clone(), value.clone()));
    }
    Ok(all)
}

fn bytes_or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn memory(memory: &Memory, all: &mut Vec<Setting>) -> Result<()> {
    if let Some(limit) = memory.limit.filter(|l| *l != 0) {
        all.push(("memory.max".to_owned(), bytes_or_max(limit)));
    }
    if let Some(reservation) = memory.reservation.filter(|r| *r != 0) {
        all.push(("memory.low".to_owned(), bytes_or_max(reservation)));
    }
    if let Some(both) = memory.swap.filter(|s| *s != 0) {
        // The specification counts memory plus swap, the kernel swap alone.
        let swap = match (both, memory.limit) {
            (..0, _) => -1,
            (both, Some(limit)) if limit > 0 && both >= limit => both - limit,
            _ => {
                return Err(Error::new(
                    "linux.resources.memory.swap: needs a limit that is not larger",
                ));
            }
        };
        all.push(("memory.swap.max".to_owned(), bytes_or_max(swap)));
    }
    Ok(())
}

fn cpu(cpu: &Cpu, all: &mut Vec<Setting>) {
    if let Some(shares) = cpu.shares.filter(|s| *s != 0) {
        all.push(("cpu.weight".to_owned(), weight(shares).to_string()));
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = match cpu.quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = cpu.period.filter(|p| *p != 0).unwrap_or(100_000);
        all.push(("cpu.max".to_owned(), format!("{quota} {period}")));
    }
    if let Some(idle) = cpu.idle {
        all.push(("cpu.idle".to_owned(), idle.to_string()));
    }
    if !cpu.cpus.is_empty() {
        all.push(("cpuset.cpus".to_owned(), cpu.cpus.clone()));
    }
    if !cpu.mems.is_empty() {
        all.push(("cpuset.mems".to_owned(), cpu.mems.clone()));
    }
}

/// Where a weight goes with the bfq scheduler.
const BFQ_WEIGHT: &str = "io.bfq.weight";

fn block_io(wanted: &BlockIo, all: &mut Vec<Setting>) {
    if let Some(weight) = wanted.weight.filter(|weight| *weight != 0) {
        all.push((BFQ_WEIGHT.to_owned(), weight.to_string()));
    }
    for of in &wanted.weight_device {
        let value = format!("{}:{} {}", of.major, of.minor, of.weight);
        all.push((BFQ_WEIGHT.to_owned(), value));
    }
    for (word, limits) in [
        ("rbps", &wanted.read_bps),
        ("wbps", &wanted.write_bps),
        ("riops", &wanted.read_iops),
        ("wiops", &wanted.write_iops),
    ] {
        for of in limits {
            let value = format!("{}:{} {word}={}", of.major, of.minor, of.rate);
            all.push(("io.max".to_owned(), value));
        }
    }
}

/// Maps a weight of blkio (10–1000) to one of io (1–10000), as runc does.
fn io_weight(weight: u64) -> u64 {
    1 + (weight.clamp(10, 1000) - 10) * 9999 / 990
}

/// Maps cgroup v1 shares (2–262144) to a v2 weight (1–10000), linearly, as runc up to 1.3 does.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<Setting>> {
        settings(&crate::json::parse(json.as_bytes()).unwrap())
    }

    fn pairs(settings: &[Setting]) -> Vec<(&str, &str)> {
        settings
            .iter()
            .map(|(f, v)| (f.as_str(), v.as_str()))
            .collect()
    }

    #[test]
    fn limits_as_runc_writes_them() {
        let all = of(r#"{"memory":{"limit":1000,"swap":3000,"reservation":-1},
            "cpu":{"shares":1024,"quota":50000,"cpus":"0-1"},"pids":{"limit":0},
            "unified":{"memory.high":"9"}}"#)
        .unwrap();
        assert_eq!(
            pairs(&all),
            [
                ("memory.max", "1000"),
                ("memory.low", "max"),
                ("memory.swap.max", "2000"),
                ("cpu.weight", "39"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "max"),
                ("memory.high", "9"),
            ]
        );
        let all = of(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":20}],
            "throttleReadBpsDevice":[{"major":8,"minor":16,"rate":600}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":7}]},
            "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
            "rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"rxe3":{"hcaObjects":1}},
            "memory":{"swappiness":10}}"#,
        )
        .unwrap();
        assert_eq!(
            pairs(&all),
            [
                ("io.bfq.weight", "500"),
                ("io.bfq.weight", "8:0 20"),
                ("io.max", "8:16 rbps=600"),
                ("io.max", "8:16 wiops=7"),
                ("hugetlb.2MB.max", "4194304"),
                ("hugetlb.2MB.rsvd.max", "4194304"),
                ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
                ("rdma.max", "rxe3 hca_object=1"),
            ]
        );
        assert!(of(r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#).is_err());
        assert!(of("{}").unwrap().is_empty());
        assert!(of(r#"{"memory":{"swap":5}}"#).is_err());
        assert!(of(r#"{"unified":{"../x.y":"1"}}"#).is_err());
    }

    #[test]
    fn weights_cover_the_range() {
        assert_eq!(
            (weight(2), weight(262_144), weight(u64::MAX)),
            (1, 10_000, 10_000)
        );
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn names_stay_in_the_hierarchy() {
        let root = Path::new("/r");
        assert_eq!(path_of(root, "/a/b").unwrap(), Path::new("/r/a/b"));
        assert_eq!(path_of(root, "a/./b").unwrap(), Path::new("/r/a/b"));
        assert!(path_of(root, "../x").is_err());
    }
}
