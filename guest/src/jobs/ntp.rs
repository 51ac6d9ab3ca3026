//! `ntp`: sets the clock once from a time server, by SNTP (RFC 4330).
//!
//! In: servers, as addresses or names. Out: a clock that is right to a few milliseconds, set only
//! when it was off by more than a tenth of a second. Anyone can send a packet: a reply counts only
//! from the server asked and with our own transmit time in it, which is random, so that nobody who
//! does not see the request can answer it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec};

use super::arguments::Arguments;
use super::devices::random;
use super::dns::Resolver;
use super::{tell, udp};
use crate::error::{Context, Error, Result};

/// Rounds in which every server is asked once.
const TRIES: usize = 4;
/// How long a server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A difference that is not worth a step, in nanoseconds.
const OFFSET_MIN: i64 = 100_000_000;
/// Length of a packet without extensions.
const PACKET_BYTES: usize = 48;
/// Seconds from 1900, where NTP counts from, to 1970.
const UNIX_EPOCH: i64 = 2_208_988_800;
const SECOND: i64 = 1_000_000_000;

/// The clock and how servers are reached; tests have others.
struct Machine {
    resolver: Resolver,
    port: u16,
    /// Nanoseconds since 1970.
    now: fn() -> i64,
    set: fn(i64) -> Result<()>,
    timeout: Duration,
}

/// `ntp [--print] SERVER…`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let machine = Machine {
        resolver: Resolver::default(),
        port: 123,
        now: || {
            let now = rustix::time::clock_gettime(ClockId::Realtime);
            now.tv_sec.saturating_mul(SECOND) + now.tv_nsec
        },
        set: |time| {
            let time = Timespec {
                tv_sec: time.div_euclid(SECOND),
                tv_nsec: time.rem_euclid(SECOND),
            };
            rustix::time::clock_settime(ClockId::Realtime, time).context(|| "set the clock")
        },
        timeout: TIMEOUT,
    };
    step(args, &machine)
}

fn step(args: &[String], machine: &Machine) -> Result<()> {
    let args = Arguments::parse(args, &[], &["print"])?;
    if args.words.is_empty() {
        return Err(Error::new("needs a server"));
    }
    let (server, offset) = first_offset(&args.words, machine)?;
    let shown = format!(
        "{}{}.{:03} s",
        if offset < 0 { "-" } else { "+" },
        offset.abs() / SECOND,
        offset.abs() % SECOND / 1_000_000
    );
    if args.is_on("print") {
        tell!("ntp: {server}: {shown}");
    } else if offset.abs() <= OFFSET_MIN {
        tell!("ntp: {server}: {shown}, left alone");
    } else {
        (machine.set)((machine.now)().saturating_add(offset))?;
        tell!("ntp: {server}: clock set by {shown}");
    }
    Ok(())
}

/// Returns what the first server that answers says, and which it was.
fn first_offset<'a>(servers: &[&'a str], machine: &Machine) -> Result<(&'a str, i64)> {
    let mut servers = servers.to_vec();
    let mut last = String::new();
    for _ in 0..TRIES {
        let began = Instant::now();
        let mut kept = Vec::new();
        for server in servers {
            match ask(server, machine) {
                Ok(Answer::Offset(offset)) => return Ok((server, offset)),
                // It does not want to be asked again (RFC 4330, 8).
                Ok(Answer::Kiss(code)) => last = format!("{server}: kiss of death {code:?}"),
                Err(cause) => {
                    last = format!("{server}: {cause}");
                    kept.push(server);
                }
            }
        }
        if kept.is_empty() {
            break;
        }
        servers = kept;
        // What fails at once, as without a network, fails later for another reason.
        std::thread::sleep(machine.timeout.saturating_sub(began.elapsed()));
    }
    Err(Error::new(last))
}

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// How much our clock is behind, in nanoseconds.
    Offset(i64),
    /// A kiss-o'-death packet.
    Kiss(String),
}

