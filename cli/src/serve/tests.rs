//! The server as a stranger meets it: over sockets, byte by byte.

use std::fs;
use std::sync::Mutex;
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::files::{Part, answer, part};
use super::*;

/// A server of a directory with a few files; it ends with the test.
struct Running {
    directory: tempfile::TempDir,
    address: SocketAddr,
    end: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<Served>>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(patience: Patience) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("sub/inner")).unwrap();
        fs::write(root.join("kernel"), "0123456789").unwrap();
        fs::write(root.join("sub/a b&<c>"), "odd").unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (end, log) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let (ends, logs) = (Arc::clone(&end), Arc::clone(&log));
        let thread = std::thread::spawn(move || {
            let log = move |served: &Served| logs.lock().unwrap().push(served.clone());
            serve(&listener, &root, patience, &ends, log).unwrap();
        });
        Self {
            directory,
            address,
            end,
            log,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        let long = Some(Duration::from_secs(20));
        stream.set_read_timeout(long).unwrap();
        stream
    }

    /// Sends bytes on a connection of their own and returns what comes back until its end.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn get(&self, target: &str, headers: &str) -> String {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        self.say(request.as_bytes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn status(answer: &str) -> &str {
    &answer["HTTP/1.1 ".len()..][..3]
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn files_come_whole_in_part_and_by_name_alone() {
    let server = Running::start(Patience::default());
    let whole = server.get("/kernel", "");
    assert_eq!((status(&whole), body(&whole)), ("200", "0123456789"));
    assert!(whole.contains("Content-Length: 10\r\n"), "{whole}");
    assert!(whole.contains("Accept-Ranges: bytes\r\n"), "{whole}");
    let again = server.get("http://host/./kernel?query", "");
    assert_eq!(body(&again), "0123456789");

    let some = server.get("/kernel", "Range: bytes=2-4\r\n");
    assert_eq!((status(&some), body(&some)), ("206", "234"));
    assert!(some.contains("Content-Range: bytes 2-4/10\r\n"), "{some}");
    let end = server.get("/kernel", "range: bytes=-3\r\n");
    assert_eq!((status(&end), body(&end)), ("206", "789"));
    let none = server.get("/kernel", "Range: bytes=10-\r\n");
    assert_eq!(status(&none), "416");
    assert!(none.contains("Content-Range: bytes */10\r\n"), "{none}");
    // What the range was meant for may have changed.
    let whole = server.get("/kernel", "Range: bytes=2-4\r\nIf-Range: \"x\"\r\n");
    assert_eq!(status(&whole), "200");

    let head = server.say(b"HEAD /kernel HTTP/1.0\r\n\r\n");
    assert_eq!((status(&head), body(&head)), ("200", ""));
    assert!(head.contains("Content-Length: 10\r\n"), "{head}");
    let log = server.log.lock().unwrap();
    let served: Vec<_> = log
        .iter()
        .map(|one| (&*one.request, one.status, one.bytes))
        .collect();
    assert_eq!(served[0], ("GET /kernel", 200, 10));
    assert_eq!(served[2], ("GET /kernel", 206, 3));
    assert_eq!(served.last(), Some(&("HEAD /kernel", 200, 0)));
    assert!(log.iter().all(|one| one.is_whole));
}

#[test]
fn ranges() {
    for (range, expected) in [
        ("bytes=0-0", Part::Bytes(0, 0)),
        ("bytes=5-", Part::Bytes(5, 9)),
        ("bytes=5-99999999999999999999999", Part::Bytes(5, 9)),
        ("bytes=-99999999999999999999999", Part::Bytes(0, 9)),
        ("bytes=-0", Part::Nothing),
        ("bytes=10-11", Part::Nothing),
        ("bytes=3-2", Part::Whole),
        ("bytes=0-1,3-4", Part::Whole),
        ("bytes=+1-2", Part::Whole),
        ("bytes=-", Part::Whole),
        ("lines=1-2", Part::Whole),
    ] {
        assert_eq!(part(range, 10), expected, "{range}");
    }
    assert_eq!(part("bytes=-5", 0), Part::Nothing);
    assert_eq!(part("bytes=0-", 0), Part::Nothing);
}

#[test]
fn directories_are_listed_or_their_index_is_shown() {
    let server = Running::start(Patience::default());
    let list = server.get("/", "");
    assert_eq!(status(&list), "200");
    assert!(list.contains("<a href=\"./kernel\">kernel</a>\n<a href=\"./sub/\">sub/</a>\n"));
    let list = server.get("/sub/", "");
    let odd = "<a href=\"./a%20b%26%3Cc%3E\">a b&amp;&lt;c&gt;</a>";
    assert!(list.contains(odd), "{list}");
    let odd = server.get("/sub/a%20b%26%3Cc%3E", "");
    assert_eq!(body(&odd), "odd");
    let moved = server.get("//sub/inner", "");
    assert_eq!(status(&moved), "301");
    assert!(moved.contains("Location: /sub/inner/\r\n"), "{moved}");
    let index = server.directory.path().join("root/sub/index.html");
    fs::write(index, "<p>hello").unwrap();
    let shown = server.get("/sub/", "");
    assert!(shown.contains("text/html") && body(&shown) == "<p>hello");
}

