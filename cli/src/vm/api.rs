//! Requests to a monitor's own socket, in HTTP: what Firecracker and Cloud Hypervisor are told and
//! asked with (Firecracker's `src/firecracker/swagger/firecracker.yaml`, Cloud Hypervisor's
//! `docs/api.md`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::monitor::connect;

/// A monitor answers when it has set the machine up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Tells a monitor something.
///
/// # Errors
/// When it does not answer, or refuses.
pub(crate) fn put(socket: &Path, path: &str, body: Option<&Value>) -> io::Result<()> {
    let body = body.map(Value::to_string).unwrap_or_default();
    request(socket, "PUT", path, &body).map(drop)
}

/// Asks a monitor something; returns its answer.
///
/// # Errors
/// Likewise, and when the answer is not JSON.
pub(crate) fn get(socket: &Path, path: &str) -> io::Result<Value> {
    let answer = request(socket, "GET", path, "")?;
    serde_json::from_slice(&answer).map_err(io::Error::other)
}

fn request(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect(socket, PATIENCE)?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    if !body.is_empty() {
        let length = body.len();
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n"
        ));
    }
    text.push_str(&format!("\r\n{body}"));
    stream.write_all(text.as_bytes())?;
    let mut answer = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    let (mut status, mut length) = (String::new(), 0);
    if answer.read_line(&mut status)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    loop {
        let mut line = String::new();
        answer.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = Vec::new();
    answer.take(length).read_to_end(&mut body)?;
    // HTTP/1.1 204 No Content
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(body),
        _ => {
            let why = String::from_utf8_lossy(&body);
            let text = format!("{method} {path}: {} {}", status.trim_end(), why.trim());
            Err(io::Error::other(text.trim_end().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;

    /// Says `answer` to whoever asks first; returns what was asked, up to `bytes`.
    fn serve(socket: &Path, answer: &'static str, bytes: usize) -> impl FnOnce() -> String {
        let listener = UnixListener::bind(socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; bytes];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        || thread.join().unwrap()
    }

    #[test]
    fn told_and_asked() {
        let space = tempfile::tempdir().unwrap();
        let socket = space.path().join("one");
        let expected = "PUT /actions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 32\r\n\r\n{\"action_type\":\"SendCtrlAltDel\"}";
        let ok = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
        let asked = serve(&socket, ok, expected.len());
        let action = json!({"action_type": "SendCtrlAltDel"});
        put(&socket, "/actions", Some(&action)).unwrap();
        assert_eq!(asked(), expected);

        let socket = space.path().join("two");
        let expected = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let ok = "HTTP/1.1 200 \r\nContent-Length: 19\r\n\r\n{\"state\":\"Running\"}";
        let asked = serve(&socket, ok, expected.len());
        assert_eq!(get(&socket, "/").unwrap()["state"], "Running");
        assert_eq!(asked(), expected);
    }

    #[test]
    fn refusals_say_why() {
        let space = tempfile::tempdir().unwrap();
        for (name, answer, why) in [
            (
                "one",
                "HTTP/1.1 400 \r\ncontent-length: 4\r\n\r\nwhy\n",
                "400 why",
            ),
            ("two", "", "unexpected end of file"),
            (
                "three",
                "HTTP/1.1 200 \r\nContent-Length: x\r\n\r\n",
                "digit",
            ),
            ("four", "nonsense", "nonsense"),
        ] {
            let socket = space.path().join(name);
            let request = "PUT /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let asked = serve(&socket, answer, request.len());
            let error = put(&socket, "/x", None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert_eq!(asked(), request);
        }
    }
}
