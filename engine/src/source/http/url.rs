//! URLs and hosts: what may be asked for, where a redirect leads, who is who.
//!
//! Enters: text and `Location` headers. Leaves: http and https URLs. What is printed holds no
//! secret: no user, password or query.

use ureq::http::uri::Authority;
use ureq::http::{HeaderMap, Uri};

use super::HttpError;

pub(super) fn parse_url(text: &str) -> Result<Uri, HttpError> {
    let bad = |reason: &str| HttpError::Url {
        url: without_userinfo(text),
        reason: reason.to_owned(),
    };
    let url: Uri = text.parse().map_err(|_| bad("not a URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(bad("not an http or https URL"));
    }
    if host(&url).is_empty() {
        return Err(bad("names no host"));
    }
    Ok(url)
}

/// Returns the URL that a redirect's `Location` leads to (RFC 3986, 5.2, for http URLs).
pub(super) fn redirected(from: &Uri, headers: &HeaderMap) -> Result<Uri, HttpError> {
    let bad = |reason: String| HttpError::Answer {
        url: shown(from),
        reason,
    };
    let location = headers
        .get("location")
        .and_then(|value| value.to_str().ok());
    let Some(location) = location.map(|text| text.split('#').next().unwrap_or_default()) else {
        return Err(bad("a redirect without a location".to_owned()));
    };
    let scheme = from.scheme_str().unwrap_or_default();
    let authority = from.authority().map_or("", Authority::as_str);
    let is_absolute = |text: &str| {
        text.split_once("://")
            .is_some_and(|(scheme, _)| !scheme.contains(['/', '?']))
    };
    let text = if is_absolute(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", from.path())
    } else {
        let directory = from
            .path()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let target = parse_url(&text).map_err(|_| bad("a redirect to no http URL".to_owned()))?;
    if scheme == "https" && target.scheme_str() != Some("https") {
        return Err(bad(format!("a redirect from https to {}", shown(&target))));
    }
    Ok(target)
}

pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme()
        && host(one).eq_ignore_ascii_case(host(other))
        && port(one) == port(other)
}

fn port(url: &Uri) -> u16 {
    url.port_u16()
        .unwrap_or(if url.scheme_str() == Some("https") {
            443
        } else {
            80
        })
}

pub(super) fn host(url: &Uri) -> &str {
    url.host().unwrap_or_default()
}

/// Prints a URL without what may be secret: user, password and query (signed URLs).
pub(super) fn shown(url: &Uri) -> String {
    let authority = url.authority().map_or("", Authority::as_str);
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!(
        "{}://{authority}{}",
        url.scheme_str().unwrap_or_default(),
        url.path()
    )
}

pub(super) fn without_userinfo(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
        None => text.to_owned(),
    }
}

/// Tells whether `host` (a name or an address, without port) is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Tells whether a list of `host` or `host:port` names `authority`.
pub(in super::super) fn is_listed(list: &[String], authority: &Authority) -> bool {
    let text = authority.as_str();
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    list.iter().any(|entry| {
        entry.eq_ignore_ascii_case(text) || entry.eq_ignore_ascii_case(authority.host())
    })
}

pub(super) fn is_bypassed(list: &[String], host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.iter().any(|entry| {
        let name = entry
            .trim()
            .trim_start_matches("*.")
            .trim_start_matches('.')
            .to_ascii_lowercase();
        name == "*"
            || (!name.is_empty()
                && (host == name
                    || host
                        .strip_suffix(&name)
                        .is_some_and(|rest| rest.ends_with('.'))))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follow(from: &str, location: &str) -> Result<String, HttpError> {
        let mut headers = HeaderMap::new();
        let value = ureq::http::HeaderValue::from_str(location).unwrap();
        headers.insert("location", value);
        redirected(&from.parse().unwrap(), &headers).map(|url| url.to_string())
    }

    #[test]
    fn locations_are_joined() {
        let from = "https://a.example:8443/v2/x/blobs/y?z=/";
        for (location, expected) in [
            ("https://b.example/c?d#e", "https://b.example/c?d"),
            ("//b.example/c", "https://b.example/c"),
            ("/c?u=http://d", "https://a.example:8443/c?u=http://d"),
            (
                "c?u=http://d/",
                "https://a.example:8443/v2/x/blobs/c?u=http://d/",
            ),
            ("?c", "https://a.example:8443/v2/x/blobs/y?c"),
        ] {
            assert_eq!(follow(from, location).unwrap(), expected);
        }
        assert_eq!(follow("http://a", "b").unwrap(), "http://a/b");
        assert!(
            follow(from, "http://a.example:8443/")
                .unwrap_err()
                .to_string()
                .contains("https to http")
        );
        assert!(
            follow(from, "javascript:alert(1)")
                .is_ok_and(|url| url.starts_with("https://a.example:8443/"))
        );
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let same =
            |one: &str, other: &str| same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://A/x", "https://a:443/y"));
        assert!(!same("https://a/", "http://a/"));
        assert!(!same("http://a/", "http://a:8080/"));
        assert!(!same("http://a/", "http://b/"));
    }

    #[test]
    fn hosts_are_recognised() {
        for host in [
            "localhost",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "[::1]",
            "LOCALHOST",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.evil.example",
            "128.0.0.1",
            "127.0.0.1.example",
            "",
            "[::2]",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let listed =
            |names: &[&str], authority: &str| is_listed(&list(names), &authority.parse().unwrap());
        assert!(
            listed(&["a.example"], "A.example:5000")
                && listed(&["a.example:5000"], "a.example:5000")
        );
        assert!(
            !listed(&["a.example:5000"], "a.example:5001")
                && !listed(&["a.example"], "b.a.example")
        );
        let bypassed = |names: &[&str], host: &str| is_bypassed(&list(names), host);
        for entry in [
            "example.org",
            ".example.org",
            "*.example.org",
            "*",
            " EXAMPLE.org ",
        ] {
            assert!(bypassed(&[entry], "a.Example.org"), "{entry}");
        }
        assert!(!bypassed(&["example.org", "", "."], "anexample.org"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let url: Uri = "https://u:p@a.example/x?X-Amz-Signature=s".parse().unwrap();
        assert_eq!(shown(&url), "https://a.example/x");
        assert_eq!(without_userinfo("ftp://u:p@a/b@c"), "ftp://a/b@c");
    }

    proptest! {
        #[test]
        fn any_location_is_harmless(location in "[ -~]{0,60}") {
            if let Ok(url) = follow("https://a.example/x/y", &location) {
                prop_assert!(url.starts_with("https://"));
            }
        }
    }
}
