//! Providers on the network that answer with one document: Scaleway, Equinix Metal, Azure.
//!
//! In: the [`Client`]. Out: what one of them said, as [`Found`]. Formats: LinuxKit's
//! `provider_scaleway.go` and `packngo/metadata`; Microsoft Learn, "Azure Instance Metadata
//! Service for virtual machines" (version 2021-02-01).

use serde_json::Value;

use super::client::Client;
use super::{Found, json, say_missing, text};
use crate::error::{Error, Result};

const SCALEWAY: &str = "169.254.42.42";
/// LinuxKit asks it over TLS. It answers without, too: Afterburn (CoreOS) asks it so.
const EQUINIX: &str = "metadata.packet.net";
const AZURE: &str = "169.254.169.254";

/// Where a JSON document has what.
pub(super) struct Shape {
    /// The first that is there counts.
    pub(super) hostname: [&'static str; 2],
    /// Place and file.
    pub(super) files: &'static [(&'static str, &'static str)],
    /// One key, a list of them, or a mapping to them; each a text or an object with `keyData`.
    pub(super) keys: &'static str,
}

impl Shape {
    /// Takes over what is there and not empty.
    pub(super) fn read(&self, document: &Value, found: &mut Found) {
        let [first, second] = self.hostname;
        let hostname = text(document, first).or_else(|| text(document, second));
        found.hostname = hostname.map(|name| name.as_bytes().to_vec());
        for (place, file) in self.files {
            if let Some(value) = text(document, place) {
                found.files.push((file, value.as_bytes().to_vec()));
            }
        }
        found.keys = document.pointer(self.keys).and_then(key_lines);
    }
}

/// Returns public keys as lines of `authorized_keys`.
pub(super) fn key_lines(keys: &Value) -> Option<Vec<u8>> {
    let all: Vec<&Value> = match keys {
        Value::String(_) => vec![keys],
        Value::Array(list) => list.iter().collect(),
        Value::Object(names) => names.values().collect(),
        _ => return None,
    };
    let mut lines = Vec::new();
    for key in all {
        let line = key.as_str().or_else(|| text(key, "/keyData"));
        push_line(&mut lines, line.unwrap_or_default());
    }
    (!lines.is_empty()).then_some(lines)
}

/// Appends a line, unless it is empty.
pub(super) fn push_line(lines: &mut Vec<u8>, line: &str) {
    let line = line.trim_ascii();
    if !line.is_empty() {
        lines.extend_from_slice(line.as_bytes());
        lines.push(b'\n');
    }
}

/// Scaleway: `NAME=value` lines; userdata only for root's ports.
pub(super) fn scaleway(client: &Client) -> Result<Found> {
    const TITLE: &str = "Scaleway";
    let conf = client.probe("GET", SCALEWAY, "/conf", &[])?;
    let conf = String::from_utf8_lossy(&conf);
    let (mut found, mut keys) = (Found::new(TITLE), Vec::new());
    for line in conf.lines() {
        let Some((name, value)) = line.split_once('=') else {
            continue;
        };
        let file = match name {
            "HOSTNAME" => {
                found.hostname = Some(value.as_bytes().to_vec());
                continue;
            }
            "ID" => "instance_id",
            "LOCATION_ZONE_ID" => "instance_location",
            "PUBLIC_IP_ADDRESS" => "public_ip",
            "PRIVATE_IP" => "private_ip",
            // SSH_PUBLIC_KEYS_0_KEY, beside a count and each key's fingerprint.
            name if name.starts_with("SSH_PUBLIC_KEYS_") && name.ends_with("_KEY") => {
                push_line(&mut keys, value.trim_matches('\''));
                continue;
            }
            _ => continue,
        };
        found.files.push((file, value.as_bytes().to_vec()));
    }
    if found.hostname.is_none() {
        return Err(Error::new("no HOSTNAME in /conf"));
    }
    found.keys = (!keys.is_empty()).then_some(keys);
    let userdata = client.get_as_root(SCALEWAY, "/user_data/cloud-init");
    found.userdata = say_missing(TITLE, "userdata", userdata);
    Ok(found)
}

/// Equinix Metal: JSON. Its bonded network is not configured here.
pub(super) fn equinix(client: &Client) -> Result<Found> {
    const TITLE: &str = "EquinixMetal";
    const SHAPE: Shape = Shape {
        hostname: ["/hostname", "/name"],
        files: &[],
        keys: "/ssh_keys",
    };
    let document = json(&client.probe("GET", EQUINIX, "/metadata", &[])?)?;
    if let Some(error) = text(&document, "/error") {
        return Err(Error::new(error));
    }
    let mut found = Found::new(TITLE);
    SHAPE.read(&document, &mut found);
    let userdata = client.get(EQUINIX, "/userdata", &[]);
    // What the firmware ran to boot us is no configuration.
    found.userdata = say_missing(TITLE, "userdata", userdata)
        .filter(|data| !data.is_empty() && !data.starts_with(b"#!ipxe"));
    Ok(found)
}

/// Azure: JSON; userdata in base64.
pub(super) fn azure(client: &Client) -> Result<Found> {
    const TITLE: &str = "Azure";
    const SHAPE: Shape = Shape {
        hostname: ["/compute/osProfile/computerName", "/compute/name"],
        files: &[
            (
                "/network/interface/0/ipv4/ipAddress/0/publicIpAddress",
                "public_ipv4",
            ),
            (
                "/network/interface/0/ipv4/ipAddress/0/privateIpAddress",
                "local_ipv4",
            ),
            ("/compute/zone", "availability_zone"),
            ("/compute/vmSize", "instance_type"),
            ("/compute/vmId", "instance_id"),
        ],
        keys: "/compute/publicKeys",
    };
    let path = "/metadata/instance?api-version=2021-02-01";
    let document = json(&client.probe("GET", AZURE, path, &[("Metadata", "true")])?)?;
    let mut found = Found::new(TITLE);
    SHAPE.read(&document, &mut found);
    if found.hostname.is_none() {
        return Err(Error::new("no name of a machine in the answer"));
    }
    let data = text(&document, "/compute/userData");
    if let Some(data) = data.or_else(|| text(&document, "/compute/customData")) {
        found.userdata = say_missing(TITLE, "userdata", base64(data));
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
