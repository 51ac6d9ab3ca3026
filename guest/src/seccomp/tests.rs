//! The programs, run by an interpreter, against what the rules say.

use super::*;
use proptest::prelude::*;

/// Runs a program as the kernel would.
fn run(program: &[Instruction], machine: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = vec![number, machine, 0, 0];
    data.extend(
        args.iter()
            .flat_map(|arg| [*arg as u32, (*arg >> 32) as u32]),
    );
    let (mut at, mut sum) = (0, 0);
    loop {
        let Instruction {
            code,
            if_true,
            if_false,
            value,
        } = program[at];
        let branch = |yes: bool| usize::from(if yes { if_true } else { if_false });
        at += 1;
        match code {
            LOAD => sum = data[value as usize / 4],
            AND => sum &= value,
            GO => at += value as usize,
            IF_EQUAL => at += branch(sum == value),
            IF_GREATER => at += branch(sum > value),
            IF_NOT_LESS => at += branch(sum >= value),
            RETURN => return value,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn seccomp(json: &str) -> Seccomp {
    crate::json::parse(json.as_bytes()).unwrap()
}

fn number(name: &str) -> u32 {
    let numbers = numbers();
    let mut named = numbers.iter().filter(|(known, _)| *known == name);
    named.next().unwrap().1
}

fn on(program: &[Instruction], name: &str, args: [u64; 6]) -> u32 {
    run(program, MACHINE, number(name), args)
}

#[test]
fn numbers_agree_with_the_c_library() {
    for (name, number_of_libc) in [
        ("read", libc::SYS_read),
        ("execve", libc::SYS_execve),
        ("ptrace", libc::SYS_ptrace),
        ("seccomp", libc::SYS_seccomp),
        ("statx", libc::SYS_statx),
        ("clone3", libc::SYS_clone3),
        ("mseal", libc::SYS_mseal),
    ] {
        assert_eq!(i64::from(number(name)), number_of_libc, "{name}");
    }
}

#[test]
fn a_list_of_what_is_allowed() {
    let program = program(&seccomp(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read","write","no_such_call","statx"],"action":"SCMP_ACT_ALLOW"},
        {"names":["close"],"action":"SCMP_ACT_ERRNO","errnoRet":9},
        {"names":["kill"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":5,"op":"SCMP_CMP_EQ"},{"index":1,"value":9,"op":"SCMP_CMP_NE"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}
        ]}"#,
    ))
    .unwrap();
    let none = [0; 6];
    assert_eq!(on(&program, "read", none), ALLOW);
    assert_eq!(on(&program, "ptrace", none), ERRNO | 1);
    assert_eq!(on(&program, "close", none), ERRNO | 9);
    assert_eq!(on(&program, "kill", [5, 15, 0, 0, 0, 0]), ALLOW);
    assert_eq!(on(&program, "kill", [5, 9, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(on(&program, "kill", [6, 15, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(on(&program, "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(on(&program, "personality", [4, 0, 0, 0, 0, 0]), ERRNO | 1);
    // Newer than any that is named.
    assert_eq!(on(&program, "mseal", none), ERRNO | libc::ENOSYS as u32);
    let read = number("read");
    assert_eq!(
        run(&program, MACHINE, NUMBERS_END + read, none),
        KILL_PROCESS
    );
    assert_eq!(run(&program, 0x4000_0003, read, none), KILL_PROCESS);
}

#[test]
fn nonsense_is_refused_with_its_place() {
    for (json, expected) in [
        (r#"{"defaultAction":""}"#, "defaultAction: unknown action"),
        (
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            "SCMP_ACT_NOTIFY: not supported",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],
            "action":"SCMP_ACT_LOG","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
            "syscalls[0]: args: there is no index 6",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":70000}"#,
            "error number 70000",
        ),
    ] {
        let error = program(&seccomp(json)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let flag = seccomp(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#);
    assert!(flags(&flag).is_err());
}

const OPS: [&str; 7] = ["EQ", "NE", "GT", "GE", "LT", "LE", "MASKED_EQ"];

fn holds(arg: &SyscallArg, is: u64) -> bool {
    match arg.op.trim_start_matches("SCMP_CMP_") {
        "EQ" => is == arg.value,
        "NE" => is != arg.value,
        "GT" => is > arg.value,
        "GE" => is >= arg.value,
        "LT" => is < arg.value,
        "LE" => is <= arg.value,
        _ => is & arg.value == arg.value_two,
    }
}

/// Numbers whose halves are equal, neighbours or different.
fn a_value() -> impl Strategy<Value = u64> {
    (0..3_u64, 0..3_u64).prop_map(|(upper, lower)| upper << 32 | lower)
}

fn an_arg() -> impl Strategy<Value = SyscallArg> {
    (0..3_u32, a_value(), a_value(), 0..OPS.len()).prop_map(|(index, value, value_two, op)| {
        SyscallArg {
            index,
            value,
            value_two,
            op: format!("SCMP_CMP_{}", OPS[op]),
        }
    })
}

fn a_rule() -> impl Strategy<Value = SyscallRule> {
    let names = [
        "read",
        "write",
        "open_by_handle_at",
        "kill",
        "bpf",
        "absent",
    ];
    let names = proptest::sample::subsequence(names.to_vec(), 0..4);
    let args = proptest::collection::vec(an_arg(), 0..4);
    (names, 0..9_u32, args).prop_map(|(names, errno, args)| SyscallRule {
        names: names.into_iter().map(str::to_owned).collect(),
        action: "SCMP_ACT_ERRNO".to_owned(),
        errno_ret: Some(errno),
        args,
    })
}

fn expected(seccomp: &Seccomp, name: &str, args: [u64; 6]) -> u32 {
    let of = || {
        seccomp
            .syscalls
            .iter()
            .filter(|rule| rule.names.iter().any(|n| n == name))
    };
    let default = ALLOW;
    if let Some(rule) = of().find(|rule| rule.args.is_empty()) {
        return ERRNO | rule.errno_ret.unwrap();
    }
    for rule in of() {
        let held = rule
            .args
            .iter()
            .map(|arg| holds(arg, args[arg.index as usize]));
        let held: Vec<bool> = held.collect();
        let mut seen: Vec<u32> = rule.args.iter().map(|arg| arg.index).collect();
        seen.sort_unstable();
        seen.dedup();
        let fits = match seen.len() == rule.args.len() {
            true => held.iter().all(|held| *held),
            false => held.iter().any(|held| *held),
        };
        if fits {
            return ERRNO | rule.errno_ret.unwrap();
        }
    }
    default
}

proptest! {
    #[test]
    fn the_program_does_what_the_rules_say(
        syscalls in proptest::collection::vec(a_rule(), 0..6),
        values in (a_value(), a_value(), a_value()),
    ) {
        let seccomp = Seccomp {
            default_action: "SCMP_ACT_ALLOW".to_owned(),
            syscalls,
            ..Seccomp::default()
        };
        let program = program(&seccomp).unwrap();
        let args = [values.0, values.1, values.2, 0, 0, 0];
        for name in ["read", "write", "open_by_handle_at", "kill", "bpf", "close", "mseal"] {
            prop_assert_eq!(on(&program, name, args), expected(&seccomp, name, args), "{}", name);
        }
    }
}
