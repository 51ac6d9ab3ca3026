//! Providers on the network that answer one path with one value, as a table.
//!
//! In: the [`Client`]. Out: what one of them said, as [`Found`]. Paths and names of files are
//! those of LinuxKit's `pkg/metadata/provider_*.go`; the token of AWS is IMDSv2 (Amazon EC2 User
//! Guide, "Use the Instance Metadata Service to access instance metadata").

use super::client::{Client, Header};
use super::documents::{key_lines, push_line};
use super::{Found, json, say_missing};
use crate::error::Result;
use crate::jobs::tell;

const LINK_LOCAL: &str = "169.254.169.254";

/// How public keys are written.
#[derive(Debug, Clone, Copy)]
enum Keys {
    /// As in `authorized_keys`.
    Lines,
    /// A JSON list of such lines.
    Json,
    /// Lines with `USER:` in front (GCP).
    WithUser,
}

/// Where a provider has what.
#[derive(Debug)]
pub(super) struct Paths {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    /// What it is called in `provider`.
    title: &'static str,
    host: &'static str,
    /// Begins with the path behind which a session token is got, if there is one.
    token: Option<&'static str>,
    header: Option<Header<'static>>,
    /// Answers only here; what it says is not looked at.
    probe: &'static str,
    /// In front of the hostname and files.
    base: &'static str,
    /// Path and file.
    files: &'static [(&'static str, &'static str)],
    keys: (&'static str, Keys),
    userdata: Option<&'static str>,
}

/// Files that AWS has, and OpenStack, which offers the same service.
const EC2_FILES: &[(&str, &str)] = &[
    ("public-ipv4", "public_ipv4"),
    ("local-ipv4", "local_ipv4"),
    ("placement/availability-zone", "availability_zone"),
    ("instance-type", "instance_type"),
    ("instance-id", "instance_id"),
    ("local-hostname", "local_hostname"),
];

const EC2: Paths = Paths {
    name: "aws",
    title: "AWS",
    host: LINK_LOCAL,
    token: Some("/latest/api/token"),
    header: None,
    probe: "/latest/meta-data/hostname",
    base: "/latest/meta-data/",
    files: EC2_FILES,
    keys: ("/latest/meta-data/public-keys/0/openssh-key", Keys::Lines),
    userdata: Some("/latest/user-data"),
};

/// The table.
pub(super) const PATHS: [Paths; 7] = [
    EC2,
    Paths {
        name: "gcp",
        title: "GCP",
        host: "metadata.google.internal",
        token: None,
        header: Some(("Metadata-Flavor", "Google")),
        probe: "/computeMetadata/v1/instance/hostname",
        base: "/computeMetadata/v1/instance/",
        files: &[],
        keys: (
            "/computeMetadata/v1/project/attributes/ssh-keys",
            Keys::WithUser,
        ),
        userdata: Some("/computeMetadata/v1/instance/attributes/user-data"),
    },
    Paths {
        name: "hetzner",
        title: "Hetzner",
        token: None,
        files: &[
            ("public-ipv4", "public_ipv4"),
            ("local-ipv4", "local_ipv4"),
            ("instance-id", "instance_id"),
        ],
        keys: ("/latest/meta-data/public-keys", Keys::Json),
        ..EC2
    },
    Paths {
        name: "openstack",
        title: "openstack",
        token: None,
        ..EC2
    },
    Paths {
        name: "vultr",
        title: "Vultr",
        token: None,
        probe: "/v1/",
        base: "/v1/",
        files: &[
            ("interfaces/0/ipv4/address", "public_ipv4"),
            ("interfaces/1/ipv4/address", "private_ipv4"),
            ("interfaces/1/ipv4/netmask", "private_netmask"),
            ("region/regioncode", "region_code"),
            ("instanceid", "instance_id"),
        ],
        keys: ("/v1/public-keys", Keys::Lines),
        userdata: None,
        ..EC2
    },
    Paths {
        name: "digitalocean",
        title: "DigitalOcean",
        token: None,
        probe: "/metadata/v1/",
        base: "/metadata/v1/",
        files: &[
            ("interfaces/public/0/ipv4/address", "public_ipv4"),
            ("interfaces/private/0/ipv4/address", "private_ipv4"),
            ("region", "region"),
            ("id", "id"),
        ],
        keys: ("/metadata/v1/public-keys", Keys::Lines),
        userdata: Some("/metadata/v1/user-data"),
        ..EC2
    },
    Paths {
        name: "metaldata",
        title: "metaldata",
        host: "metaldata",
        token: None,
        probe: "/get/meta/hostname",
        base: "/get/meta/",
        files: &[
            ("public-ipv4", "public_ipv4"),
            ("private-ipv4", "private_ipv4"),
            ("failure-domain", "failure_domain"),
            ("machine-id", "machine_id"),
            ("machine-type", "machine_type"),
        ],
        keys: ("/get/meta/authorized-keys", Keys::Lines),
        userdata: Some("/get/user"),
        ..EC2
    },
];

impl Paths {
    /// Asks for everything; an error means that this is not the provider.
    pub(super) fn find(&self, client: &Client) -> Result<Found> {
        let token = self.token(client)?;
        let mut headers: Vec<Header<'_>> = self.header.into_iter().collect();
        if let Some(token) = &token {
            headers.push(("X-aws-ec2-metadata-token", token));
        }
        client.probe("GET", self.host, self.probe, &headers)?;
        let get = |path: &str| client.get(self.host, path, &headers);
        let value = |path: &str, what: &str| say_missing(self.title, what, get(path));

        let mut found = Found::new(self.title);
        found.hostname = value(&format!("{}hostname", self.base), "hostname");
        for (path, file) in self.files {
            if let Some(text) = value(&format!("{}{path}", self.base), path) {
                found.files.push((file, text));
            }
        }
        let (path, keys) = self.keys;
        found.keys = value(path, "public keys").and_then(|text| lines(text, keys, self.title));
        found.userdata = self.userdata.and_then(|path| value(path, "userdata"));
        Ok(found)
    }

    /// Gets a session token, without which AWS may be set to answer nothing. A server that has
    /// no such path (version 1, and what others offer in its place) is asked without one; one
    /// that does not answer at all is an error.
    fn token(&self, client: &Client) -> Result<Option<String>> {
        let Some(path) = self.token else {
            return Ok(None);
        };
        let seconds = ("X-aws-ec2-metadata-token-ttl-seconds", "300");
        let token = client.probe("PUT", self.host, path, &[seconds]);
        // Goes into a header, so it must be one word.
        let token = token.ok().and_then(|t| String::from_utf8(t).ok());
        Ok(token.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic())))
    }
}

/// Writes public keys as lines of `authorized_keys`.
fn lines(text: Vec<u8>, keys: Keys, title: &str) -> Option<Vec<u8>> {
    match keys {
        Keys::Lines => Some(text),
        Keys::Json => match json(&text) {
            Ok(keys) => key_lines(&keys),
            Err(cause) => {
                tell!("metadata: {title}: public keys: {cause}");
                None
            }
        },
        Keys::WithUser => {
            let mut lines = Vec::new();
            for line in String::from_utf8_lossy(&text).lines() {
                push_line(&mut lines, line.split_once(':').map_or("", |(_, key)| key));
            }
            Some(lines)
        }
    }
}