fn ask(server: &str, machine: &Machine) -> Result<Answer> {
    let address: SocketAddr = (machine.resolver.resolve(server)?, machine.port).into();
    let mut nonce = [0; 8];
    random(&mut nonce)?;
    let mut request = [0; PACKET_BYTES];
    // No warning, version 4, client.
    request[0] = 0x23;
    request[40..].copy_from_slice(&nonce);
    let mut said = None;
    let sent = (machine.now)();
    udp::ask(address, &request, machine.timeout, &mut |reply| {
        said = parse(reply, nonce, (sent, (machine.now)()));
        said.is_some()
    })?;
    said.unwrap_or_else(|| Err(Error::new("no answer")))
}

/// Reads a reply (RFC 4330, 4 and 5); `None` if it does not answer our request.
fn parse(reply: &[u8], nonce: [u8; 8], (sent, received): (i64, i64)) -> Option<Result<Answer>> {
    let reply: &[u8; PACKET_BYTES] = reply.get(..PACKET_BYTES)?.try_into().ok()?;
    let (leap, version, mode) = (reply[0] >> 6, reply[0] >> 3 & 7, reply[0] & 7);
    if reply[24..32] != nonce || mode != 4 || version == 0 {
        return None;
    }
    let refuse = |why: &str| Some(Err(Error::new(why)));
    match reply[1] {
        0 => {
            let code = String::from_utf8_lossy(&reply[12..16]).into_owned();
            return Some(Ok(Answer::Kiss(code)));
        }
        1..=15 => {}
        _ => return refuse("it has no time itself (stratum)"),
    }
    let (arrived, left) = (&reply[32..40], &reply[40..48]);
    if leap == 3 || left.iter().all(|byte| *byte == 0) {
        return refuse("it has no time itself (leap)");
    }
    let (arrived, left) = (time(arrived), time(left));
    let offset = (arrived - sent) / 2 + (left - received) / 2;
    Some(Ok(Answer::Offset(offset)))
}

