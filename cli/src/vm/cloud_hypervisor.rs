//! A Cloud Hypervisor command line for a machine.
//!
//! Enters: a machine, and where its sockets go. Leaves: arguments as `cloud-hypervisor/src/main.rs`
//! takes them, of which each value is what `vmm/src/config.rs` reads, by the rules of
//! `option_parser/src/lib.rs`. Version 52 is the first that knows all of them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Signal, pidfd_send_signal};

use super::kernel::Kernel;
use super::monitor::process_of;
use super::place::Place;
use super::vsock::GUEST_CID;
use crate::machine::{Machine, Networking};

/// What an event is called by which a guest is about to boot again (`vm_reboot` of `vmm/src/lib.rs`),
/// as it stands in JSON (`event_monitor/src/lib.rs`).
const REBOOTS: &[u8] = b"\"rebooting\"";

/// Returns the arguments. The console is a socket when it `has_console`, else only a file: the machine
/// is there for one program then, and [`end_at_reboot`] looks after it.
pub(crate) fn arguments(
    machine: &Machine,
    kernel: Kernel<'_>,
    place: &Place,
    has_console: bool,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: OsString| {
        arguments.push(flag.into());
        arguments.push(value);
    };
    add("--kernel", kernel.image.into());
    if let Some(initrd) = kernel.initrd {
        add("--initramfs", initrd.into());
    }
    add("--cmdline", kernel.cmdline.into());
    add("--cpus", format!("boot={}", machine.cpus).into());
    // The servers of shared directories see the machine's memory (docs/fs.md).
    let shared = if machine.shares > 0 { ",shared=on" } else { "" };
    add(
        "--memory",
        format!("size={}M{shared}", machine.memory).into(),
    );
    // Flags that can be repeated take any number of values: one each, so that none is taken for
    // another's.
    for disk in &machine.disks {
        let value = format!("path={},image_type={}", quoted(&disk.file), disk.format);
        add("--disk", value.into());
    }
    if let Networking::Tap(name) = &machine.networking {
        add("--net", format!("tap={name}").into());
    }
    for index in 0..machine.shares {
        let socket = quoted(&place.share(index));
        add(
            "--fs",
            format!("tag=virtiofs{index},socket={socket}").into(),
        );
    }
    let socket = quoted(&place.vsock());
    add("--vsock", format!("cid={GUEST_CID},socket={socket}").into());
    let serial = match has_console {
        true => format!("socket={}", quoted(&place.console())),
        false => format!("file={}", quoted(&place.console_log())),
    };
    if !has_console {
        let events = format!("path={}", quoted(&place.events()));
        add("--event-monitor", events.into());
    }
    add("--serial", serial.into());
    add("--console", "off".into());
    let api = format!("path={}", quoted(&place.api()));
    add("--api-socket", api.into());
    arguments
}

/// Ends a machine at its first reset, which is what panics end in, as other monitors do by themselves.
/// To be called before it is started; while this process lives.
///
/// # Errors
/// When the pipe for that cannot be made.
pub(crate) fn end_at_reboot(place: &Place) -> io::Result<()> {
    let events = place.events();
    mknodat(CWD, &events, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    // With a writer here it opens at once, and has no end.
    let mut events = File::options().read(true).write(true).open(events)?;
    let place = place.clone();
    std::thread::spawn(move || -> io::Result<()> {
        let (mut buffer, mut said) = ([0; 4096], Vec::new());
        while !said.windows(REBOOTS.len()).any(|word| word == REBOOTS) {
            said.drain(..said.len().saturating_sub(REBOOTS.len()));
            let count = events.read(&mut buffer)?;
            said.extend_from_slice(&buffer[..count]);
        }
        // It would answer a request when the guest is up again.
        Ok(pidfd_send_signal(process_of(&place)?, Signal::KILL)?)
    });
    Ok(())
}

/// Returns a path as a value, in quotes as far as it needs them. A quote itself cannot be said:
/// [`can_say`].
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    match path.contains([',', '[', ']', ' ']) {
        true => format!("\"{path}\""),
        false => path.into_owned(),
    }
}

/// Returns whether a path can be a value.
pub(crate) fn can_say(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Boot;
    use crate::vm::disk::Disk;

    #[test]
    fn a_machine_is_a_command_line() {
        let machine = Machine {
            boot: Boot::Kernel {
                kernel: "a,b-kernel".into(),
                initrd: Some("a,b-initrd.img".into()),
                cmdline: "console=ttyS0 a,b".into(),
                root: None,
            },
            networking: Networking::Tap("tap0".into()),
            disks: vec![
                Disk {
                    file: "/d/a,b.img".into(),
                    format: "raw".into(),
                },
                Disk {
                    file: "/d/c.qcow2".into(),
                    format: "qcow2".into(),
                },
            ],
            shares: 1,
            ..Machine::plain()
        };
        let place = Place::at(Path::new("/run/a"), "a");
        let text = |has_console| {
            let arguments = arguments(
                &machine,
                Kernel::of(&machine.boot).unwrap(),
                &place,
                has_console,
            );
            let arguments: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
            arguments.join(" ")
        };
        insta::assert_snapshot!(text(true), @r#"--kernel a,b-kernel --initramfs a,b-initrd.img --cmdline console=ttyS0 a,b --cpus boot=2 --memory size=512M,shared=on --disk path="/d/a,b.img",image_type=raw --disk path=/d/c.qcow2,image_type=qcow2 --net tap=tap0 --fs tag=virtiofs0,socket=/run/a/share.0 --vsock cid=3,socket=/run/a/vsock.sock --serial socket=/run/a/console.sock --console off --api-socket path=/run/a/api.sock"#);
        let alone = " --event-monitor path=/run/a/events --serial file=/run/a/console.log ";
        assert!(text(false).contains(alone), "{}", text(false));
        assert!(!can_say(Path::new("/a\"b")));
    }

    /// Events as Cloud Hypervisor writes them, by a process that listens where it does.
    #[test]
    fn a_machine_that_begins_anew_is_ended() {
        use std::os::unix::process::ExitStatusExt;
        let space = tempfile::tempdir().unwrap();
        let place = Place::at(space.path(), "a");
        end_at_reboot(&place).unwrap();
        let script = r#"if True:
            import socket, sys, time
            s = socket.socket(socket.AF_UNIX)
            s.bind(sys.argv[1])
            s.listen()
            events = open(sys.argv[2], "w")
            event = '{\n  "timestamp": {\n    "secs": 3,\n    "nanos": 1\n  },\n  "source": "vm",\n  "event": "%s",\n  "properties": null\n}\n\n'
            for name in ["booting", "booted", "rebooted"] * 1000:
                print(event % name, end="", file=events, flush=True)
            time.sleep(0.3)
            print("still there", flush=True)
            print(event % "rebooting", end="", file=events, flush=True)
            time.sleep(600)
        "#;
        let child = std::process::Command::new("python3")
            .args(["-c", script])
            .args([place.api(), place.events()])
            .stdout(std::process::Stdio::piped())
            .spawn();
        let output = child.unwrap().wait_with_output().unwrap();
        assert_eq!(output.stdout, b"still there\n");
        assert_eq!(output.status.signal(), Some(9));
    }
}
