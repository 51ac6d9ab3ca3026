//! Which system calls a container may make: `linux.seccomp` in, a classic BPF program out.
//!
//! What the program decides is what libseccomp's would under runc: rules of one call in order, the
//! first whose arguments fit; one without arguments beats those with some; otherwise the default.
//! It looks for the call by bisection, so that a long list costs a call eight comparisons.
//!
//! Calls that are newer than any the list names answer ENOSYS if the default is to refuse, as in
//! runc (`libcontainer/seccomp/patchbpf`): programs then fall back to older ones. Names that we do
//! not know are passed over. Only the machine's own calling convention gets through: 32-bit
//! programs are killed, even where `architectures` names theirs.
//!
//! Instructions are those of `include/uapi/linux/bpf_common.h`, what they look at is `struct
//! seccomp_data` and what they return is from `include/uapi/linux/seccomp.h`.

use std::io;

use crate::error::{Context, Error, Result};
use crate::spec::{Seccomp, SyscallArg, SyscallRule};

/// Names of the system calls in the order of their numbers; a number says where to go on
/// (`arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/asm-generic/unistd.h`, Linux 6.17).
#[cfg(target_arch = "x86_64")]
const NAMES: &str = include_str!("syscalls/x86_64");
#[cfg(target_arch = "aarch64")]
const NAMES: &str = include_str!("syscalls/aarch64");
/// The same but for `renameat`, which it does not have, and two of its own (`arch/riscv/include/uapi/asm/unistd.h`).
#[cfg(target_arch = "riscv64")]
const NAMES: &str = concat!(
    include_str!("syscalls/aarch64"),
    " 258 riscv_hwprobe riscv_flush_icache"
);

/// `AUDIT_ARCH_X86_64`, `AUDIT_ARCH_AARCH64`, `AUDIT_ARCH_RISCV64` (`include/uapi/linux/audit.h`).
const MACHINE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e
} else if cfg!(target_arch = "aarch64") {
    0xc000_00b7
} else {
    0xc000_00f3
};

/// Numbers from here on are another convention's (`__X32_SYSCALL_BIT`); without one, nobody's.
const NUMBERS_END: u32 = 0x4000_0000;

/// The kernel takes no longer programs (`BPF_MAXINSNS`).
const PROGRAM_MAX: usize = 4096;

/// `SECCOMP_RET_*`.
const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// One instruction: `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_ALU | BPF_AND | BPF_K`, `BPF_JMP | …`, `BPF_RET | BPF_K`.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const GO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

const fn instruction(code: u16, value: u32) -> Instruction {
    jump(code, value, 0, 0)
}

const fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        value,
    }
}

/// Where `struct seccomp_data` has the number of the call and the machine.
const NUMBER_AT: u32 = 0;
const MACHINE_AT: u32 = 4;

/// Where it has the lower half of an argument; the upper one is 4 bytes further.
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

/// What becomes of a call, and if the arguments fit what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    conditional: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

/// Something that must be so of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    compare: Compare,
    value: u64,
    mask: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Greater,
    NotLess,
    Less,
    NotGreater,
}

impl Condition {
    fn of(arg: &SyscallArg) -> Result<Self> {
        if arg.index > 5 {
            return Err(Error::new(format!("args: there is no index {}", arg.index)));
        }
        let (compare, value, mask) = match arg.op.as_str() {
            "SCMP_CMP_EQ" => (Compare::Equal, arg.value, u64::MAX),
            "SCMP_CMP_NE" => (Compare::NotEqual, arg.value, u64::MAX),
            "SCMP_CMP_GT" => (Compare::Greater, arg.value, u64::MAX),
            "SCMP_CMP_GE" => (Compare::NotLess, arg.value, u64::MAX),
            "SCMP_CMP_LT" => (Compare::Less, arg.value, u64::MAX),
            "SCMP_CMP_LE" => (Compare::NotGreater, arg.value, u64::MAX),
            "SCMP_CMP_MASKED_EQ" => (Compare::Equal, arg.value_two, arg.value),
            other => return Err(Error::new(format!("args: unknown op {other:?}"))),
        };
        Ok(Self {
            index: arg.index,
            compare,
            value,
            mask,
        })
    }

