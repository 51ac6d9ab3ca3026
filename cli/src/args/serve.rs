//! `kiln serve`: LinuxKit's flags of its file server.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

/// `kiln serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen: [ADDRESS]:PORT; without an address on all of this machine's
    #[arg(long, value_name = "[ADDRESS]:PORT", default_value = ":8080", value_parser = address)]
    pub(crate) port: SocketAddr,
    /// Directory to serve
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
}

/// Reads `:8080`, `8080`, `192.0.2.1:8080`, `[::1]:8080` or `localhost:8080`.
fn address(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port
        .parse()
        .map_err(|_| "it ends with a port from 0 to 65535: :8080, 192.0.2.1:8080".to_owned())?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let address = match host {
        "" => Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        host => host.parse(),
    };
    match address {
        Ok(address) => Ok(SocketAddr::new(address, port)),
        Err(_) => Err(format!(
            "\"{host}\" is no address of a machine; write 192.0.2.1:8080"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_gos() {
        for (text, meant) in [
            (":8080", "[::]:8080"),
            ("80", "[::]:80"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:1", "[::1]:1"),
            ("localhost:0", "127.0.0.1:0"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), meant, "{text}");
        }
        for text in ["", ":", ":x", ":65536", "host:1", "1.2.3:1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
