//! `kiln push`: an image to a registry. And the way to go for LinuxKit's pushes to clouds.

use std::env;
use std::path::{Path, PathBuf};

use kiln_engine::image_store::{Pushed, SendOptions};
use kiln_engine::source::ImageName;

use super::cache::{short, with_sources};
use crate::args::{Cloud, Push};
use crate::failure::Failure;
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &Push, printer: Printer) -> Result<(), Failure> {
    if let Some(cloud) = &arguments.cloud {
        return Err(refused(cloud));
    }
    // clap has seen to it that both are there.
    let (Some(source), Some(name)) = (&arguments.source, &arguments.name) else {
        return Err(Failure::usage(
            "an image and a name are needed",
            "kiln push oci:DIR NAME",
        ));
    };
    let from = image(source)?;
    let options = SendOptions {
        platform: arguments.platform.clone(),
        replace: arguments.replace,
    };
    let pushed = with_sources(&arguments.sources, printer, |images| {
        images.send(&from, name, &options)
    })?;
    match pushed {
        Pushed::Sent(to, digest) => printer.done("Pushed", &format!("{to} {}", short(&digest))),
        Pushed::Kept(to, digest) => printer.done(
            "Kept",
            &format!("{to} {}: the registry has the same", short(&digest)),
        ),
    }
    Ok(())
}

/// Reads SOURCE. On a command line the path after a transport need not begin with `./`.
fn image(text: &str) -> Result<ImageName, Failure> {
    let transport = ["oci", "oci-archive", "docker-archive"]
        .into_iter()
        .find_map(|transport| Some((transport, text.strip_prefix(transport)?.strip_prefix(':')?)));
    let is_path = |rest: &str| {
        let starts = ["/", "./", "../", "~/"];
        starts.iter().any(|start| rest.starts_with(start))
    };
    let text = match transport {
        Some((transport, rest)) if !is_path(rest) => format!("{transport}:./{rest}"),
        _ => text.to_owned(),
    };
    // A file's name can be an image's name, too, but is hardly meant as one.
    let path = Path::new(&text);
    if transport.is_none() && path.exists() {
        let failure = Failure::usage(format!("SOURCE: {text} does not say what it is"), None);
        return Err(failure.hint(match path.is_dir() {
            true => format!("an OCI layout is oci:{text}"),
            false => format!(
                "a tar of an OCI layout is oci-archive:{text}, what docker save writes is \
                 docker-archive:{text}"
            ),
        }));
    }
    let base = env::current_dir()
        .map_err(|error| Failure::failed("there is no current directory", Some(&error), None))?;
    let home = env::var_os("HOME").map(PathBuf::from);
    ImageName::parse(&text)
        .and_then(|name| name.resolve_paths(&base, home.as_deref()))
        .map_err(|error| {
            Failure::usage(
                format!("SOURCE: {error}"),
                "it is oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or the \
                 name of an image in the cache",
            )
        })
}

/// Says what to do instead of pushing to a cloud.
fn refused(cloud: &Cloud) -> Failure {
    let (name, way) = match cloud {
        Cloud::Aws(_) => ("aws", "aws s3 cp, then aws ec2 import-snapshot"),
        Cloud::Azure(_) => ("azure", "az storage blob upload, then az image create"),
        Cloud::Equinixmetal(_) => (
            "equinixmetal",
            "put kernel and initrd on a web server, and boot them with iPXE",
        ),
        Cloud::Gcp(_) => (
            "gcp",
            "gcloud storage cp, then gcloud compute images create",
        ),
        Cloud::Openstack(_) => ("openstack", "openstack image create"),
        Cloud::Scaleway(_) => ("scaleway", "scw instance snapshot create"),
        Cloud::Vcenter(_) => ("vcenter", "govc datastore.upload"),
    };
    let text = format!("kiln push sends images to registries, not disk images to {name}");
    Failure::usage(text, None).hint(format!(
        "use the provider's own tool: {way} (an image called {name} is docker.io/library/{name})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use clap::Parser;

    fn parsed(line: &str) -> Push {
        let line = format!("kiln push {line}");
        match Arguments::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Push(push) => push,
            other => panic!("{other:?}"),
        }
    }

    fn hint_of(failure: &Failure) -> &str {
        failure.problems[0].hint.as_deref().unwrap()
    }

    #[test]
    fn a_transport_needs_no_dot_before_its_path() {
        let base = env::current_dir().unwrap();
        let layout = |path: &str, tag: Option<&str>| ImageName::OciLayout {
            path: base.join(path),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(image("oci:out").unwrap(), layout("out", None));
        assert_eq!(image("oci:.out").unwrap(), layout(".out", None));
        assert_eq!(image("oci:./out:1.0").unwrap(), layout("out", Some("1.0")));
        assert!(matches!(
            image("docker-archive:a.tar").unwrap(),
            ImageName::DockerArchive { .. }
        ));
        assert!(matches!(
            image("nowhere/app:1").unwrap(),
            ImageName::Registry(_)
        ));
        assert!(hint_of(&image("src").unwrap_err()).contains("oci:src"));
        assert!(image("UPPER").is_err());
    }

    #[test]
    fn pushes_to_clouds_name_the_way() {
        for line in [
            "aws -bucket b -timeout 5 disk.img",
            "gcp --help",
            "azure",
            "vcenter --url x y",
        ] {
            let cloud = parsed(line).cloud.unwrap();
            let failure = refused(&cloud);
            let name = line.split(' ').next().unwrap();
            assert!(failure.problems[0].message.ends_with(name));
            assert!(hint_of(&failure).contains("tool"));
        }
        let push = parsed("oci:x a/b:1 --override");
        assert!(push.cloud.is_none() && push.replace);
        for line in ["kiln push", "kiln push oci:x"] {
            assert!(Arguments::try_parse_from(line.split_whitespace()).is_err());
        }
    }
}