    /// Appends a test that goes on behind itself if the condition holds, and else skips `rest`
    /// more instructions. Arguments have 64 bits and instructions 32: the upper halves are
    /// compared first.
    fn emit(self, rest: u8) -> Vec<Instruction> {
        let halves = |number: u64| ((number >> 32) as u32, number as u32);
        let ((upper, lower), (upper_mask, lower_mask)) = (halves(self.value), halves(self.mask));
        let low = argument_at(self.index);
        let high = low + 4;
        let load = |at| instruction(LOAD, at);
        match self.compare {
            Compare::Equal => vec![
                load(high),
                instruction(AND, upper_mask),
                jump(IF_EQUAL, upper, 0, rest + 3),
                load(low),
                instruction(AND, lower_mask),
                jump(IF_EQUAL, lower, 0, rest),
            ],
            Compare::NotEqual => vec![
                load(high),
                jump(IF_EQUAL, upper, 0, 2),
                load(low),
                jump(IF_EQUAL, lower, rest, 0),
            ],
            Compare::Greater | Compare::NotLess => {
                let code = match self.compare {
                    Compare::Greater => IF_GREATER,
                    _ => IF_NOT_LESS,
                };
                vec![
                    load(high),
                    jump(IF_GREATER, upper, 3, 0),
                    jump(IF_EQUAL, upper, 0, rest + 2),
                    load(low),
                    jump(code, lower, 0, rest),
                ]
            }
            Compare::Less | Compare::NotGreater => {
                let code = match self.compare {
                    Compare::Less => IF_NOT_LESS,
                    _ => IF_GREATER,
                };
                vec![
                    load(high),
                    jump(IF_GREATER, upper, rest + 3, 0),
                    jump(IF_EQUAL, upper, 0, 2),
                    load(low),
                    jump(code, lower, rest, 0),
                ]
            }
        }
    }
}

impl Verdict {
    fn emit(&self) -> Vec<Instruction> {
        let mut all = Vec::new();
        for (conditions, action) in &self.conditional {
            let mut rule = vec![instruction(RETURN, *action)];
            for condition in conditions.iter().rev() {
                // Six conditions of six instructions at most: see `add`.
                let mut test = condition.emit(rule.len() as u8);
                test.append(&mut rule);
                rule = test;
            }
            all.append(&mut rule);
        }
        all.push(instruction(RETURN, self.otherwise));
        all
    }
}

/// Returns what an action makes a filter return.
fn action(name: &str, number: Option<u32>) -> Result<u32> {
    let number = number.unwrap_or(libc::EPERM as u32);
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE" if number > 0xffff => {
            return Err(Error::new(format!("{name}: error number {number}")));
        }
        "SCMP_ACT_ERRNO" => ERRNO | number,
        "SCMP_ACT_TRACE" => TRACE | number,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_NOTIFY" => return Err(Error::new("SCMP_ACT_NOTIFY: not supported")),
        other => return Err(Error::new(format!("unknown action {other:?}"))),
    })
}

/// Returns the machine's calls by name.
fn numbers() -> Vec<(&'static str, u32)> {
    let mut next = 0;
    let mut all = Vec::new();
    for word in NAMES.split_ascii_whitespace() {
        match word.parse() {
            Ok(number) => next = number,
            Err(_) => {
                all.push((word, next));
                next += 1;
            }
        }
    }
    all.sort_unstable();
    all
}

/// Adds a rule to what is known of the calls it names.
fn add(
    rule: &SyscallRule,
    numbers: &[(&str, u32)],
    default: u32,
    all: &mut Vec<(u32, Verdict)>,
) -> Result<()> {
    let action = action(&rule.action, rule.errno_ret)?;
    let conditions = rule.args.iter().map(Condition::of);
    let conditions = conditions.collect::<Result<Vec<_>>>()?;
    // As runc: a list that speaks of one argument twice means any of it, otherwise all of it.
    let repeats = |(at, one): (usize, &Condition)| {
        conditions[..at]
            .iter()
            .any(|other| other.index == one.index)
    };
    let alternatives = match conditions.iter().enumerate().any(repeats) {
        true => conditions.iter().map(|one| vec![*one]).collect(),
        false => vec![conditions.clone()],
    };
    let known = rule.names.iter().filter_map(|name| {
        let at = numbers.binary_search_by_key(&name.as_str(), |(name, _)| name);
        Some(numbers[at.ok()?].1)
    });
    for number in known {
        let at = match all.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => at,
            Err(at) => {
                let verdict = Verdict {
                    conditional: Vec::new(),
                    otherwise: default,
                };
                all.insert(at, (number, verdict));
                at
            }
        };
        let verdict = &mut all[at].1;
        if action == default {
            // Says nothing new, but the call is known.
        } else if !conditions.is_empty() {
            let new = alternatives.iter().cloned().map(|all| (all, action));
            verdict.conditional.extend(new);
        } else if verdict.otherwise == default {
            verdict.otherwise = action;
        }
    }
    Ok(())
}

