//! `/etc/resolv.conf`: the DNS servers of whoever knows some.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::bundle::make_directories;
use crate::error::{Context, Result};

/// Where `/etc/resolv.conf` leads in LinuxKit's images.
const RESOLV_CONF: &str = "/run/resolvconf/resolv.conf";

/// What servers of DHCPv6 say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// DNS servers, as the file has them.
    pub(crate) servers: Vec<String>,
    /// Domains to search.
    pub(crate) domains: Vec<String>,
}

/// What is known of DNS.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Of the lease, or the command line.
    pub(crate) servers: Vec<Ipv4Addr>,
    /// Of the lease.
    pub(crate) domain: Option<String>,
    /// What DHCPv6 adds to that.
    pub(crate) told: Told,
    /// What routers announce, as the file has it.
    pub(crate) announced: Vec<String>,
}

impl Resolver {
    /// Writes the file, if there is anything to say. In place: containers have the very file bound
    /// into them.
    pub(crate) fn write(&self) -> Result<()> {
        let text = self.text();
        if text.is_empty() {
            return Ok(());
        }
        let path = Path::new(RESOLV_CONF);
        make_directories(path.parent().unwrap_or(path))?;
        fs::write(path, text).context(|| RESOLV_CONF)
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        // Of several such lines only the last would count.
        let mut domains: Vec<&str> = self.domain.as_deref().into_iter().collect();
        domains.extend(self.told.domains.iter().map(String::as_str));
        if !domains.is_empty() {
            lines.push(format!("search {}\n", domains.join(" ")));
        }
        let leased = self.servers.iter().map(ToString::to_string);
        let others = self.told.servers.iter().chain(&self.announced).cloned();
        for server in leased.chain(others) {
            let line = format!("nameserver {server}\n");
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_asked_in_order() {
        let resolver = Resolver {
            servers: vec![Ipv4Addr::new(1, 1, 1, 1)],
            domain: Some("ex.org".into()),
            told: Told {
                servers: vec!["fd00::3".into()],
                domains: vec!["a.org".into(), "b.org".into()],
            },
            announced: vec!["fd00::3".into(), "fe80::1%eth0".into()],
        };
        let text = "search ex.org a.org b.org\nnameserver 1.1.1.1\nnameserver fd00::3\n\
                    nameserver fe80::1%eth0\n";
        assert_eq!(resolver.text(), text);
        assert_eq!(Resolver::default().text(), "");
    }
}
