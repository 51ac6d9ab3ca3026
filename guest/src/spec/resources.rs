//! `linux.resources` of `config.json`.

use std::collections::BTreeMap;

use crate::json::record;

record! {
    /// `linux.resources`.
    Resources {
        /// Device access rules, in order.
        devices: Vec<DeviceRule> = "devices",
        /// Memory.
        memory: Memory = "memory",
        /// Processor.
        cpu: Cpu = "cpu",
        /// Number of processes.
        pids: Pids = "pids",
        /// Reads and writes of disks.
        block_io: BlockIo = "blockIO",
        /// Huge pages.
        hugepage_limits: Vec<HugepageLimit> = "hugepageLimits",
        /// RDMA, by device.
        rdma: BTreeMap<String, Rdma> = "rdma",
        /// cgroup v2 files, written as they are.
        unified: BTreeMap<String, String> = "unified",
    }
    refused "network"
}

record! {
    /// One of `linux.resources.devices`.
    DeviceRule {
        /// Allow or deny.
        allow: bool = "allow",
        /// `a`, `b`, `c`; empty is `a`.
        kind: String = "type",
        /// Major number; absent is any.
        major: Option<i64> = "major",
        /// Minor number; absent is any.
        minor: Option<i64> = "minor",
        /// Of `r`, `w`, `m`; empty is all.
        access: String = "access",
    }
}

record! {
    /// `linux.resources.memory`, in bytes; −1 is unlimited.
    Memory {
        /// Hard limit.
        limit: Option<i64> = "limit",
        /// Best-effort protection.
        reservation: Option<i64> = "reservation",
        /// Memory plus swap.
        swap: Option<i64> = "swap",
    }
}

record! {
    /// `linux.resources.cpu`.
    Cpu {
        /// cgroup v1 weight, 2–262144.
        shares: Option<u64> = "shares",
        /// Microseconds of CPU per period; −1 is unlimited.
        quota: Option<i64> = "quota",
        /// Length of a period in microseconds.
        period: Option<u64> = "period",
        /// CPU list such as `0-3,8`.
        cpus: String = "cpus",
        /// Memory node list.
        mems: String = "mems",
        /// 1 makes the group idle.
        idle: Option<i64> = "idle",
    }
    refused "realtimeRuntime" "realtimePeriod"
}

record! {
    /// `linux.resources.blockIO`.
    BlockIo {
        /// 10–1000.
        weight: Option<u16> = "weight",
        /// The same for one disk.
        weight_device: Vec<DeviceLimit> = "weightDevice",
        /// Bytes a second.
        read_bps: Vec<DeviceLimit> = "throttleReadBpsDevice",
        /// The same.
        write_bps: Vec<DeviceLimit> = "throttleWriteBpsDevice",
        /// Operations a second.
        read_iops: Vec<DeviceLimit> = "throttleReadIOPSDevice",
        /// The same.
        write_iops: Vec<DeviceLimit> = "throttleWriteIOPSDevice",
    }
    refused "leafWeight"
}

record! {
    /// What is so of one disk.
    DeviceLimit {
        /// Its number.
        major: u32 = "major",
        /// Its number.
        minor: u32 = "minor",
        /// Of `throttle…`.
        rate: u64 = "rate",
        /// Of `weightDevice`.
        weight: u16 = "weight",
    }
    required "major" "minor"
    refused "leafWeight"
}

record! {
    /// One of `linux.resources.hugepageLimits`.
    HugepageLimit {
        /// `2MB` …
        page_size: String = "pageSize",
        /// Bytes.
        limit: u64 = "limit",
    }
    required "pageSize" "limit"
}

record! {
    /// One of `linux.resources.rdma`.
    Rdma {
        /// Most handles.
        handles: Option<u32> = "hcaHandles",
        /// Most objects.
        objects: Option<u32> = "hcaObjects",
    }
}

record! {
    /// `linux.resources.pids`.
    Pids {
        /// Most processes; 0 or −1 is unlimited.
        limit: Option<i64> = "limit",
    }
}
