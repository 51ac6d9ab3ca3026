//! Guests that keep to the protocol, and guests that do not.

use super::*;

#[test]
fn frames_come_out_as_they_went_in() {
    let mut input = VecDeque::new();
    for byte in frame(STDOUT, b"hello").into_iter().chain(frame(END, &[7])) {
        input.push_back(byte);
    }
    assert_eq!(
        take_frame(&mut input).unwrap(),
        Some((STDOUT, b"hello".to_vec()))
    );
    assert_eq!(take_frame(&mut input).unwrap(), Some((END, vec![7])));
    assert_eq!(take_frame(&mut input).unwrap(), None);
    input.extend([STDOUT, 0xff, 0xff, 0xff, 0xff]);
    assert!(take_frame(&mut input).is_err());
}

/// A port of ours, and the guest's side of it.
fn port(input: Option<OwnedFd>) -> (Port, UnixStream) {
    let (ours, guest) = UnixStream::pair().unwrap();
    let port = Port {
        line: Line::Port(ours, tempfile::tempfile().unwrap()),
        number: 7,
        request: b"\xff\x01{}\n".to_vec(),
        input,
    };
    (port, guest)
}

fn begin() -> Vec<u8> {
    frame(BEGIN, &7_u64.to_le_bytes())
}

/// Does it elsewhere, so that what hangs is a test that fails.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    let result = result.recv_timeout(Duration::from_secs(30));
    result.expect("it hangs")
}

#[test]
fn a_guest_that_begins_and_never_ends_is_left() {
    let (mut port, mut guest) = port(None);
    guest.write_all(&begin()).unwrap();
    let began = Instant::now();
    // No signal comes that would wake anybody.
    let cancelled = move || began.elapsed() > Duration::from_millis(200);
    let end = in_time(move || port.relay(false, None, cancelled).unwrap());
    assert_eq!(end, End::Left);

    let (mut port, _guest) = self::port(None);
    let patience = Some(Duration::from_millis(200));
    let end = in_time(move || port.relay(false, patience, || false).unwrap());
    assert_eq!(end, End::Silence);
}

#[test]
fn a_guest_that_never_says_yes_is_not_waited_for() {
    let space = tempfile::tempdir().unwrap();
    let place = Place::at(space.path(), "a");
    let listener = std::os::unix::net::UnixListener::bind(place.port(0)).unwrap();
    let guest = std::thread::spawn(move || {
        use std::io::BufRead;
        let (stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut reader = io::BufReader::new(stream.try_clone().unwrap());
        reader.read_until(b'\n', &mut asked).unwrap();
        let asked: serde_json::Value = serde_json::from_slice(&asked[2..]).unwrap();
        let number = asked["number"].as_u64().unwrap();
        let begin = frame(BEGIN, &number.to_le_bytes());
        (&stream).write_all(&begin).unwrap();
        // What it says is nobody's business, and it has no end.
        while (&stream).write_all(&frame(STDOUT, &[b'x'; 4096])).is_ok() {}
    });
    assert!(!in_time(move || power_off(&place)));
    guest.join().unwrap();
}

/// Whoever reads our standard output has nothing to do with it.
#[test]
fn a_guest_that_is_gone_is_no_broken_pipe() {
    let (mut port, guest) = port(None);
    drop(guest);
    let error = port.relay(false, None, || false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_was_taken_does_not_become_less() {
    const WINDOW: usize = WINDOW_BYTES as usize;
    let (reader, mut writer) = io::pipe().unwrap();
    let typist = std::thread::spawn(move || writer.write_all(&vec![b'x'; 2 * WINDOW]));
    let (mut port, mut guest) = port(Some(reader.into()));
    let guest = std::thread::spawn(move || {
        guest.write_all(&begin()).unwrap();
        let mut request = vec![0; 5];
        guest.read_exact(&mut request).unwrap();
        let take = |mut bytes: usize| {
            while bytes > 0 {
                let mut header = [0; 5];
                (&guest).read_exact(&mut header).unwrap();
                let [STDIN, a, b, c, d] = header else {
                    panic!("{header:?}");
                };
                let mut body = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
                (&guest).read_exact(&mut body).unwrap();
                bytes -= body.len();
            }
        };
        let taken = |bytes: usize| frame(TAKEN, &(bytes as u64).to_le_bytes());
        take(WINDOW);
        (&guest).write_all(&taken(WINDOW)).unwrap();
        take(WINDOW);
        for said in [taken(0), taken(usize::MAX), taken(1), frame(END, &[3])] {
            (&guest).write_all(&said).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let end = in_time(move || port.relay(false, None, || false).unwrap());
    assert_eq!(end, End::Status(3));
    guest.join().unwrap();
    typist.join().unwrap().unwrap();
}

#[test]
fn three_keys_leave_and_one_is_the_programs() {
    let mut leave = Leave::default();
    assert!(!leave.hears(b"a\x1d"));
    assert!(!leave.hears(b"\x1d:tag\x1d"));
    assert!(!leave.hears(b"\x1d"));
    assert!(leave.hears(b"\x1d"));
    let mut slow = Leave {
        count: 2,
        began: Instant::now().checked_sub(2 * LEAVE_WITHIN),
    };
    assert!(!slow.hears(b"\x1d"));
    assert!(slow.hears(b"\x1d\x1d"));
}
