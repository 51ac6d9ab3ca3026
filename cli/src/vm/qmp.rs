//! QEMU's machine protocol (docs/interop/qmp-spec): as much as ending a machine takes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::monitor::{Ask, connect};

/// QEMU answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// As much it says to one who asks, its events included: a few kilobytes as a rule.
const ANSWERS_BYTES_MAX: u64 = 1 << 20;

/// How often it is tried again, and after what time.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Asks QEMU to do something.
///
/// # Errors
/// When it does not answer, or refuses.
pub(crate) fn ask(socket: &Path, what: Ask) -> io::Result<()> {
    for _ in 0..TRIES {
        match ask_once(socket, what) {
            // QEMU drops who connects while it still takes leave of the one before.
            Err(error) if is_gone(&error) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    ask_once(socket, what)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

fn ask_once(socket: &Path, what: Ask) -> io::Result<()> {
    let stream = connect(socket, PATIENCE)?;
    let mut answers = BufReader::new(stream.try_clone()?.take(ANSWERS_BYTES_MAX));
    let mut stream = stream;
    // The greeting.
    read(&mut answers)?;
    execute(&mut stream, &mut answers, "qmp_capabilities")?;
    match what {
        Ask::PowerButton => execute(&mut stream, &mut answers, "system_powerdown"),
        Ask::Quit => match execute(&mut stream, &mut answers, "quit") {
            // It may be gone before it has answered.
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        },
    }
}

fn execute(stream: &mut UnixStream, answers: &mut impl BufRead, command: &str) -> io::Result<()> {
    writeln!(stream, "{}", json!({"execute": command}))?;
    loop {
        let answer = read(answers)?;
        if let Some(error) = answer.get("error") {
            return Err(io::Error::other(format!("QEMU: {command}: {error}")));
        }
        // Between them come events.
        if answer.get("return").is_some() {
            return Ok(());
        }
    }
}

fn read(answers: &mut impl BufRead) -> io::Result<Value> {
    let mut line = String::new();
    if answers.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}
