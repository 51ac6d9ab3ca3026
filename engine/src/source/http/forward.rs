//! Forward proxying of plain http: `GET http://host/path` to the proxy (RFC 9112, 3.2.2).
//!
//! Enters: a proxy's URL. Leaves: an agent whose connections go to the proxy and whose requests
//! name their target in full. ureq itself reaches everything through `CONNECT`, which squid and
//! apt-cacher-ng refuse for port 80 — and Debian's mirrors are plain http. For https targets
//! `CONNECT` is right and ureq does it.

use base64::Engine as _;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

use super::resolver::Remembering;

/// Makes an agent that sends plain http requests through a proxy that is itself reached by http.
pub(super) fn forward_agent(config: Config, proxy: &ureq::Proxy) -> ureq::Agent {
    let authorization = proxy.username().map(|user| {
        let pair = format!("{user}:{}", proxy.password().unwrap_or_default());
        base64::engine::general_purpose::STANDARD.encode(pair)
    });
    let resolver = ToProxy {
        proxy: proxy.uri().clone(),
        inner: Remembering::default(),
    };
    let connector = ().chain(TcpConnector::default()).chain(Forward { authorization });
    ureq::Agent::with_parts(config, connector, resolver)
}

/// Resolves every target to the proxy's addresses: the target's name is the proxy's business.
#[derive(Debug)]
struct ToProxy {
    proxy: Uri,
    inner: Remembering<DefaultResolver>,
}

impl Resolver for ToProxy {
    fn resolve(
        &self,
        _: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.inner.resolve(&self.proxy, config, timeout)
    }
}

struct Forward {
    authorization: Option<String>,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forward(..)")
    }
}

impl<In: Transport> Connector<In> for Forward {
    type Out = Forwarding<In>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let authority = details.uri.authority().map(|authority| authority.as_str());
        let target = format!("http://{}", authority.unwrap_or_default());
        let authorization = self.authorization.clone();
        Ok(chained.map(|inner| Forwarding {
            inner,
            target,
            authorization,
            in_body: false,
        }))
    }
}

/// A connection to the proxy on behalf of one target.
struct Forwarding<In> {
    inner: In,
    target: String,
    authorization: Option<String>,
    /// The head of the request is sent; a body may look like anything.
    in_body: bool,
}

impl<In> std::fmt::Debug for Forwarding<In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarding")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl<In: Transport> Transport for Forwarding<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if std::mem::replace(&mut self.in_body, true) {
            return self.inner.transmit_output(amount, timeout);
        }
        let output = self.inner.buffers().output();
        let rewritten = rewrite(
            &output[..amount],
            &self.target,
            self.authorization.as_deref(),
        );
        let Some(head) = rewritten else {
            return self.inner.transmit_output(amount, timeout);
        };
        let Some(room) = output.get_mut(..head.len()) else {
            return Err(ureq::Error::Other(
                "the request is too long for a proxy".into(),
            ));
        };
        room.copy_from_slice(&head);
        self.inner.transmit_output(head.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.in_body = false;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

/// Returns a request's head with the target in full; `None` for what is no head (a form's fields).
fn rewrite(output: &[u8], target: &str, authorization: Option<&str>) -> Option<Vec<u8>> {
    let method = [&b"GET "[..], b"POST ", b"HEAD ", b"PUT "]
        .into_iter()
        .find(|method| output.starts_with(method))?;
    let rest = output[method.len()..].strip_prefix(b"/")?;
    let line = rest.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let mut head = [method, target.as_bytes(), b"/", &rest[..line]].concat();
    if let Some(authorization) = authorization {
        head.extend_from_slice(
            format!("Proxy-Authorization: Basic {authorization}\r\n").as_bytes(),
        );
    }
    head.extend_from_slice(&rest[line..]);
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heads_are_rewritten() {
        let rewritten = |text: &str| {
            rewrite(text.as_bytes(), "http://a:1", Some("eA=="))
                .map(|head| String::from_utf8(head).unwrap())
        };
        assert_eq!(
            rewritten("GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(),
            "GET http://a:1/x?y HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nHost: a\r\n\r\n"
        );
        assert_eq!(rewritten("grant_type=x"), None);
        assert_eq!(rewritten("GET /x"), None);
    }
}
