//! Micro-benches: each room beside the work it cannot do without, in one run.
//!
//! `cargo run --release -p kiln-benches [ROOM…]` prints medians of several runs and the ratios that
//! matter: unpack against inflating alone, segments and assembly against copying. Whole
//! processes are measured by `benches/compare`. Rooms: `layers`, `flatten`, `plan`; all by default.

mod plan;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_cache::{Cache, Digest};
use kiln_engine::digest::Sha256;
use kiln_engine::format::tar as format_tar;
use kiln_engine::format::{Fragment, Part, Target, assemble, output::tar_segments, share};
use kiln_engine::tree::flatten::{Finish, flatten};
use kiln_engine::tree::unpack::{Expect, Options, unpack};
use kiln_engine::tree::{Entry, Kind, Tree, TreePath, TreeWriter};

/// Bytes of files in the layer that is unpacked.
const LAYER_BYTES: usize = 300 << 20;
/// Entries of each of the three layers that are flattened: a million stay.
const ENTRIES: usize = 430_000;
const RUNS: usize = 5;

type Anything<T> = Result<T, Box<dyn std::error::Error>>;
/// Measures in a directory, and prints.
type Room = fn(&Path) -> Anything<()>;

fn main() -> Anything<()> {
    let rooms: [(&str, Room); 3] = [
        ("layers", layers),
        ("flatten", flattening),
        ("plan", planning),
    ];
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked
        .iter()
        .find(|it| rooms.iter().all(|room| room.0 != **it))
    {
        return Err(format!("no room \"{unknown}\"").into());
    }
    let directory = tempfile::tempdir()?;
    for (name, room) in rooms {
        if asked.is_empty() || asked.iter().any(|it| it == name) {
            room(&directory.path().join(name))?;
        }
    }
    Ok(())
}

