//! A metadata server in the test process: one function from request to answer.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// What a client asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: HashMap<String, String>,
    pub(super) from: SocketAddr,
}

/// A server on loopback; its threads end with the test.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts; `reply` makes the bytes of an answer.
    pub(super) fn start(reply: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (requests.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, reply) = (log.clone(), reply.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let from = stream.peer_addr().unwrap();
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let first = lines.next().unwrap().unwrap();
                    let mut words = first.split(' ').map(str::to_owned);
                    let request = Request {
                        method: words.next().unwrap(),
                        path: words.next().unwrap(),
                        headers: lines
                            .map(Result::unwrap)
                            .take_while(|line| !line.is_empty())
                            .map(|line| {
                                let (name, value) = line.split_once(": ").unwrap();
                                (name.to_lowercase(), value.to_owned())
                            })
                            .collect(),
                        from,
                    };
                    log.lock().unwrap().push(request.clone());
                    let _ = stream.write_all(reply(&request).as_bytes());
                });
            }
        });
        Self { address, requests }
    }

    /// A server of fixed paths; every other one is 404.
    pub(super) fn of(paths: &'static [(&'static str, &'static str)]) -> Self {
        Self::start(
            |request| match paths.iter().find(|(path, _)| *path == request.path) {
                Some((_, body)) if request.method == "GET" => answer(body),
                _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            },
        )
    }

    /// What was asked so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// An answer with status 200.
pub(super) fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
