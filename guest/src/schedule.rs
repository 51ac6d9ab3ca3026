//! How a process is scheduled, and which kernel it is told it runs on: `process.scheduler`,
//! `process.ioPriority`, `linux.personality`.
//!
//! The first two are set from outside, by whoever may (`include/uapi/linux/sched/types.h`,
//! `include/uapi/linux/ioprio.h`); the third by the process itself, before its exec.

use std::io;

use rustix::process::Pid;

use crate::error::{Context, Error, Result};
use crate::spec::{IoPriority, Personality, Scheduler};

/// `struct sched_attr`, as of its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const IO_CLASSES: [(&str, u32); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

fn lookup<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T> {
    let entry = table.iter().find(|(known, _)| *known == name);
    entry
        .map(|(_, value)| *value)
        .ok_or_else(|| Error::new(format!("unknown {name:?}")))
}

fn done(result: libc::c_long) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns a process as the calls here want it: 0 is our own.
fn number(pid: Option<Pid>) -> i32 {
    pid.map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Sets the policy of the processor's scheduler.
pub(crate) fn set_policy(pid: Option<Pid>, wanted: &Scheduler) -> Result<()> {
    let set = || {
        let mut flags = 0;
        for flag in &wanted.flags {
            flags |= lookup(&FLAGS, flag)?;
        }
        let attr = SchedAttr {
            size: size_of::<SchedAttr>() as u32,
            policy: lookup(&POLICIES, &wanted.policy)?,
            flags,
            nice: wanted.nice,
            priority: wanted.priority,
            runtime: wanted.runtime,
            deadline: wanted.deadline,
            period: wanted.period,
        };
        // SAFETY: the kernel reads as many bytes as `size` says.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_setattr, number(pid), &raw const attr, 0) };
        done(result).context(|| &wanted.policy)
    };
    set().context(|| "process.scheduler")
}

/// Sets the priority of reads and writes.
pub(crate) fn set_io_priority(pid: Option<Pid>, wanted: &IoPriority) -> Result<()> {
    /// `IOPRIO_WHO_PROCESS`.
    const PROCESS: i32 = 1;
    let set = || {
        let class = lookup(&IO_CLASSES, &wanted.class)?;
        let value = class << 13 | u32::from(wanted.priority & 7);
        // SAFETY: numbers only.
        let result = unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, number(pid), value) };
        done(result).context(|| &wanted.class)
    };
    set().context(|| "process.ioPriority")
}

/// Sets what uname(2) and the like tell us and our children.
pub(crate) fn set_personality(wanted: &Personality) -> Result<()> {
    let set = || {
        if let Some(flag) = wanted.flags.first() {
            return Err(Error::new(format!("{flag}: not supported")));
        }
        // `include/uapi/linux/personality.h`.
        let domain = lookup(&[("LINUX", 0), ("LINUX32", 8)], &wanted.domain)?;
        // SAFETY: a number only.
        done(unsafe { libc::personality(domain) }.into()).context(|| &wanted.domain)
    };
    set().context(|| "linux.personality")
}
