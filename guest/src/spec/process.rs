//! `process` of `config.json`.

use crate::json::record;

record! {
    /// `process`.
    Process {
        /// Wants a terminal.
        terminal: bool = "terminal",
        /// Its size.
        console_size: Option<ConsoleSize> = "consoleSize",
        /// Identity.
        user: User = "user",
        /// Program and arguments.
        args: Vec<String> = "args",
        /// `KEY=value` strings.
        env: Vec<String> = "env",
        /// Working directory.
        cwd: String = "cwd",
        /// The five capability sets; absent means none.
        capabilities: Capabilities = "capabilities",
        /// Resource limits.
        rlimits: Vec<Rlimit> = "rlimits",
        /// Sets `PR_SET_NO_NEW_PRIVS`.
        no_new_privileges: bool = "noNewPrivileges",
        /// Written to `/proc/self/oom_score_adj`.
        oom_score_adj: Option<i32> = "oomScoreAdj",
        /// Which of the processor's schedulers it has.
        scheduler: Option<Scheduler> = "scheduler",
        /// When its reads and writes are due.
        io_priority: Option<IoPriority> = "ioPriority",
    }
    refused "apparmorProfile" "selinuxLabel"
}

record! {
    /// `process.scheduler` (sched_setattr(2)).
    Scheduler {
        /// `SCHED_FIFO` …
        policy: String = "policy",
        /// Of ordinary policies, −20 to 19.
        nice: i32 = "nice",
        /// Of real-time policies, 1 to 99.
        priority: u32 = "priority",
        /// `SCHED_FLAG_RESET_ON_FORK` …
        flags: Vec<String> = "flags",
        /// Nanoseconds of `SCHED_DEADLINE`.
        runtime: u64 = "runtime",
        /// The same.
        deadline: u64 = "deadline",
        /// The same.
        period: u64 = "period",
    }
    required "policy"
}

record! {
    /// `process.ioPriority` (ioprio_set(2)).
    IoPriority {
        /// `IOPRIO_CLASS_BE` …
        class: String = "class",
        /// 0 to 7, the first of which is the highest.
        priority: u16 = "priority",
    }
    required "class"
}

record! {
    /// `process.consoleSize`, in characters.
    ConsoleSize {
        /// Rows.
        height: u16 = "height",
        /// Columns.
        width: u16 = "width",
    }
}

record! {
    /// `process.user`.
    User {
        /// User id.
        uid: u32 = "uid",
        /// Group id.
        gid: u32 = "gid",
        /// Supplementary groups.
        additional_gids: Vec<u32> = "additionalGids",
        /// File creation mask; 0022 if absent.
        umask: Option<u32> = "umask",
    }
}

record! {
    /// `process.capabilities`: names such as `CAP_NET_ADMIN`.
    Capabilities {
        /// Limit for exec.
        bounding: Vec<String> = "bounding",
        /// In force.
        effective: Vec<String> = "effective",
        /// Kept over exec of privileged files.
        inheritable: Vec<String> = "inheritable",
        /// May be put in force.
        permitted: Vec<String> = "permitted",
        /// Kept over exec of ordinary files.
        ambient: Vec<String> = "ambient",
    }
}

record! {
    /// One of `process.rlimits`.
    Rlimit {
        /// `RLIMIT_NOFILE` …
        kind: String = "type",
        /// Soft limit; 2⁶⁴−1 is unlimited.
        soft: u64 = "soft",
        /// Hard limit.
        hard: u64 = "hard",
    }
    required "type" "soft" "hard"
}