/// Makes the program.
fn program(seccomp: &Seccomp) -> Result<Vec<Instruction>> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)
        .context(|| "linux.seccomp.defaultAction")?;
    let mut calls = Vec::new();
    let numbers = numbers();
    for (index, rule) in seccomp.syscalls.iter().enumerate() {
        add(rule, &numbers, default, &mut calls)
            .context(|| format!("linux.seccomp.syscalls[{index}]"))?;
    }
    let plain = |action| Verdict {
        conditional: Vec::new(),
        otherwise: action,
    };
    let newest = calls.last().map(|(number, _)| *number);

    // Ranges with one verdict each, by their first number.
    let mut ranges: Vec<(u32, Verdict)> = vec![(0, plain(default))];
    let mut push = |start: u32, verdict: Verdict| match ranges.last_mut() {
        Some(last) if last.0 == start => last.1 = verdict,
        Some(last) if last.1 == verdict && verdict.conditional.is_empty() => {}
        _ => ranges.push((start, verdict)),
    };
    for (number, mut verdict) in calls {
        if verdict.otherwise != default {
            verdict.conditional.clear();
        }
        push(number, verdict);
        push(number + 1, plain(default));
    }
    let refuses = ![ALLOW, LOG].contains(&default) && default & 0x7fff_0000 != TRACE;
    if let Some(newest) = newest.filter(|_| refuses) {
        push(newest + 1, plain(ERRNO | libc::ENOSYS as u32));
    }
    push(NUMBERS_END, plain(KILL_PROCESS));

    let mut all = vec![
        instruction(LOAD, MACHINE_AT),
        jump(IF_EQUAL, MACHINE, 1, 0),
        instruction(RETURN, KILL_PROCESS),
        instruction(LOAD, NUMBER_AT),
    ];
    all.extend(bisect(&ranges));
    match all.len() {
        ..=PROGRAM_MAX => Ok(all),
        length => Err(Error::new(format!(
            "linux.seccomp: {length} instructions, {PROGRAM_MAX} are possible"
        ))),
    }
}

/// Finds the range of a number. The jump over the lower half is one of its own, since conditional
/// ones reach no further than 255 instructions.
fn bisect(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = ranges {
        return verdict.emit();
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let Some((start, _)) = upper.first() else {
        return Vec::new();
    };
    let lower = bisect(lower);
    let mut all = vec![
        jump(IF_NOT_LESS, *start, 0, 1),
        instruction(GO, lower.len() as u32),
    ];
    all.extend(lower);
    all.extend(bisect(upper));
    all
}

/// Returns `SECCOMP_FILTER_FLAG_*` bits.
fn flags(seccomp: &Seccomp) -> Result<libc::c_ulong> {
    let mut all = 0;
    for flag in &seccomp.flags {
        all |= match flag.as_str() {
            // There is one thread, which is all of them.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => 2,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
            other => {
                return Err(Error::new(format!(
                    "linux.seccomp.flags: {other}: not supported"
                )));
            }
        };
    }
    Ok(all)
}

/// The program of a filter as the kernel takes it: `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Filters the system calls of this process and its children from now on. Needs CAP_SYS_ADMIN, or
/// that no privileges are gained any more.
pub(crate) fn confine(seccomp: &Seccomp) -> Result<()> {
    let known = |name: &&String| !name.starts_with("SCMP_ARCH_");
    if let Some(name) = seccomp.architectures.iter().find(known) {
        return Err(Error::new(format!(
            "linux.seccomp.architectures: unknown {name:?}"
        )));
    }
    let (all, flags) = (program(seccomp)?, flags(seccomp)?);
    let program = Program {
        length: all.len() as u16,
        instructions: all.as_ptr(),
    };
    // SAFETY: the kernel copies the program, which outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context(|| "linux.seccomp"),
    }
}

#[cfg(test)]
mod tests;
