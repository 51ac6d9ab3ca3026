//! Names to addresses, each looked up once for all connections.
//!
//! Enters: a target. Leaves: its addresses, those of up to [`KEEP`] ago. A build opens several
//! connections to one host at once, and name servers that drop some of many equal questions are
//! common: each dropped one costs the C library 5 seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long addresses are good for.
const KEEP: Duration = Duration::from_secs(60);

type Found = Arc<Mutex<Option<(Instant, Vec<SocketAddr>)>>>;

/// A resolver that remembers. Failures are not remembered.
#[derive(Debug, Default)]
pub(super) struct Remembering<R> {
    inner: R,
    hosts: Mutex<BTreeMap<String, Found>>,
}

impl<R: Resolver> Resolver for Remembering<R> {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let name = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |authority| authority.as_str())
        );
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = Arc::clone(hosts.entry(name).or_default());
        drop(hosts);
        // Others who want this host wait for the one who asks.
        let mut found = host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, addresses)) = found.as_ref().filter(|(since, _)| since.elapsed() < KEEP) {
            let mut all = self.empty();
            addresses.iter().for_each(|address| all.push(*address));
            return Ok(all);
        }
        let addresses = self.inner.resolve(uri, config, timeout)?;
        *found = Some((Instant::now(), addresses.iter().copied().collect()));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Fails at first, then finds one address.
    #[derive(Debug, Default)]
    struct Slow(AtomicUsize);

    impl Resolver for Slow {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            std::thread::sleep(Duration::from_millis(20));
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(ureq::Error::HostNotFound);
            }
            let mut all = self.empty();
            all.push(SocketAddr::from(([192, 0, 2, 1], 80)));
            Ok(all)
        }
    }

    #[test]
    fn asks_once_for_all() {
        let resolver = Remembering::<Slow>::default();
        let config = ureq::Agent::config_builder().build();
        let ask = |uri: &str| {
            let timeout = NextTimeout {
                after: Duration::from_secs(1).into(),
                reason: ureq::Timeout::Resolve,
                ..NextTimeout::default()
            };
            resolver.resolve(&uri.parse().unwrap(), &config, timeout)
        };
        assert!(ask("http://a/x").is_err());
        std::thread::scope(|threads| {
            for number in 0..8 {
                let ask = &ask;
                threads.spawn(move || {
                    let found = ask(&format!("http://a/{number}")).unwrap();
                    assert_eq!(found[..], [SocketAddr::from(([192, 0, 2, 1], 80))]);
                });
            }
        });
        assert_eq!(resolver.inner.0.load(Ordering::Relaxed), 2);
        ask("http://a:81/").unwrap();
        assert_eq!(resolver.inner.0.load(Ordering::Relaxed), 3);
    }
}
