//! Alternatives that programs rely on: a name that several packages can serve.
//!
//! Enters: which programs are there. Leaves: `NAME → /etc/alternatives/NAME → program`, as
//! update-alternatives(1) would, in automatic mode. Only names that other programs call are in
//! the table; manual pages and desktops are not.

use super::Overlay;

/// The directory of a name, the name, and its candidates: path and priority as in their scripts.
type Alternative = (&'static str, &'static str, &'static [(&'static str, u32)]);

const TABLE: [Alternative; 21] = [
    (
        "usr/bin",
        "awk",
        &[
            ("usr/bin/gawk", 10),
            ("usr/bin/mawk", 5),
            ("usr/bin/original-awk", 0),
        ],
    ),
    (
        "usr/bin",
        "nawk",
        &[
            ("usr/bin/gawk", 10),
            ("usr/bin/mawk", 5),
            ("usr/bin/original-awk", 0),
        ],
    ),
    (
        "usr/bin",
        "which",
        &[("usr/bin/which.gnu", 10), ("usr/bin/which.debianutils", 0)],
    ),
    (
        "usr/bin",
        "nc",
        &[("usr/bin/nc.openbsd", 50), ("usr/bin/nc.traditional", 10)],
    ),
    (
        "usr/bin",
        "pager",
        &[("usr/bin/less", 77), ("usr/bin/more", 50)],
    ),
    (
        "usr/bin",
        "editor",
        &[
            ("usr/bin/nano", 40),
            ("usr/bin/vim.basic", 30),
            ("usr/bin/vim.tiny", 15),
            ("usr/bin/nvi", 19),
        ],
    ),
    (
        "usr/bin",
        "vi",
        &[
            ("usr/bin/vim.basic", 30),
            ("usr/bin/nvi", 30),
            ("usr/bin/vim.tiny", 15),
        ],
    ),
    ("usr/bin", "vim", &[("usr/bin/vim.basic", 30)]),
    (
        "etc/mysql",
        "my.cnf",
        &[
            ("etc/mysql/mariadb.cnf", 500),
            ("etc/mysql/my.cnf.fallback", 100),
        ],
    ),
    (
        "usr/sbin",
        "iptables",
        &[
            ("usr/sbin/iptables-nft", 20),
            ("usr/sbin/iptables-legacy", 10),
        ],
    ),
    (
        "usr/sbin",
        "iptables-restore",
        &[
            ("usr/sbin/iptables-nft-restore", 20),
            ("usr/sbin/iptables-legacy-restore", 10),
        ],
    ),
    (
        "usr/sbin",
        "iptables-save",
        &[
            ("usr/sbin/iptables-nft-save", 20),
            ("usr/sbin/iptables-legacy-save", 10),
        ],
    ),
    (
        "usr/sbin",
        "ip6tables",
        &[
            ("usr/sbin/ip6tables-nft", 20),
            ("usr/sbin/ip6tables-legacy", 10),
        ],
    ),
    (
        "usr/sbin",
        "ip6tables-restore",
        &[
            ("usr/sbin/ip6tables-nft-restore", 20),
            ("usr/sbin/ip6tables-legacy-restore", 10),
        ],
    ),
    (
        "usr/sbin",
        "ip6tables-save",
        &[
            ("usr/sbin/ip6tables-nft-save", 20),
            ("usr/sbin/ip6tables-legacy-save", 10),
        ],
    ),
    (
        "usr/sbin",
        "arptables",
        &[
            ("usr/sbin/arptables-nft", 20),
            ("usr/sbin/arptables-legacy", 10),
        ],
    ),
    (
        "usr/sbin",
        "arptables-restore",
        &[("usr/sbin/arptables-nft-restore", 20)],
    ),
    (
        "usr/sbin",
        "arptables-save",
        &[("usr/sbin/arptables-nft-save", 20)],
    ),
    (
        "usr/sbin",
        "ebtables",
        &[
            ("usr/sbin/ebtables-nft", 20),
            ("usr/sbin/ebtables-legacy", 10),
        ],
    ),
    (
        "usr/sbin",
        "ebtables-restore",
        &[("usr/sbin/ebtables-nft-restore", 20)],
    ),
    (
        "usr/sbin",
        "ebtables-save",
        &[("usr/sbin/ebtables-nft-save", 20)],
    ),
];

/// Adds the links of every alternative that has a candidate.
pub(super) fn choose(overlay: &mut Overlay<'_>) {
    for (directory, name, candidates) in TABLE {
        let link = format!("{directory}/{name}");
        let there = candidates
            .iter()
            .filter(|(path, _)| overlay.has(path.as_bytes()));
        let Some((best, _)) = there.max_by_key(|(_, priority)| *priority) else {
            continue;
        };
        let best = format!("/{best}");
        if overlay.has(link.as_bytes()) {
            continue;
        }
        overlay.link(
            link.as_bytes(),
            format!("/etc/alternatives/{name}").as_bytes(),
        );
        overlay.link(
            format!("etc/alternatives/{name}").as_bytes(),
            best.as_bytes(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::finish;
    use super::super::testing::{Memory, text};

    #[test]
    fn takes_the_best_that_is_there() {
        let listing = Memory::new(&[
            ("usr/bin/mawk", ""),
            ("usr/bin/original-awk", ""),
            ("usr/sbin/iptables-legacy", ""),
            ("usr/sbin/iptables-nft", ""),
            ("usr/bin/nc", "busybox's own"),
            ("usr/bin/nc.openbsd", ""),
        ]);
        let extras = finish(&listing, &[]).unwrap();
        assert_eq!(text(&extras, "usr/bin/awk"), "/etc/alternatives/awk");
        assert_eq!(text(&extras, "etc/alternatives/awk"), "/usr/bin/mawk");
        assert_eq!(
            text(&extras, "etc/alternatives/iptables"),
            "/usr/sbin/iptables-nft"
        );
        assert_eq!(text(&extras, "usr/bin/nc"), "nothing", "what exists stays");
        assert_eq!(text(&extras, "etc/alternatives/pager"), "nothing");
    }
}
