//! Providers on the network that answer with one document: Scaleway, Equinix Metal, Azure.
//!
//! In: the [`Client`]. Out: what one of them said, as [`Found`]. Formats: LinuxKit's
//! `provider_scaleway.go` and `packngo/metadata`; Microsoft Learn, "Azure Instance Metadata
//! Service for virtual machines" (version 2021-02-01).

use serde_json::Value;

use super::client::Client;
use super::providers::join;
use super::{Found, say_missing, text};
use crate::error::{Context, Error, Result};

const SCALEWAY: &str = "169.254.42.42";
/// LinuxKit asks it over TLS; the service answers without, too, as it does for iPXE.
const EQUINIX: &str = "metadata.packet.net";
const AZURE: &str = "169.254.169.254";
/// Public keys read.
const KEYS_MAX: usize = 1000;

/// Scaleway: `NAME=value` lines; userdata only for root's ports.
pub(super) fn scaleway(client: &Client) -> Result<Found> {
    const TITLE: &str = "Scaleway";
    let conf = client.probe("GET", SCALEWAY, "/conf", &[])?;
    let conf = String::from_utf8_lossy(&conf);
    let value = |name: &str| {
        let mut lines = conf.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    let mut found = Found::new(TITLE);
    let hostname = value("HOSTNAME").ok_or_else(|| Error::new("no HOSTNAME in /conf"))?;
    found.hostname = Some(hostname.as_bytes().to_vec());
    for (name, file) in [
        ("ID", "instance_id"),
        ("LOCATION_ZONE_ID", "instance_location"),
        ("PUBLIC_IP_ADDRESS", "public_ip"),
        ("PRIVATE_IP", "private_ip"),
    ] {
        let text = value(name).ok_or_else(|| Error::new("not in /conf"));
        if let Some(text) = say_missing(TITLE, name, text) {
            found.files.push((file, text.as_bytes().to_vec()));
        }
    }
    let count: usize = value("SSH_PUBLIC_KEYS").map_or(0, |n| n.parse().unwrap_or_default());
    let keys = (0..count.min(KEYS_MAX))
        .filter_map(|number| value(&format!("SSH_PUBLIC_KEYS_{number}_KEY")))
        .map(|key| key.trim_matches('\''));
    found.keys = (count > 0).then(|| join(keys));
    let userdata = client.get_as_root(SCALEWAY, "/user_data/cloud-init");
    found.userdata = say_missing(TITLE, "userdata", userdata);
    Ok(found)
}

/// Equinix Metal: JSON. Its bonded network is not configured here.
pub(super) fn equinix(client: &Client) -> Result<Found> {
    const TITLE: &str = "EquinixMetal";
    let document = client.probe("GET", EQUINIX, "/metadata", &[])?;
    let document: Value = serde_json::from_slice(&document).context(|| "/metadata")?;
    if let Some(error) = text(&document, "/error").filter(|error| !error.is_empty()) {
        return Err(Error::new(format!("{EQUINIX}: {error}")));
    }
    let mut found = Found::new(TITLE);
    found.hostname = text(&document, "/hostname").map(|name| name.as_bytes().to_vec());
    let keys = document.pointer("/ssh_keys").and_then(Value::as_array);
    found.keys = keys.map(|keys| join(keys.iter().filter_map(Value::as_str)));
    let userdata = client.get(EQUINIX, "/userdata", &[]);
    // What the firmware ran to boot us is no configuration.
    found.userdata = say_missing(TITLE, "userdata", userdata)
        .filter(|data| !data.is_empty() && !data.starts_with(b"#!ipxe"));
    Ok(found)
}

/// Azure: JSON; userdata in base64.
pub(super) fn azure(client: &Client) -> Result<Found> {
    let path = "/metadata/instance?api-version=2021-02-01";
    let document = client.probe("GET", AZURE, path, &[("Metadata", "true")])?;
    let document: Value = serde_json::from_slice(&document).context(|| path)?;
    let hostname = text(&document, "/compute/osProfile/computerName")
        .filter(|name| !name.is_empty())
        .or_else(|| text(&document, "/compute/name"))
        .ok_or_else(|| Error::new(format!("{AZURE}: no name in {path}")))?;
    let mut found = Found::new("Azure");
    found.hostname = Some(hostname.as_bytes().to_vec());
    let address = "/network/interface/0/ipv4/ipAddress/0";
    for (pointer, file) in [
        (&*format!("{address}/publicIpAddress"), "public_ipv4"),
        (&*format!("{address}/privateIpAddress"), "local_ipv4"),
        ("/compute/zone", "availability_zone"),
        ("/compute/vmSize", "instance_type"),
        ("/compute/vmId", "instance_id"),
    ] {
        if let Some(value) = text(&document, pointer).filter(|value| !value.is_empty()) {
            found.files.push((file, value.as_bytes().to_vec()));
        }
    }
    let keys = document
        .pointer("/compute/publicKeys")
        .and_then(Value::as_array);
    found.keys = keys.map(|keys| join(keys.iter().filter_map(|key| text(key, "/keyData"))));
    for name in ["userData", "customData"] {
        let data = text(&document, &format!("/compute/{name}")).unwrap_or_default();
        if !data.is_empty() {
            found.userdata = say_missing("Azure", name, base64(data));
            break;
        }
    }
    Ok(found)
}

/// Decodes base64 (RFC 4648, 4), line breaks allowed.
fn base64(text: &str) -> Result<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return Err(Error::new("is not base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        // RFC 4648, 10.
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYmFy\r\n", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(base64("+/+/").unwrap(), [0xfb, 0xff, 0xbf]);
        assert!(base64("a-b_").is_err());
    }
}
