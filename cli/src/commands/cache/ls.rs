//! `kiln cache ls`: one line an image, sorted by name, on standard output.

use kiln_engine::build::Network;
use kiln_engine::image_store::Listed;
use serde_json::json;

use crate::args::CacheInfo;
use crate::commands::print;
use crate::failure::Failure;
use crate::ui::printer::{Printer, printable};
use crate::ui::units;

pub(super) fn run(arguments: &CacheInfo, printer: Printer) -> Result<(), Failure> {
    let listed = super::with_images(
        arguments.cache.as_deref(),
        &Network::default(),
        printer,
        |images| images.list(),
    )?;
    print(&if arguments.json {
        json(&listed)
    } else {
        text(&listed)
    })
}

fn platforms(image: &Listed) -> String {
    let names = image
        .platforms
        .iter()
        .map(|(platform, _)| platform.to_string());
    names.collect::<Vec<_>>().join(",")
}

fn text(listed: &[Listed]) -> String {
    let widest = |length: fn(&Listed) -> usize, least: usize| {
        listed.iter().map(length).max().unwrap_or(0).max(least)
    };
    let name = widest(|image| image.name.chars().count(), "NAME".len());
    let platform = widest(|image| platforms(image).len(), "PLATFORM".len());
    let mut text = format!(
        "{:<name$}  {:<71}  {:<platform$}  {:>7}\n",
        "NAME", "DIGEST", "PLATFORM", "SIZE"
    );
    for image in listed {
        text += &format!(
            "{:<name$}  {}  {:<platform$}  {:>7}\n",
            printable(&image.name),
            image.digest,
            platforms(image),
            units::size(image.bytes)
        );
    }
    text
}

fn json(listed: &[Listed]) -> String {
    let images = listed.iter().map(|image| {
        let platforms = image.platforms.iter().map(|(platform, manifest)| {
            json!({"platform": platform.to_string(), "manifest": manifest.to_string()})
        });
        json!({
            "name": image.name,
            "digest": image.digest.to_string(),
            "platforms": platforms.collect::<Vec<_>>(),
            "bytes": image.bytes,
        })
    });
    let mut text = json!(images.collect::<Vec<_>>()).to_string();
    text.push('\n');
    text
}
