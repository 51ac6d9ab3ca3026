//! From flags and environment to the engine's request: every default is filled in here.

use std::borrow::Cow;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_engine::build::{Description, Destination, Format, Network, Request, fetch};
use kiln_engine::sbom::Options as SbomOptions;

use crate::args::{CacheFrom, Common, Docker, Made, Sources, System};
use crate::failure::Failure;
use crate::guest;
use crate::units;

/// Where a Docker engine listens unless `DOCKER_HOST` says otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const DAY: Duration = Duration::from_secs(86_400);

/// Makes the request that all commands share: outputs in a directory.
pub(super) fn request(
    files: &[PathBuf],
    formats: Vec<Format>,
    common: &Common,
) -> Result<Request, Failure> {
    let name = output_name(files, common)?;
    let directory = common.dir.clone().unwrap_or_else(|| PathBuf::from("."));
    if !directory.is_dir() {
        return Err(Failure::usage(
            format!("--dir {} is not a directory", directory.display()),
            "make it first; kiln does not guess whether a new directory is meant",
        ));
    }
    let architecture = architecture(common.sources.arch.as_deref())?;
    let cache = cache_directory(common.sources.cache.as_deref())?;
    let network = network(&common.sources)?;
    Ok(Request {
        descriptions: descriptions(files, &network, &cache)?,
        formats,
        destination: Destination::Directory { directory, name },
        guest: guest::for_architecture(&architecture),
        architecture,
        cache,
        cache_from: cache_from(&common.cache_from),
        decompress_kernel: false,
        sbom: Some(SbomOptions::default()),
        docker: None,
        cache_max: cache_max()?,
        pull: common.sources.pull,
        network,
        program: program(),
    })
}

/// Makes the request of a system that is looked at, and not built.
pub(super) fn looked_at(
    system: &System,
    formats: Vec<Format>,
    made: &Made,
    cache_from: &CacheFrom,
    sources: &Sources,
) -> Result<Request, Failure> {
    let common = Common {
        // No output bears it.
        name: Some("system".to_owned()),
        dir: None,
        cache_from: cache_from.clone(),
        sources: sources.clone(),
    };
    let mut request = request(&system.0, formats, &common)?;
    make(&mut request, made)?;
    Ok(request)
}

/// Takes over the flags that change what a build makes.
pub(super) fn make(request: &mut Request, made: &Made) -> Result<(), Failure> {
    request.decompress_kernel = made.decompress_kernel;
    request.sbom = super::sbom::bill(&made.bill)?;
    Ok(())
}

/// Returns `--format`, each once, or the one there is without.
pub(super) fn formats(names: &[String], default: Format) -> Result<Vec<Format>, Failure> {
    let mut formats: Vec<Format> = Vec::new();
    for name in names {
        let Some(format) = Format::named(name) else {
            return Err(Failure::usage(format!("unknown format \"{name}\""), None));
        };
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() {
        formats.push(default);
    }
    Ok(formats)
}

/// Returns `--cache-from`, else what `KILN_CACHE_FROM` lists. Its empty parts are none.
pub(super) fn cache_from(named: &CacheFrom) -> Vec<PathBuf> {
    if !named.cache_from.is_empty() {
        return named.cache_from.clone();
    }
    let listed = env::var_os("KILN_CACHE_FROM").unwrap_or_default();
    env::split_paths(&listed)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

/// Fetches the descriptions that are no files.
fn descriptions(
    files: &[PathBuf],
    network: &Network,
    cache: &Path,
) -> Result<Vec<Description>, Failure> {
    let is_url = |text: &&str| text.starts_with("http://") || text.starts_with("https://");
    let describe = |file: &PathBuf| match file.to_str() {
        Some("-") => Description::read("<stdin>", io::stdin().lock())
            .map_err(|error| Failure::failed("cannot read standard input", Some(&error), None)),
        Some(url) if is_url(&url) => {
            fetch(url, network).map_err(|error| Failure::of_build(error, cache, 0))
        }
        _ => Ok(Description::File(file.clone())),
    };
    files.iter().map(describe).collect()
}

/// Returns `--name`, else the last file's name without its extension.
fn output_name(files: &[PathBuf], common: &Common) -> Result<String, Failure> {
    let name = match &common.name {
        Some(name) => name.clone(),
        None => files
            .last()
            .and_then(|file| match file == Path::new("-") {
                // What LinuxKit calls it.
                true => Some("moby".into()),
                false => file.file_stem().map(|stem| stem.to_string_lossy()),
            })
            .map(Cow::into_owned)
            .unwrap_or_default(),
    };
    if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Failure::usage(
            format!("\"{name}\" cannot be the prefix of file names"),
            "choose a prefix with --name NAME and a directory with --dir DIR",
        ));
    }
    Ok(name)
}

/// Returns an architecture in Go's spelling; the host's when none was named.
pub(super) fn architecture(named: Option<&str>) -> Result<String, Failure> {
    let go = |name: &str| match name {
        "amd64" | "x86_64" => Some("amd64"),
        "arm64" | "aarch64" => Some("arm64"),
        "riscv64" => Some("riscv64"),
        _ => None,
    };
    let name = named.unwrap_or(env::consts::ARCH);
    go(name).map(str::to_owned).ok_or_else(|| {
        Failure::usage(
            format!("unknown architecture \"{name}\""),
            "known are amd64, arm64 and riscv64: --arch amd64",
        )
    })
}

