//! eBPF programs on a container's control group: which devices it may use (in: the rules of
//! `linux.resources.devices`), and that its ports may be shared.
//!
//! The program for devices looks at the rules from the last to the first, as runc's does: a later one beats an
//! earlier one, for each of read, write and mknod by itself. What no rule speaks of is denied.
//! Instructions and attributes are those of `include/uapi/linux/bpf.h`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Context, Error, Result};
use crate::say;
use crate::spec::DeviceRule;

/// `BPF_DEVCG_ACC_*`.
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
/// `BPF_DEVCG_DEV_*`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// Allowed to every container, whatever its rules say (runc 1.3, `specconv.AllowedDevices`):
/// making nodes, the usual ones, and terminals of its own.
const USUAL: [(i32, i32, i32, i32); 10] = [
    (CHAR, -1, -1, MKNOD),
    (BLOCK, -1, -1, MKNOD),
    (CHAR, 1, 3, MKNOD | READ | WRITE),
    (CHAR, 1, 5, MKNOD | READ | WRITE),
    (CHAR, 1, 7, MKNOD | READ | WRITE),
    (CHAR, 1, 8, MKNOD | READ | WRITE),
    (CHAR, 1, 9, MKNOD | READ | WRITE),
    (CHAR, 5, 0, MKNOD | READ | WRITE),
    (CHAR, 5, 2, MKNOD | READ | WRITE),
    (CHAR, 136, -1, MKNOD | READ | WRITE),
];

/// A rule, its numbers −1 for any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// −1 for both kinds.
    kind: i32,
    major: i32,
    minor: i32,
    access: i32,
}

impl Rule {
    fn of(rule: &DeviceRule) -> Result<Self> {
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(-1),
            Some(number) => i32::try_from(number).context(|| format!("device number {number}")),
        };
        let kind = match rule.kind.as_str() {
            "" | "a" => -1,
            "b" => BLOCK,
            "c" | "u" => CHAR,
            other => return Err(Error::new(format!("unknown type {other:?}"))),
        };
        let mut access = 0;
        for letter in rule.access.chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(Error::new(format!("unknown access {:?}", rule.access))),
            };
        }
        Ok(Self {
            allow: rule.allow,
            kind,
            major: number(rule.major)?,
            minor: number(rule.minor)?,
            access: if access == 0 {
                MKNOD | READ | WRITE
            } else {
                access
            },
        })
    }
}

/// Returns the rules in force, those of every container behind the container's own.
fn rules(own: &[DeviceRule]) -> Result<Vec<Rule>> {
    let mut all = Vec::new();
    for (index, rule) in own.iter().enumerate() {
        all.push(Rule::of(rule).context(|| format!("linux.resources.devices[{index}]"))?);
    }
    all.extend(USUAL.map(|(kind, major, minor, access)| Rule {
        allow: true,
        kind,
        major,
        minor,
        access,
    }));
    Ok(all)
}

/// One instruction: `struct bpf_insn` as the number it is on a little-endian machine.
type Instruction = u64;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset as u16 as u64) << 16
        | (value as u32 as u64) << 32
}

/// `BPF_LDX | BPF_MEM | BPF_W`, `BPF_ALU64 | BPF_MOV | BPF_X`, …: class, operation, operand.
const LOAD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
/// 32-bit comparisons (`BPF_JMP32`): the kernel's numbers are unsigned, and 32 bits wide.
const IF_NOT: u8 = 0x56;
const IF_ANY: u8 = 0x46;
const GO: u8 = 0x05;
const EXIT: u8 = 0x95;
/// `BPF_ST | BPF_MEM | BPF_W`, `BPF_ALU64 | BPF_ADD | BPF_K`, `BPF_JMP | BPF_CALL`.
const STORE: u8 = 0x62;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;
/// `BPF_JMP32 | BPF_JEQ | BPF_K`.
const IF: u8 = 0x16;
/// The end of the stack.
const FRAME: u8 = 10;
/// `BPF_FUNC_setsockopt`.
const SET_OPTION: i32 = 49;

