//! `kiln serve`: a directory over HTTP, for machines that boot from the network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::build::watch_signals;
use crate::args::Serve;
use crate::failure::Failure;
use crate::serve::{Patience, Served, serve};
use crate::ui::printer::{Printer, Style, say};
use crate::ui::units;

pub(super) fn run(arguments: &Serve, printer: Printer) -> Result<(), Failure> {
    let directory = &arguments.directory;
    let shown = directory.display();
    let root = std::fs::canonicalize(directory)
        .map_err(|error| Failure::failed(format!("cannot serve {shown}"), Some(&error), None))?;
    if !root.is_dir() {
        return Err(Failure::usage(
            format!("--directory {shown} is not a directory"),
            None,
        ));
    }
    let listener = listen(arguments.port).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => Some("choose another with --port :PORT"),
            io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 are root's; choose another with --port :PORT")
            }
            _ => None,
        };
        let message = format!("cannot listen on {}", arguments.port);
        Failure::failed(message, Some(&error), hint.map(str::to_owned))
    })?;
    let interruption = watch_signals()?;
    let address = listener.local_addr().unwrap_or(arguments.port);
    printer.done(
        "Serving",
        &format!("{shown} on http://{address}; Ctrl-C ends it"),
    );
    let log = move |served: &Served| {
        if !printer.quiet {
            say(&line(printer, served));
        }
    };
    serve(
        &listener,
        &root,
        Patience::default(),
        interruption.flag(),
        log,
    )
    .map_err(|error| Failure::failed("cannot go on serving", Some(&error), None))
}

/// Listens; on all addresses means IPv4 alone where there is no IPv6.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| {
        let unspecified = address.is_ipv6() && address.ip().is_unspecified();
        match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            _ if unspecified => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())),
            _ => Err(error),
        }
    })
}

fn line(printer: Printer, served: &Served) -> String {
    let (verb, target) = served.request.split_once(' ').unwrap_or(("?", ""));
    let style = match served.status {
        ..400 => Style::Good,
        _ => Style::Warning,
    };
    let size = units::size(served.bytes);
    let broken = if served.is_whole { "" } else { ", broken off" };
    let rest = format!("{target} {} {size}{broken} {}", served.status, served.peer);
    printer.line(style, verb, rest.trim_start())
}
