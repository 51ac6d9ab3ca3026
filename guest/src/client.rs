//! `kilnctl`: a pipe between this terminal and PID 1, which understands the command and answers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;

use crate::error::{Context, Error, Result};
use crate::session::{self, Kind, frame, take_frame};

/// Exit status when the machine cannot be asked.
const FAILURE: i32 = 125;

/// Asks, and returns the exit status of the answer.
pub(crate) fn main(words: &[&str]) -> i32 {
    let asked = ask(words);
    asked.unwrap_or_else(|cause| {
        let _ = writeln!(std::io::stderr(), "kilnctl: {cause}");
        FAILURE
    })
}

/// A terminal that hands on every key as it is; as it was before when dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

fn ask(words: &[&str]) -> Result<i32> {
    let mut machine = UnixStream::connect(session::SOCKET).context(|| {
        format!(
            "{} (bind /run/kiln into a container that may control the machine)",
            session::SOCKET
        )
    })?;
    let wants_terminal = words.first() == Some(&"exec")
        && words
            .iter()
            .any(|word| ["-t", "-it", "-ti", "--tty"].contains(word));
    let window = tcgetwinsize(rustix::stdio::stdin()).ok();
    let window = window.filter(|_| wants_terminal);
    let size = window.map(|size| [size.ws_row, size.ws_col]);
    let request = json!({"args": words, "terminal": size});
    machine
        .write_all(&session::marked(&request.to_string()))
        .context(|| "send")?;
    let _raw = window.and_then(|_| Raw::new());

    let (mut input, mut buffer) = (VecDeque::new(), [0; 16 << 10]);
    // Other commands leave it to whoever comes next in a script.
    let mut input_open = matches!(words.first(), Some(&"exec" | &"attach"));
    let (mut sent, mut taken) = (0_u64, 0_u64);
    loop {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![PollFd::new(&machine, PollFlags::IN)];
        let room = session::WINDOW_BYTES - (sent - taken) as usize;
        if input_open && room > 0 {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(Error::new(format!("poll: {cause}"))),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(1) == Some(&true) {
            let room = room.min(buffer.len());
            let count = rustix::io::read(stdin, &mut buffer[..room]).unwrap_or(0);
            input_open = count > 0;
            sent += count as u64;
            let frame = frame(Kind::Stdin, &buffer[..count]);
            machine
                .write_all(&session::escaped(&frame))
                .context(|| "send")?;
        }
        if !ready[0] {
            continue;
        }
        let count = machine.read(&mut buffer).context(|| "receive")?;
        if count == 0 {
            return Err(Error::new("the machine hung up"));
        }
        input.extend(&buffer[..count]);
        while let Some((kind, bytes)) = take_frame(&mut input)? {
            // Whoever reads our output may be gone; the command's end is still worth waiting for.
            let _ = match kind {
                Kind::Stdout => std::io::stdout().write_all(&bytes),
                Kind::Stderr => std::io::stderr().write_all(&bytes),
                Kind::End => {
                    let _ = std::io::stdout().flush();
                    return Ok(bytes.first().copied().map_or(FAILURE, i32::from));
                }
                Kind::Taken => {
                    taken = bytes.try_into().map_or(taken, u64::from_le_bytes).min(sent);
                    Ok(())
                }
                Kind::Begin | Kind::Stdin | Kind::Window | Kind::Signal => Ok(()),
            };
        }
        let _ = std::io::stdout().flush();
    }
}