#[test]
fn nothing_outside_is_reached_by_any_spelling() {
    let server = Running::start(Patience::default());
    for target in [
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/sub/%2E%2E/%2e%2e/secret",
        "/x%00",
        "/%",
        "/%4",
        "/%zz",
        "*",
        "secret",
    ] {
        let answer = server.get(target, "");
        assert_eq!(status(&answer), "400", "{target}");
        assert!(!answer.contains("outside"));
    }
    for target in [
        "/none",
        "/kernel/",
        "/kernel/x",
        "/...",
        &format!("/{}", "x".repeat(300)),
    ] {
        assert_eq!(status(&server.get(target, "")), "404", "{target}");
    }
    // A link is its owner's word.
    let link = server.directory.path().join("root/link");
    std::os::unix::fs::symlink("../secret", link).unwrap();
    assert_eq!(body(&server.get("/link", "")), "outside");
}

#[test]
fn what_is_no_file_makes_nobody_wait() {
    let server = Running::start(Patience::default());
    let fifo = server.directory.path().join("root/fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(status(&server.get("/fifo", "")), "404");
    let socket = server.directory.path().join("root/socket");
    let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    assert_eq!(status(&server.get("/socket", "")), "404");
}

#[test]
fn a_connection_carries_many_requests() {
    let server = Running::start(Patience::default());
    let pipelined = "GET /kernel HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\n\
                     HEAD /kernel HTTP/1.1\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\n\r\n";
    let answers = server.say(pipelined.as_bytes());
    let statuses: Vec<_> = answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|one| &one[..3])
        .collect();
    assert_eq!(statuses, ["200", "404", "200"]);
    // A body is not read, and must not be taken for a request.
    let smuggled = server.say(
        b"GET /kernel HTTP/1.1\r\nContent-Length: 28\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n",
    );
    assert_eq!(smuggled.matches("HTTP/1.1").count(), 1);
}

#[test]
fn hostile_requests_end() {
    let server = Running::start(Patience {
        head: Duration::from_millis(300),
        piece: Duration::from_millis(300),
    });
    assert_eq!(status(&server.say(b"POST / HTTP/1.1\r\n\r\n")), "405");
    assert_eq!(
        status(&server.say(b"\x16\x03\x01\x00\xa5\x01\r\n\r\n")),
        "400"
    );
    let endless = [&b"GET /"[..], &[b'a'; 20 << 10]].concat();
    assert_eq!(status(&server.say(&endless)), "431");
    let headers = "X: y\r\n".repeat(100);
    assert_eq!(status(&server.get("/kernel", &headers)), "431");
    // Half a request, and none.
    assert_eq!(status(&server.say(b"GET /kernel HT")), "408");
    assert_eq!(server.say(b""), "");

    // Whoever asks for much and takes nothing is let go.
    let large = server.directory.path().join("root/large");
    fs::File::create(&large).unwrap().set_len(1 << 30).unwrap();
    let mut stream = server.connect();
    stream.write_all(b"GET /large HTTP/1.1\r\n\r\n").unwrap();
    let began = Instant::now();
    let is_logged = || {
        let log = server.log.lock().unwrap();
        log.iter()
            .any(|one| one.request == "GET /large" && !one.is_whole)
    };
    while !is_logged() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it waits for ever"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn connections_are_bounded() {
    let server = Running::start(Patience::default());
    let held: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
    // They are accepted in order: this one is one too many.
    let refused = server.say(b"");
    assert_eq!(status(&refused), "503");
    drop(held);
    let began = Instant::now();
    loop {
        let mut stream = server.connect();
        let _ = stream.write_all(b"GET /kernel HTTP/1.0\r\n\r\n");
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{answer}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

proptest! {
    #[test]
    fn no_target_is_too_odd(target in "(/|\\.|%2e|%2E|%2f|%00|sub|secret|kernel|%|\\PC){0,12}") {
        let room = tempfile::tempdir().unwrap();
        fs::create_dir_all(room.path().join("root/sub")).unwrap();
        fs::write(room.path().join("secret"), "outside").unwrap();
        let answer = answer(&room.path().join("root"), &target, Some("bytes=0-"));
        // There is no file inside.
        prop_assert!(!matches!(answer.body, Body::File(..)), "{target}");
        prop_assert!(matches!(answer.status, 200 | 301 | 400 | 404), "{}", answer.status);
        prop_assert!(!answer.head().contains("\r\n\r\n"));
    }

    #[test]
    fn no_head_is_too_odd(
        start in "(GET|HEAD|\\PC{0,3}) (/|http://|\\PC){0,5} HTTP/1.[012]\r\n",
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Head::parse(&bytes);
        let _ = Head::parse(&[start.as_bytes(), &bytes].concat());
        let _ = Head::parse(format!("{start}\r\n").as_bytes());
    }
}
