//! `kiln size`: what takes how much room in a system.
//!
//! Enters: a build's outputs, or any initrd. Leaves: a table, the largest first. A member's
//! compressed bytes are shared out among its parts by their unpacked bytes; kiln writes a member
//! for each container, so these are exact.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kiln_engine::format::initrd::{self, Visitor};

use super::print;
use crate::args::Size;
use crate::failure::Failure;
use crate::ui::printer::for_terminal;
use crate::ui::units;

/// Parts that are shown one by one; a hostile initrd may have any number.
const PARTS_MAX: usize = 10_000;
const REST: &str = "the rest";
/// What takes less than this share of the whole is shown as part of the rest.
const LEAST: u64 = 1000;

pub(super) fn run(arguments: &Size) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let initrd = match arguments.system.is_file() {
        true => arguments.system.clone(),
        false => {
            let kernel = with_suffix(&arguments.system, "-kernel");
            if let Some(len) = length(&kernel)? {
                rows.push(Row::file("kernel", len));
            }
            with_suffix(&arguments.system, "-initrd.img")
        }
    };
    let Some(len) = length(&initrd)? else {
        return Err(Failure::failed(
            format!("there is no {}", initrd.display()),
            None,
            Some("name an initrd, or the prefix of what `kiln build` wrote".to_owned()),
        ));
    };
    let mut parts = Parts::default();
    let file = File::open(&initrd).map_err(|error| cannot(&initrd, &error))?;
    initrd::visit(file, &mut parts).map_err(|error| cannot(&initrd, &error))?;
    let mut whole = parts.total();
    whole.packed = len;
    rows.push(Row::of("initrd", whole));
    for (name, part) in parts.by_size() {
        rows.push(Row::of(&format!("  {}", for_terminal(name)), part));
    }
    print(&table(&rows))
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Returns a file's length, if it is there.
fn length(path: &Path) -> Result<Option<u64>, Failure> {
    match path.metadata() {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot(path, &error)),
    }
}

fn cannot(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::failed(format!("cannot read {}", path.display()), Some(error), None)
}

/// What a part takes, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Part {
    packed: u64,
    unpacked: u64,
    entries: u64,
}

impl Part {
    fn add(&mut self, other: Self) {
        self.packed += other.packed;
        self.unpacked += other.unpacked;
        self.entries += other.entries;
    }
}

/// The parts of an initrd: those finished, and those of the current member.
#[derive(Debug, Default)]
struct Parts {
    all: BTreeMap<String, Part>,
    member: BTreeMap<String, Part>,
}

impl Parts {
    fn total(&self) -> Part {
        let mut total = Part::default();
        self.all.values().for_each(|part| total.add(*part));
        total
    }
}

impl Parts {
    /// Returns the parts, the largest first; the smallest together.
    fn by_size(self) -> Vec<(String, Part)> {
        let total = self.total().packed;
        let mut all: BTreeMap<String, Part> = BTreeMap::new();
        for (name, part) in self.all {
            let is_small = part.packed.saturating_mul(LEAST) < total;
            let name = if is_small { REST.to_owned() } else { name };
            all.entry(name).or_default().add(part);
        }
        let mut all: Vec<(String, Part)> = all.into_iter().collect();
        // The rest is last.
        let order = |(name, part): &(String, Part)| (name == REST, Reverse(part.packed));
        all.sort_by_key(order);
        all
    }
}

impl Visitor for Parts {
    fn entry(&mut self, path: &[u8], len: u64) {
        let mut name = part_of(&String::from_utf8_lossy(path));
        if self.member.len() + self.all.len() >= PARTS_MAX && !self.member.contains_key(&name) {
            REST.clone_into(&mut name);
        }
        let part = self.member.entry(name).or_default();
        part.unpacked += len;
        part.entries += 1;
    }

    fn member(&mut self, len: u64) {
        let member = std::mem::take(&mut self.member);
        // An entry without data takes some bytes as well.
        let weight = |part: &Part| u128::from(part.unpacked) + u128::from(part.entries);
        let weights: u128 = member.values().map(weight).sum();
        for (name, mut part) in member {
            let share = (u128::from(len) * weight(&part)).checked_div(weights);
            part.packed = share.and_then(|share| share.try_into().ok()).unwrap_or(0);
            self.all.entry(name).or_default().add(part);
        }
    }
}