/// Returns an NTP timestamp as nanoseconds since 1970. Those without the highest bit are after
/// 2036, where the count begins anew (RFC 4330, 3).
fn time(bytes: &[u8]) -> i64 {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).unwrap_or_default();
        word.iter()
            .fold(0i64, |sum, byte| sum << 8 | i64::from(*byte))
    };
    let (mut seconds, fraction) = (word(0), word(4));
    if seconds < 1 << 31 {
        seconds += 1 << 32;
    }
    (seconds - UNIX_EPOCH) * SECOND + ((fraction * SECOND) >> 32)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::UdpSocket;

    use proptest::prelude::*;

    use super::super::arguments::strings;
    use super::*;

    /// 2026-11-30, the time of the tests' machine: it stands still.
    const NOW: i64 = 1_796_000_000 * SECOND;

    thread_local! {
        static CLOCK: Cell<i64> = const { Cell::new(NOW) };
    }

    fn machine(port: u16) -> Machine {
        CLOCK.set(NOW);
        Machine {
            resolver: Resolver {
                conf: "/nonexistent".into(),
                port: 53,
            },
            port,
            now: || CLOCK.get(),
            set: |time| {
                CLOCK.set(time);
                Ok(())
            },
            timeout: Duration::from_millis(300),
        }
    }

    fn timestamp(time: i64) -> [u8; 8] {
        let seconds = (time.div_euclid(SECOND) + UNIX_EPOCH) as u64 & 0xffff_ffff;
        let fraction = ((time.rem_euclid(SECOND) as u64) << 32) / SECOND as u64;
        (seconds << 32 | fraction).to_be_bytes()
    }

    /// A good reply to a request.
    fn reply(request: &[u8], time: i64) -> Vec<u8> {
        let mut reply = vec![0; PACKET_BYTES];
        reply[..2].copy_from_slice(&[0x24, 2]);
        reply[24..32].copy_from_slice(&request[40..48]);
        reply[32..40].copy_from_slice(&timestamp(time));
        reply[40..48].copy_from_slice(&timestamp(time));
        reply
    }

    /// Answers every request with what `replies` makes of it and its number; returns the port.
    fn server(replies: impl Fn(&[u8], usize) -> Vec<Vec<u8>> + Send + 'static) -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for number in 0.. {
                let mut buffer = [0; 128];
                let (count, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((count, buffer[0]), (PACKET_BYTES, 0x23));
                for message in replies(&buffer[..count], number) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        port
    }

    fn step_to(offset: i64, words: &[&str]) -> i64 {
        let port = server(move |request, _| vec![reply(request, NOW + offset)]);
        step(&strings(words), &machine(port)).unwrap();
        CLOCK.get() - NOW
    }

    #[test]
    fn the_clock_is_set_when_it_is_off() {
        let near = |a: i64, b: i64| (a - b).abs() < 10;
        assert!(near(
            step_to(90 * SECOND / 7, &["127.0.0.1"]),
            90 * SECOND / 7
        ));
        assert!(near(step_to(-3 * SECOND, &["127.0.0.1"]), -3 * SECOND));
        assert_eq!(step_to(OFFSET_MIN - 1000, &["127.0.0.1"]), 0);
        assert_eq!(step_to(90 * SECOND, &["--print", "127.0.0.1"]), 0);
        // Behind 2036, where NTP's seconds begin anew; and from a clock that was never set.
        let years = 12 * 365 * 86_400 * SECOND;
        assert!(near(step_to(years, &["127.0.0.1"]), years));
    }

    #[test]
    fn what_does_not_answer_us_is_passed_over() {
        let port = server(|request, _| {
            let lie = reply(request, NOW + 1000 * SECOND);
            let (mut other, mut client) = (lie.clone(), lie.clone());
            other[31] ^= 1;
            client[0] = 0x23;
            vec![
                vec![],
                lie[..47].to_vec(),
                other,
                client,
                reply(request, NOW + SECOND),
            ]
        });
        step(&strings(&["127.0.0.1"]), &machine(port)).unwrap();
        assert!((CLOCK.get() - NOW - SECOND).abs() < 10);
    }

    #[test]
    fn a_lost_packet_is_sent_again_but_not_after_a_kiss() {
        let port = server(|request, number| match number {
            0..=2 => vec![],
            _ => vec![reply(request, NOW + SECOND)],
        });
        step(&strings(&["127.0.0.1"]), &machine(port)).unwrap();
        assert!(CLOCK.get() > NOW);

        let port = server(|request, number| {
            assert_eq!(number, 0, "asked again after a kiss of death");
            let mut kiss = reply(request, NOW + SECOND);
            kiss[1] = 0;
            kiss[12..16].copy_from_slice(b"RATE");
            vec![kiss]
        });
        let error = step(&strings(&["127.0.0.1"]), &machine(port)).unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1: kiss of death \"RATE\"");
        assert_eq!(CLOCK.get(), NOW);
    }

    #[test]
    fn a_server_without_time_is_refused() {
        for (at, byte) in [(0, 0xe4), (1, 16)] {
            let port = server(move |request, _| {
                let mut bad = reply(request, NOW + SECOND);
                bad[at] = byte;
                vec![bad]
            });
            let error = step(&strings(&["127.0.0.1"]), &machine(port)).unwrap_err();
            assert!(error.to_string().contains("no time itself"), "{error}");
            assert_eq!(CLOCK.get(), NOW);
        }
        assert!(step(&[], &machine(1)).is_err());
        let error = step(&strings(&["ntp.example"]), &machine(1)).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    proptest! {
        #[test]
        fn any_reply_is_fine(bytes in proptest::collection::vec(any::<u8>(), 0..60), nonce: [u8; 8], rest: [u8; 16]) {
            let _ = parse(&bytes, nonce, (0, NOW));
            let mut ours = vec![0x24, 1];
            ours.resize(24, 0);
            ours.extend_from_slice(&nonce);
            ours.extend_from_slice(&rest);
            prop_assert!(parse(&ours, nonce, (0, NOW)).is_some());
        }
    }
}
