//! `kiln cache push`: images of the cache to registries.

use kiln_engine::image_store::{PushOptions, Pushed};

use crate::args::CachePush;
use crate::failure::Failure;
use crate::ui::printer::Printer;

pub(super) fn run(arguments: &CachePush, printer: Printer) -> Result<(), Failure> {
    if arguments.remote_name.is_some() && arguments.names.len() > 1 {
        return Err(Failure::usage(
            "--remote-name names one image, and several are to be pushed",
            "push them one by one",
        ));
    }
    let options = PushOptions {
        to: arguments.remote_name.clone(),
        replace: arguments.replace,
        arch_tags: arguments.with_arch_tags,
    };
    for name in &arguments.names {
        let pushed = super::with_sources(&arguments.sources, printer, |images| {
            images.push(name, &options)
        })?;
        match pushed {
            Pushed::Sent(to, digest) => {
                printer.done("Pushed", &format!("{to} {}", super::short(&digest)));
            }
            Pushed::Kept(to, digest) => printer.done(
                "Kept",
                &format!(
                    "{to} {}: it is there (--override pushes)",
                    super::short(&digest)
                ),
            ),
        }
    }
    Ok(())
}