/// A layer's way from a registry's gzip to a tar.
fn layers(directory: &Path) -> Anything<()> {
    let plain = layer(&[
        Path::new("/usr/lib"),
        Path::new("/usr/share"),
        Path::new("/usr/bin"),
    ])?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&plain)?;
    let gzip = gzip.finish()?;
    let megabytes = plain.len() as f64 / 1e6;

    let hash = median(|_| {
        std::hint::black_box(blake3::hash(&plain));
    });
    println!(
        "blake3, one core                {:>8.0} MB/s",
        megabytes / hash.as_secs_f64()
    );

    let mut buffer = vec![0; 256 << 10];
    let inflate = median(|_| {
        let mut reader = flate2::bufread::MultiGzDecoder::new(&gzip[..]);
        while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    println!(
        "inflate alone (zlib-rs)         {:>8.0} MB/s",
        megabytes / inflate.as_secs_f64()
    );

    let expect = Expect {
        digest: Some(Sha256::of(&gzip)),
        size: Some(gzip.len() as u64),
        diff_id: Some(Sha256::of(&plain)),
    };
    let mut tree = Digest::of(b"");
    let unpacking = median(|run| {
        // A cache of its own each time: nothing is there already.
        let cache = Cache::open(directory.join(format!("unpack-{run}"))).expect("a cache");
        let options = Options {
            expect,
            ..Options::default()
        };
        let unpacked = unpack(
            &cache,
            &gzip[..],
            &options,
            &AtomicBool::new(false),
            &|_| {},
        );
        tree = unpacked.expect("a layer").tree;
    });
    println!(
        "unpack + index + verify         {:>8.0} MB/s  {:.0} % of inflating alone",
        megabytes / unpacking.as_secs_f64(),
        100.0 * inflate.as_secs_f64() / unpacking.as_secs_f64()
    );

    let cache = Cache::open(directory.join("unpack-0"))?;
    let flat = flatten(&cache, &[tree], &Finish::default())?.0;
    let fragments = [Fragment {
        name: "bench".into(),
        source: "bench".into(),
        location: "bench".into(),
        parts: vec![Part {
            prefix: TreePath::default(),
            tree: flat,
            shared: true,
        }],
    }];
    let mut segments = Vec::new();
    let segmenting = median(|_| {
        let plan = share(&cache, &fragments).expect("a plan");
        segments =
            format_tar::segments(&cache, &fragments[0], &plan.fragments[0]).expect("segments");
    });
    let entries = Tree::open(&cache, &flat)?.len();
    println!(
        "share + tar segment             {:>8.2} s     for {entries} entries",
        segmenting.as_secs_f64()
    );

    let all = tar_segments(&cache, &segments)?;
    let out = directory.join("out.tar");
    let writing = median(|_| {
        let _ = fs::remove_file(&out);
        assemble(&cache, &all, Target::Path(&out), None).expect("an output");
    });
    let copy = directory.join("copy.tar");
    let copying = median(|_| {
        let _ = fs::remove_file(&copy);
        fs::copy(&out, &copy).expect("a copy");
    });
    println!(
        "assemble a tar                  {:>8.0} MB/s  {:.2} × copying it",
        megabytes / writing.as_secs_f64(),
        writing.as_secs_f64() / copying.as_secs_f64()
    );
    Ok(())
}

/// A million entries out of three layers.
fn flattening(directory: &Path) -> Anything<()> {
    let cache = Cache::open(directory)?;
    let layers = [
        synthetic(&cache, 0)?,
        synthetic(&cache, 1)?,
        synthetic(&cache, 2)?,
    ];
    let mut flat = layers[0];
    let flattening = median(|_| {
        let (tree, _) = flatten(&cache, &layers, &Finish::default()).expect("a tree");
        flat = tree;
    });
    println!(
        "flatten to {:.2} million entries  {:>8.2} s     {:.2} million entries of {} layers/s; goal for a million: 0.6 s",
        Tree::open(&cache, &flat)?.len() as f64 / 1e6,
        flattening.as_secs_f64(),
        (layers.len() * ENTRIES) as f64 / 1e6 / flattening.as_secs_f64(),
        layers.len(),
    );
    Ok(())
}

/// A graph in which nothing is left to do.
fn planning(directory: &Path) -> Anything<()> {
    let cache = Cache::open(directory)?;
    let mut walk = plan::prepared(&cache)?;
    let planning = median(|_| walk());
    println!(
        "plan {} roots of {} layers {:>8.2} s     all in the cache; goal: 1 s",
        plan::COMPONENTS,
        plan::LAYERS,
        planning.as_secs_f64()
    );
    Ok(())
}

/// Returns the median time of [`RUNS`] runs.
fn median(mut work: impl FnMut(usize)) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|run| {
            let began = Instant::now();
            work(run);
            began.elapsed()
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

/// Makes a layer out of files of this machine.
fn layer(roots: &[&Path]) -> Anything<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::with_capacity(LAYER_BYTES + (64 << 20)));
    let mut pending: Vec<_> = roots.iter().rev().map(|root| root.to_path_buf()).collect();
    while let Some(path) = pending.pop() {
        if builder.get_ref().len() > LAYER_BYTES {
            break;
        }
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path)?
                .flatten()
                .map(|entry| entry.path())
                .collect();
            names.sort();
            pending.extend(names.into_iter().rev());
        } else if metadata.is_file()
            && let Ok(mut file) = File::open(&path)
        {
            builder.append_file(path.strip_prefix("/")?, &mut file)?;
        }
    }
    Ok(builder.into_inner()?)
}

/// Makes a layer's tree of many small entries; a third of the paths is in every layer.
fn synthetic(cache: &Cache, layer: usize) -> Anything<Digest> {
    let mut writer = TreeWriter::new();
    for entry in 0..ENTRIES {
        let owner = if entry % 3 == 0 { 9 } else { layer };
        let path = format!(
            "usr/share/directory{:05}/file-{owner}-{entry:07}",
            entry / 100
        );
        let path = TreePath::parse(path.as_bytes())?;
        writer.add(&Entry::new(path, Kind::File, 0o644))?;
    }
    Ok(writer.finish(cache)?.0)
}
