//! `kiln vm`: running machines, and what runs in them.

use std::io;
use std::time::{Duration, SystemTime};

use super::{build, print, replace};
use crate::args::{Guest, Named, Vm};
use crate::failure::Failure;
use crate::ui::printer::Printer;
use crate::vm::console::{self, Console};
use crate::vm::control::{self, End, Port};
use crate::vm::monitor::Ask;
use crate::vm::place::Place;
use crate::vm::process::POWER_OFF_MAX;

/// kiln-init answers within this when it is there at all; an emulated machine may still be booting.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(command: &Vm, printer: Printer) -> Result<(), Failure> {
    match command {
        Vm::Ls => list(),
        Vm::Console(named) => attach(named, printer),
        Vm::Stop(guest) => stop(guest, printer),
        Vm::Rm(named) => {
            let place = find(named.machine.as_deref())?;
            end(&place, Ask::Quit)
        }
        Vm::Ps(guest) => talk("ps", guest),
        Vm::Stats(guest) => talk("stats", guest),
        Vm::Logs(guest) => talk("logs", guest),
        Vm::Exec(guest) => talk("exec", guest),
        Vm::Start(guest) => talk("start", guest),
        Vm::Restart(guest) => talk("restart", guest),
        Vm::Kill(guest) => talk("kill", guest),
        Vm::Replace(replace) => replace::run(replace, printer),
    }
}

fn machines() -> Result<Vec<Place>, Failure> {
    Place::all().map_err(|error| Failure::failed("cannot look for machines", Some(&error), None))
}

/// Returns the machine of a name, or the only one.
pub(super) fn find(name: Option<&str>) -> Result<Place, Failure> {
    let mut all = machines()?;
    let names: Vec<&str> = all.iter().map(Place::name).collect();
    let names = names.join(", ");
    let missing = |message: String, hint: String| Err(Failure::failed(message, None, Some(hint)));
    match name {
        _ if all.is_empty() => missing(
            "no machine is running".to_owned(),
            "kiln run --detach FILE.yml starts one".to_owned(),
        ),
        Some(name) => match all.into_iter().find(|place| place.name() == name) {
            Some(place) => Ok(place),
            None => missing(
                format!("no machine is called {name}"),
                format!("running: {names}"),
            ),
        },
        None if all.len() > 1 => missing(
            format!("{} machines are running", all.len()),
            format!("say which: {names}"),
        ),
        None => Ok(all.swap_remove(0)),
    }
}

fn list() -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let mut text = String::new();
    for place in machines()? {
        let about = place.about();
        let minutes = now.saturating_sub(about.began) / 60;
        text.push_str(&format!(
            "{:<20} {:>6} min  {}  {}\n",
            place.name(),
            minutes,
            about.system,
            about.publish.join(", ")
        ));
    }
    print(&text)
}

fn attach(named: &Named, printer: Printer) -> Result<(), Failure> {
    let place = find(named.machine.as_deref())?;
    let cannot = |error: io::Error| {
        Failure::failed(
            format!("cannot reach the console of {}", place.name()),
            Some(&error),
            None,
        )
    };
    let console = Console::open(place.about().monitor, &place).map_err(cannot)?;
    let mute = match console.has_input() {
        true => "",
        false => ", which hears nothing there",
    };
    printer.done(
        "Attached",
        &format!("to {}{mute}; Ctrl-] leaves it", place.name()),
    );
    let interruption = build::watch_signals()?;
    console::attach(console, || interruption.has_come()).map_err(cannot)?;
    Ok(())
}

/// Ends the machine of that name; any other name is a service's.
fn stop(guest: &Guest, printer: Printer) -> Result<(), Failure> {
    let is_machine =
        |name: &str| machines().map(|all| all.iter().any(|place| place.name() == name));
    let place = match (&guest.vm, guest.words.as_slice()) {
        (None, [name]) if is_machine(name)? => find(Some(name))?,
        (vm, []) => find(vm.as_deref())?,
        _ => return talk("stop", guest),
    };
    printer.done("Ending", place.name());
    end(&place, Ask::PowerButton)
}

/// Has a machine end, and waits for it.
fn end(place: &Place, how: Ask) -> Result<(), Failure> {
    // kiln-init needs no power button, for which not every system has the driver.
    if how == Ask::PowerButton && control::power_off(place) {
        return wait_for_end(place);
    }
    let cannot = |error: io::Error| {
        let hint = (how == Ask::PowerButton).then(|| at_once(place));
        Failure::failed(format!("cannot end {}", place.name()), Some(&error), hint)
    };
    let monitor = place.about().monitor;
    let asked = match how {
        Ask::PowerButton => monitor.ask(place, how),
        Ask::Quit => monitor.end(place),
    };
    asked.map_err(cannot)?;
    wait_for_end(place)
}

fn at_once(place: &Place) -> String {
    format!("kiln vm rm {} ends it at once", place.name())
}

fn wait_for_end(place: &Place) -> Result<(), Failure> {
    let began = std::time::Instant::now();
    while place.is_alive() {
        if began.elapsed() > POWER_OFF_MAX {
            return Err(Failure::failed(
                format!("{} does not end", place.name()),
                None,
                Some(at_once(place)),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    place.remove();
    Ok(())
}

/// Tells kiln-init something, and ends as that did.
fn talk(verb: &str, guest: &Guest) -> Result<(), Failure> {
    let place = find(guest.vm.as_deref())?;
    let mut words = vec![verb.to_owned()];
    words.extend(guest.words.iter().cloned());
    let wants_terminal = verb == "exec"
        && guest
            .words
            .iter()
            .take_while(|word| word.starts_with('-'))
            .any(|word| ["-t", "-it", "-ti", "--tty"].contains(&word.as_str()));
    let cannot = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::broken_pipe(),
        _ => Failure::failed(
            format!("cannot talk to {}", place.name()),
            Some(&error),
            None,
        ),
    };
    let interruption = build::watch_signals()?;
    let mut port = Port::open(&place).map_err(cannot)?;
    // Other commands leave it to whoever comes next in a script.
    if verb == "exec" {
        port.input = Some(control::stdin().map_err(cannot)?);
    }
    let raw = port.request(&words, wants_terminal).map_err(cannot)?;
    let cancelled = || interruption.has_come();
    match port.relay(raw, Some(PATIENCE), cancelled).map_err(cannot)? {
        End::Status(0) => Ok(()),
        End::Status(status) => Err(Failure::with_status(status)),
        End::Left => Err(Failure::by_signal(interruption.number())),
        End::Silence => Err(silent(&place)),
    }
}

/// Nobody has answered.
pub(super) fn silent(place: &Place) -> Failure {
    let [bus, line] = place.about().monitor.modules();
    Failure::failed(
        format!("{} does not answer", place.name()),
        None,
        Some(format!(
            "kiln-init answers (init: [kiln]) when the modules {bus} and {line} are there"
        )),
    )
}