/// Returns `--cache` (or `KILN_CACHE`), else the user's cache directory.
pub(super) fn cache_directory(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    // An empty KILN_CACHE is one that is not set.
    let named = named.filter(|path| !path.as_os_str().is_empty());
    named
        .map(Path::to_owned)
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("kiln")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/kiln")))
        .ok_or_else(|| {
            Failure::usage(
                "there is no place for the cache: HOME is not set",
                "choose one with --cache DIR or KILN_CACHE",
            )
        })
}

/// What the cache may take without being asked, in bytes.
const CACHE_MAX: u64 = 32_000_000_000;

/// Returns `KILN_CACHE_MAX_SIZE`, in bytes; none when it is 0: then nothing is collected unasked.
pub(super) fn cache_max() -> Result<Option<u64>, Failure> {
    let Some(text) = env::var_os("KILN_CACHE_MAX_SIZE").filter(|text| !text.is_empty()) else {
        return Ok(Some(CACHE_MAX));
    };
    let text = text.to_string_lossy();
    let bytes = units::size(&text).map_err(|error| {
        Failure::usage(
            format!("KILN_CACHE_MAX_SIZE={text}: {error}"),
            "0 is no limit",
        )
    })?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

pub(super) fn network(sources: &Sources) -> Result<Network, Failure> {
    for file in &sources.ca_file {
        if !file.is_file() {
            return Err(Failure::usage(
                format!("--ca-file {} is not a file", file.display()),
                None,
            ));
        }
    }
    let either = |lower: &str, upper: &str| {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        set(lower).or_else(|| set(upper))
    };
    Ok(Network {
        insecure_registries: sources.insecure_registry.clone(),
        mirrors: sources.mirror.clone(),
        ca_files: sources.ca_file.clone(),
        docker_config: docker_config(),
        home: env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from),
        timeout: timeout()?,
        http_proxy: either("http_proxy", "HTTP_PROXY"),
        https_proxy: either("https_proxy", "HTTPS_PROXY"),
        no_proxy: either("no_proxy", "NO_PROXY"),
    })
}

/// Returns how long a silent server is waited for, when `KILN_HTTP_TIMEOUT` says so.
fn timeout() -> Result<Option<Duration>, Failure> {
    let Some(text) = env::var_os("KILN_HTTP_TIMEOUT").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse::<f64>().ok());
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(timeout) if !timeout.is_zero() && timeout <= DAY => Ok(Some(timeout)),
        _ => Err(Failure::usage(
            format!("KILN_HTTP_TIMEOUT is \"{}\"", text.display()),
            "it is a number of seconds, up to a day: KILN_HTTP_TIMEOUT=60",
        )),
    }
}

/// Returns the path of Docker's `config.json`, when it exists.
fn docker_config() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let directory = set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
    let file = directory.join("config.json");
    file.exists().then_some(file)
}

/// Returns the socket of the Docker engine that is to be asked, as `DOCKER_HOST` names it.
pub(super) fn docker(flag: Docker) -> Result<Option<PathBuf>, Failure> {
    if !flag.docker {
        return Ok(None);
    }
    socket(env::var_os("DOCKER_HOST").as_deref()).map(Some)
}

fn socket(host: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(PathBuf::from(DOCKER_SOCKET));
    };
    let path = host
        .as_bytes()
        .strip_prefix(b"unix://")
        .map(|path| Path::new(OsStr::from_bytes(path)));
    match path {
        Some(path) if path.is_absolute() => Ok(path.to_owned()),
        _ => Err(Failure::usage(
            format!(
                "--docker: DOCKER_HOST is \"{}\", not a local socket",
                host.display()
            ),
            "kiln asks engines of this machine: DOCKER_HOST=unix:///PATH/OF/THE/SOCKET; images of \
             others come by docker save and image: docker-archive:./FILE",
        )),
    }
}

/// Identifies this very binary, without reading it: its version, size and time of change.
fn program() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match fs::metadata("/proc/self/exe") {
        Ok(file) => format!(
            "kiln {version} {} {}.{:09}",
            file.len(),
            file.mtime(),
            file.mtime_nsec()
        ),
        Err(_) => format!("kiln {version}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_is_a_local_socket() {
        let of = |host: &str| socket(Some(OsStr::new(host)));
        assert_eq!(socket(None).unwrap(), Path::new(DOCKER_SOCKET));
        assert_eq!(of("").unwrap(), Path::new(DOCKER_SOCKET));
        assert_eq!(of("unix:///run/x.sock").unwrap(), Path::new("/run/x.sock"));
        for host in [
            "tcp://127.0.0.1:2375",
            "ssh://host",
            "unix://x",
            "/run/x.sock",
        ] {
            let failure = of(host).unwrap_err();
            assert_eq!(failure.code, crate::exit::USAGE);
            assert!(failure.problems[0].message.contains(host), "{host}");
        }
    }
}