/// Returns what people call the part of a system that a path belongs to.
fn part_of(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let mut names = path.split('/');
    let first = names.next().unwrap_or_default();
    let (second, third) = (names.next(), names.next());
    match (first, second, third) {
        ("containers", Some("services"), Some(name)) => format!("service {name}"),
        ("containers", Some("volumes"), Some(name)) => format!("volume {name}"),
        ("containers", Some(phase @ ("onboot" | "onshutdown")), Some(name)) => {
            format!("{phase} {name}")
        }
        ("lib", Some("modules"), _) | ("usr", Some("lib"), Some("modules")) => "modules".into(),
        ("usr", Some(second), Some(_)) => format!("usr/{second}"),
        _ => first.to_owned(),
    }
}

/// A line of the table.
struct Row([String; 4]);

impl Row {
    fn of(name: &str, part: Part) -> Self {
        Self([
            name.to_owned(),
            units::size(part.packed),
            units::size(part.unpacked),
            part.entries.to_string(),
        ])
    }

    fn file(name: &str, len: u64) -> Self {
        Self([name.into(), units::size(len), String::new(), String::new()])
    }
}

fn table(rows: &[Row]) -> String {
    let head = Row(["", "IN FILE", "UNPACKED", "ENTRIES"].map(str::to_owned));
    let all = || [&head].into_iter().chain(rows);
    let width = |column: usize| all().map(|row| row.0[column].chars().count()).max();
    let widths = [0, 1, 2, 3].map(|column| width(column).unwrap_or(0));
    let line = |row: &Row| {
        let [name, packed, unpacked, entries] = &row.0;
        let [first, second, third, fourth] = widths;
        let line =
            format!("{name:<first$}  {packed:>second$}  {unpacked:>third$}  {entries:>fourth$}");
        format!("{}\n", line.trim_end())
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_parts() {
        for (path, part) in [
            ("containers/services/web/lower/bin/sh", "service web"),
            (
                "./containers/onboot/000-dhcp/config.json",
                "onboot 000-dhcp",
            ),
            ("containers/volumes/data/lower", "volume data"),
            ("containers/services", "containers"),
            ("lib/modules/6.1/kernel/a.ko", "modules"),
            ("usr/lib/modules/6.1", "modules"),
            ("usr/bin/sh", "usr/bin"),
            ("init", "init"),
            ("/etc/hosts", "etc"),
            ("", ""),
        ] {
            assert_eq!(part_of(path), part, "{path}");
        }
    }

    #[test]
    fn a_members_bytes_are_shared_out() {
        let mut parts = Parts::default();
        parts.entry(b"init", 299);
        parts.entry(b"etc/a", 98);
        parts.entry(b"etc", 0);
        parts.member(200);
        parts.entry(b"init", 0);
        parts.member(50);
        parts.member(7);
        let part = |packed, unpacked, entries| Part {
            packed,
            unpacked,
            entries,
        };
        assert_eq!(parts.all["init"], part(200, 299, 2));
        assert_eq!(parts.all["etc"], part(50, 98, 2));
        assert_eq!(parts.total(), part(250, 397, 4));
        parts.entry(b"web", 4999);
        parts.entry(b"dev", 0);
        parts.entry(b"sys", 0);
        parts.member(5002);
        let names = |parts: Parts| -> Vec<_> {
            let all = parts.by_size().into_iter();
            all.map(|(name, part)| (name, part.packed)).collect()
        };
        let names = names(parts);
        let shown: Vec<_> = names
            .iter()
            .map(|(name, len)| (name.as_str(), *len))
            .collect();
        assert_eq!(
            shown,
            [("web", 5000), ("init", 200), ("etc", 50), ("the rest", 2)]
        );
    }

    #[test]
    fn the_table_lines_up() {
        let rows = [
            Row::file("kernel", 14_000_000),
            Row::of(
                "  init",
                Part {
                    packed: 10,
                    unpacked: 1500,
                    entries: 1,
                },
            ),
        ];
        assert_eq!(
            table(&rows),
            "        IN FILE  UNPACKED  ENTRIES\n\
             kernel    14 MB\n\
             \x20 init     10 B    1.5 kB        1\n"
        );
    }
}
