//! `/etc/resolv.conf`: the DNS servers of whoever knows some.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::bundle::make_directories;
use crate::error::{Context, Result};

/// Where `/etc/resolv.conf` leads in LinuxKit's images.
const RESOLV_CONF: &str = "/run/resolvconf/resolv.conf";

/// What is known of DNS.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Of the lease, or the command line.
    pub(crate) servers: Vec<Ipv4Addr>,
    /// Of the lease.
    pub(crate) domain: Option<String>,
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
        let search = self
            .domain
            .iter()
            .map(|domain| format!("search {domain}\n"));
        let leased = self.servers.iter().map(|it| format!("nameserver {it}\n"));
        let announced = self.announced.iter();
        let announced = announced.map(|it| format!("nameserver {it}\n"));
        search.chain(leased).chain(announced).collect()
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
            announced: vec!["fe80::1%eth0".into()],
        };
        let text = "search ex.org\nnameserver 1.1.1.1\nnameserver fe80::1%eth0\n";
        assert_eq!(resolver.text(), text);
        assert_eq!(Resolver::default().text(), "");
    }
}