/// Registers: the result, the context, and what the rules are about.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
/// What of the access asked for is not decided yet.
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Makes a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; its context is
/// `struct bpf_cgroup_dev_ctx`, the kind in the lower and the access in the upper half of a word.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let answer = |allow: bool| {
        [
            instruction(SET, RESULT, 0, 0, i32::from(allow)),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let mut all = vec![
        instruction(LOAD, KIND, CONTEXT, 0, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(LOAD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let decision = if rule.allow {
            vec![
                instruction(AND, ACCESS, 0, 0, !rule.access),
                instruction(IF_NOT, ACCESS, 0, 2, 0),
            ]
        } else {
            vec![
                instruction(IF_ANY, ACCESS, 0, 1, rule.access),
                instruction(GO, 0, 0, 2, 0),
            ]
        };
        let mut tests = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter(|(_, wanted)| *wanted >= 0)
            .rev()
            .zip(4..)
            .map(|((register, wanted), behind)| instruction(IF_NOT, register, 0, behind, wanted))
            .collect::<Vec<_>>();
        tests.reverse();
        all.extend(tests);
        all.extend(decision);
        all.extend(answer(rule.allow));
    }
    all.extend(answer(false));
    all
}

/// Puts the filter of a container on its group.
///
/// A kernel without such filters is a reason to refuse a container with rules of its own; without
/// any, it runs as it did before there were filters, and that is said once.
pub(crate) fn filter_devices(group: &Path, own: &[DeviceRule]) -> Result<()> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let program = program(&rules(own)?);
    match load(&program, DEVICES).context(|| "device filter")? {
        Some(loaded) => attach(&loaded, group, DEVICES).context(|| "device filter: attach"),
        None if own.is_empty() => {
            if !SAID.swap(true, Ordering::Relaxed) {
                say!("the kernel has no device filters (CONFIG_CGROUP_BPF)");
            }
            Ok(())
        }
        None => Err(Error::new(
            "linux.resources.devices: the kernel has no device filters (CONFIG_CGROUP_BPF)",
        )),
    }
}

/// Gives every socket of a group `SO_REUSEPORT` before it is bound to a port of its choice, so that it may listen where
/// another does already (Linux 5.12).
pub(crate) fn reuse_ports(group: &Path) -> Result<()> {
    // setsockopt(context, SOL_SOCKET, SO_REUSEPORT, &1, 4): arguments are the registers from 1 on.
    // The port is in the context, `struct bpf_sock_addr`, at 24.
    let program = [
        instruction(LOAD, 2, CONTEXT, 24, 0),
        instruction(IF, 2, 0, 7, 0),
        instruction(STORE, FRAME, 0, -4, 1),
        instruction(SET, 2, 0, 0, libc::SOL_SOCKET),
        instruction(SET, 3, 0, 0, libc::SO_REUSEPORT),
        instruction(COPY, 4, FRAME, 0, 0),
        instruction(ADD, 4, 0, 0, -4),
        instruction(SET, 5, 0, 0, 4),
        instruction(CALL, 0, 0, 0, SET_OPTION),
        // It is bound, whatever came of it.
        instruction(SET, RESULT, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    for place in [BIND_V4, BIND_V6] {
        let loaded = load(&program, place).context(|| "shared ports")?;
        let loaded = loaded.ok_or_else(|| {
            Error::new("the kernel cannot share ports of a control group (CONFIG_CGROUP_BPF)")
        })?;
        attach(&loaded, group, place).context(|| "shared ports")?;
    }
    Ok(())
}

/// The part of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    place: u32,
}

/// The part of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttributes {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
/// A kind of program, and where it is attached: `BPF_PROG_TYPE_*`, `BPF_CGROUP_*`.
type Place = (u32, u32);
const DEVICES: Place = (15, 6);
const BIND_V4: Place = (18, 8);
const BIND_V6: Place = (18, 9);
const BPF_F_ALLOW_MULTI: u32 = 2;
/// Room for what the verifier has to say.
const LOG_BYTES: usize = 16 << 10;

/// Loads a program; none on a kernel that does not know the kind.
fn load(program: &[Instruction], place: Place) -> Result<Option<OwnedFd>> {
    // Up to Linux 5.10 programs are locked memory of their user, 64 KiB for all of them together.
    let limit = getrlimit(Resource::Memlock);
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let loaded = load_with(program, place, &mut []).or_else(|_| {
        let mut log = vec![0; LOG_BYTES];
        load_with(program, place, &mut log).map_err(|cause| (cause, log))
    });
    let _ = setrlimit(Resource::Memlock, limit);
    match loaded {
        Ok(loaded) => Ok(Some(loaded)),
        Err((cause, log)) => {
            let log = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or(&[]));
            match cause.raw_os_error() {
                // Unknown call, or unknown kind; of a program the verifier refuses it says why.
                Some(libc::ENOSYS | libc::EINVAL) if log.is_empty() => Ok(None),
                _ => Err(Error::new(format!("{cause} {}", log.trim_end()))),
            }
        }
    }
}

fn load_with(program: &[Instruction], place: Place, log: &mut [u8]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        kind: place.0,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_bytes: log.len() as u32,
        log: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        place: place.1,
    };
    // SAFETY: the kernel reads the attributes and what they point to, and writes into the log
    // only; all of it outlives the call. A descriptor it returns is new.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<LoadAttributes>(),
        );
        match fd {
            0.. => Ok(OwnedFd::from_raw_fd(fd as i32)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn attach(program: &OwnedFd, group: &Path, place: Place) -> io::Result<()> {
    let group = fs::File::open(group)?;
    let attributes = AttachAttributes {
        target: group.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: place.1,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the kernel only reads the attributes.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attributes,
            size_of::<AttachAttributes>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would, as far as ours need it.
    fn run(program: &[Instruction], kind: i32, access: i32, numbers: (i32, i32)) -> bool {
        let context = [
            (access << 16 | kind) as u64,
            numbers.0 as u64,
            numbers.1 as u64,
        ];
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let code = program[at] as u8;
            let to = (program[at] >> 8 & 0xf) as usize;
            let from = (program[at] >> 12 & 0xf) as usize;
            let offset = (program[at] >> 16) as i16 as usize;
            let value = (program[at] >> 32) as i32;
            at += 1;
            match code {
                LOAD => registers[to] = context[offset / 4],
                COPY => registers[to] = registers[from],
                SET => registers[to] = value as u64,
                AND => registers[to] &= i64::from(value) as u64,
                SHIFT_RIGHT => registers[to] >>= value,
                IF_NOT if registers[to] as u32 != value as u32 => at += offset,
                IF_ANY if registers[to] as u32 & value as u32 != 0 => at += offset,
                IF_NOT | IF_ANY => {}
                GO => at += offset,
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// The rule book: for each letter the last rule that speaks of it decides.
    fn expected(rules: &[Rule], kind: i32, access: i32, numbers: (i32, i32)) -> bool {
        let fits = |wanted: i32, is: i32| wanted == -1 || wanted == is;
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                let mut last = rules.iter().rev().filter(|rule| {
                    fits(rule.kind, kind)
                        && fits(rule.major, numbers.0)
                        && fits(rule.minor, numbers.1)
                        && rule.access & bit != 0
                });
                last.next().is_some_and(|rule| rule.allow)
            })
    }

    fn a_rule() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![Just(-1), Just(CHAR), Just(BLOCK)];
        (any::<bool>(), kind, -1..3, -1..3, 1..8).prop_map(|(allow, kind, major, minor, access)| {
            Rule {
                allow,
                kind,
                major,
                minor,
                access,
            }
        })
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_rules_say(
            rules in proptest::collection::vec(a_rule(), 0..8),
            kind in 1..3, access in 1..8, major in 0..3, minor in 0..3,
        ) {
            let numbers = (major, minor);
            prop_assert_eq!(
                run(&program(&rules), kind, access, numbers),
                expected(&rules, kind, access, numbers)
            );
        }
    }

    #[test]
    fn every_container_has_the_usual_ones_and_nobody_else() {
        let deny = DeviceRule {
            access: "rwm".to_owned(),
            ..DeviceRule::default()
        };
        for own in [vec![], vec![deny]] {
            let program = program(&rules(&own).unwrap());
            assert!(run(&program, CHAR, READ | WRITE, (1, 3)));
            assert!(run(&program, BLOCK, MKNOD, (8, 0)));
            assert!(!run(&program, BLOCK, READ, (8, 0)));
            assert!(!run(&program, CHAR, READ | MKNOD, (1, 11)));
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let of = |kind: &str, major, access: &str| {
            rules(&[DeviceRule {
                kind: kind.to_owned(),
                major,
                access: access.to_owned(),
                ..DeviceRule::default()
            }])
        };
        for wrong in [
            of("x", None, ""),
            of("c", None, "q"),
            of("c", Some(1 << 40), "r"),
        ] {
            let error = wrong.unwrap_err().to_string();
            assert!(error.starts_with("linux.resources.devices[0]: "), "{error}");
        }
        assert_eq!(of("a", Some(-1), "").unwrap()[0].access, 7);
    }
}
