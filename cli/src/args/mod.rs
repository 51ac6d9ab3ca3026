//! Flags and their help, in LinuxKit's spelling where LinuxKit has them.
//!
//! Leaves: what was written, checked for form alone. [`crate::commands`] turns it into requests.

mod archive;
mod bench;
mod cache;
mod cache_from;
mod docker;
mod media;
mod metadata;
mod migrate;
mod pkg;
mod push;
mod sbom;
mod schema;
mod serve;
mod size;
mod vm;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use kiln_engine::build::Format;
use kiln_engine::source::Mirror;

pub(crate) use archive::{CacheKey, Made, System};
pub(crate) use bench::{Bench, Scenario};
pub(crate) use cache::{
    CacheClean, CacheCommand, CacheExport, CacheGc, CacheImport, CacheInfo, CachePull, CachePush,
    CacheRm, CacheVerify, ListBy,
};

pub(crate) use self::cache_from::CacheFrom;
pub(crate) use self::docker::Docker;
pub(crate) use self::media::Media;
pub(crate) use self::sbom::{Bill, Form, Sbom};
use crate::exit;
use crate::machine::{Networking, Publish};
use crate::units;
use crate::vm::disk::{Wish, mebibytes};
use crate::vm::share::Volume;

pub(crate) use metadata::MetadataCommand;
pub(crate) use migrate::Migrate;
pub(crate) use pkg::{Pkg, PkgCommand, PkgFlags, ShowTag};
pub(crate) use push::{Cloud, Push};
pub(crate) use schema::Schema;
pub(crate) use serve::Serve;
pub(crate) use size::Size;
pub(crate) use vm::{Guest, Named, Replace, Vm};

/// Builds minimal bootable Linux systems from OCI images and Debian packages.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    max_term_width = 100,
    subcommand_required = true,
    after_help = "Start with: kiln build FILE.yml, then kiln run FILE.yml"
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to say it.
    #[command(flatten)]
    pub(crate) talk: Talk,
}

/// How much kiln says, and in which colours.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Talk {
    /// Show every step, cached ones too
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also in files and pipes
    Always,
    /// Never
    Never,
}

/// One verb each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a system from its description
    #[command(long_about = BUILD_ABOUT, after_long_help = exit::HELP)]
    Build(Build),
    /// Build a system when it is a description, and boot it in a virtual machine
    #[command(long_about = RUN_ABOUT, after_long_help = exit::HELP)]
    Run(Box<Run>),
    /// Look at running machines, and at what runs in them
    #[command(subcommand, long_about = vm::ABOUT)]
    Vm(Vm),
    /// Pin images and packages: write NAME.lock beside the description
    #[command(after_long_help = exit::HELP)]
    Lock(Lock),
    /// Measure how fast a system builds
    #[command(long_about = bench::ABOUT, after_long_help = exit::HELP)]
    Bench(Bench),
    /// Check descriptions made for LinuxKit
    #[command(long_about = migrate::ABOUT)]
    Migrate(Migrate),
    /// Print the JSON Schema of descriptions
    #[command(long_about = schema::ABOUT)]
    Schema(Schema),
    /// Show what takes how much room in a system
    #[command(long_about = size::ABOUT)]
    Size(Size),
    /// Print a system's bill of materials
    #[command(long_about = sbom::ABOUT, after_long_help = exit::HELP)]
    Sbom(Sbom),
    /// Send an image to a registry
    #[command(long_about = push::ABOUT, after_long_help = exit::HELP)]
    Push(Push),
    /// Name the images of LinuxKit's packages
    #[command(after_long_help = exit::HELP)]
    Pkg(Pkg),
    /// Serve a directory over HTTP, for machines that boot from the network
    Serve(Serve),
    /// Make a disc of metadata
    #[command(subcommand)]
    Metadata(MetadataCommand),
    /// Look at the cache, and manage the images in it
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Show the version
    Version(Version),
}

const BUILD_ABOUT: &str = "\
Build a system from its description.

FILE is YAML as LinuxKit has it; several files are appended to each other. Only what changed \
since the last build is done again, and when nothing changed nothing is done.

  kiln build hello.yml                  hello-kernel, hello-initrd.img, hello-cmdline
  kiln build -f tar,kernel+initrd hello.yml
  kiln build -o - hello.yml | tar t     the root file system as a tar";

const RUN_ABOUT: &str = "\
Build a system when it is a description, and boot it in QEMU or another virtual machine.

What to boot is a description (FILE.yml), the prefix of what a build has written \
(PREFIX-kernel, PREFIX-initrd.img, PREFIX-cmdline), or a medium: an ISO image, a disk (raw, qcow2, \
vmdk, vhd, vhdx, vdi), a program for EFI such as a unified kernel image, or a root file system \
beside its kernel (PREFIX-squashfs.img). A file is told by its content. The system's serial console \
is this terminal: Ctrl-C goes to the system, Ctrl-] ends it. When the system powers off or reboots, \
kiln ends with code 0. With --detach it runs in the background, where kiln vm finds it.

Media boot by a BIOS on amd64, unless they are for EFI alone or --uefi says so, and by EFI \
elsewhere. Disks are written to; an ISO image, a root and an EFI program are not.

With --vmm another program than QEMU runs the machine; what each can do is in docs/cli.md.

What is neither is a container image, of a registry or as in a description. It gets a machine of \
its own with Debian's kernel, and kiln ends as its program does: that has this terminal's standard \
streams, with its own output apart from the machine's.

  kiln run hello.yml
  kiln run -p 8080:80 hello.yml
  kiln run debian.iso
  kiln run --uefi --mem 2048 disk.qcow2
  kiln run -p 8080:80 registry.example/nginx
  kiln run --vmm firecracker --networking tap,tap0 hello.yml
  kiln run -e LANG=C registry.example/debian -- ls -l /";

/// `kiln build`.
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Descriptions, in order: files, http and https URLs, or - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Formats, separated by commas [default: kernel+initrd, or tar with --output]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    #[arg(value_parser = formats(), hide_possible_values = false)]
    pub(crate) format: Vec<String>,
    /// Write one file of one format; - is standard output
    #[arg(short, long, alias = "o", value_name = "FILE", conflicts_with_all = ["name", "dir"])]
    pub(crate) output: Option<PathBuf>,
    /// Print events as JSON, one object a line, on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the merged descriptions as YAML, and build nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Where and how to build.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What is made.
    #[command(flatten)]
    pub(crate) made: Made,
    /// Images of a local engine.
    #[command(flatten)]
    pub(crate) docker: Docker,
    /// What LinuxKit has and kiln does not need.
    #[command(flatten)]
    pub(crate) linuxkit: LinuxKit,
}

/// Flags that scripts made for LinuxKit give. They are checked as LinuxKit does, and change
/// nothing; or refused with the reason.
#[derive(Debug, Args)]
pub(crate) struct LinuxKit {
    /// Accepted for LinuxKit's sake: contents are named by their digests
    #[arg(long, hide = true)]
    pub(crate) disable_content_trust: bool,
    /// Accepted for LinuxKit's sake: disk images, which it is for, are not made yet
    #[arg(long, hide = true, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) size: Option<u64>,
    /// Accepted for LinuxKit's sake: kiln knows by itself what changed
    #[arg(long, hide = true, value_name = "FILE", conflicts_with = "pull")]
    pub(crate) input_tar: Option<PathBuf>,
}

/// What everything that builds understands.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Prefix of the outputs [default: the last FILE's name without its extension]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Directory of the outputs; must exist [default: .]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Further caches.
    #[command(flatten)]
    pub(crate) cache_from: CacheFrom,
    /// The inputs from elsewhere.
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// Where images and packages come from, and where they are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sources {
    /// Look tags and package indexes up anew
    #[arg(long)]
    pub(crate) pull: bool,
    /// Architecture: amd64, arm64 or riscv64 [default: this machine's]
    #[arg(long)]
    pub(crate) arch: Option<String>,
    /// Cache directory [default: $XDG_CACHE_HOME/kiln or ~/.cache/kiln]
    #[arg(long, env = "KILN_CACHE", hide_env_values = true, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Registry that may speak plain http or show any certificate; can be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) insecure_registry: Vec<String>,
    /// Place to ask before a registry (all of them unless one is named); can be repeated
    #[arg(
        long,
        value_name = "[REGISTRY=]URL",
        env = "LINUXKIT_MIRROR",
        hide_env = true
    )]
    #[arg(value_delimiter = ',')]
    pub(crate) mirror: Vec<Mirror>,
    /// PEM file of a further certificate authority; can be repeated
    #[arg(long, alias = "cert-file", value_name = "PEM")]
    pub(crate) ca_file: Vec<PathBuf>,
}

/// `kiln lock`.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// Descriptions, in order; the last one is a file
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where and how to build.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `kiln run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A description, the prefix of a build's outputs, a medium, or a container image
    #[arg(value_name = "FILE.yml|PREFIX|MEDIUM|IMAGE")]
    pub(crate) system: PathBuf,
    /// What is booted.
    #[command(flatten)]
    pub(crate) media: Media,
    /// Of an image: what its entrypoint gets in place of its own arguments
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) words: Vec<String>,
    /// Of an image: give its program a terminal, which is this one
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Of an image: connect standard input, as is always done
    #[arg(short, long, hide = true)]
    pub(crate) interactive: bool,
    /// Of an image: set a variable of the environment, or hand on this one's; can be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Of an image: a file of such variables, one in a line; can be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Of an image: the user, and his group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Of an image: the working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Of an image: run this program in place of its own
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Of an image: the machine's name inside
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Of an image: leave nothing behind, as no machine does
    #[arg(long, hide = true)]
    pub(crate) rm: bool,
    /// Memory in MiB, or with a unit: 512m, 2g
    #[arg(short, long, alias = "memory", value_name = "MIB", default_value = "1024", value_parser = units::memory)]
    pub(crate) mem: u32,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) cpus: u16,
    /// Forward a port of this machine to the system; can be repeated
    #[arg(short, long, value_name = "[ADDRESS:]HOST:GUEST[/tcp|udp]")]
    pub(crate) publish: Vec<Publish>,
    /// A disk, made if it is not there (/dev/sda and so on); can be repeated
    #[arg(long, value_name = "[file=]PATH,size=N[G|M],format=F")]
    pub(crate) disk: Vec<Wish>,
    /// What the network card leads to
    #[arg(
        long,
        value_name = "user|none|tap,NAME|bridge,NAME",
        default_value = "user"
    )]
    pub(crate) networking: Networking,
    /// Data for the system's metadata, as a disc
    #[arg(long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
    /// A file of such data
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) data_file: Option<PathBuf>,
    /// Directory of disks without a name, made if it is not there [default: PREFIX-state, of a
    /// medium FILE-state]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Leave the machine running in the background; kiln vm finds it
    #[arg(short, long, visible_alias = "detached")]
    pub(crate) detach: bool,
    /// Build again when an input changes, and replace the services that differ
    #[arg(long, conflicts_with = "detach")]
    pub(crate) watch: bool,
    /// Share a directory with the system, as virtiofs0 and so on; can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) virtiofs: Vec<PathBuf>,
    /// Of an image: share a directory with its program; can be repeated
    #[arg(short, long, value_name = "DIR:PATH[:ro]")]
    pub(crate) volume: Vec<Volume>,
    /// Show every step, cached ones too
    // In place of the one of all commands: its letter is Docker's for volumes here.
    #[arg(long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// The program that runs the machine
    #[arg(long, value_name = "WHAT", default_value = "qemu")]
    pub(crate) vmm: Vmm,
    /// What runs the processor: KVM when it works here, else QEMU's emulation (tcg)
    #[arg(long, value_name = "WHAT", default_value = "auto")]
    pub(crate) accel: Accel,
    /// Images of a local engine.
    #[command(flatten)]
    pub(crate) docker: Docker,
    /// Where and how to build.
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The program that runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Vmm {
    /// QEMU, by KVM or emulation
    Qemu,
    /// Firecracker, by KVM
    Firecracker,
    /// Cloud Hypervisor, by KVM
    CloudHypervisor,
    /// Hyper-V: prints a PowerShell script for a Windows machine
    Hyperv,
}

/// What runs the guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM when it works here, else emulation
    Auto,
    /// The processor's virtualisation
    Kvm,
    /// QEMU's emulation
    Tcg,
}

/// `kiln version`.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only the number
    #[arg(long)]
    pub(crate) short: bool,
    /// Only the git commit it was built from
    #[arg(long)]
    pub(crate) commit: bool,
}

fn formats() -> clap::builder::PossibleValuesParser {
    Format::ALL.map(Format::name).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn build(line: &str) -> Result<Build, clap::Error> {
        let line = format!("kiln build {line}");
        match Arguments::try_parse_from(line.split_whitespace())?.command {
            Command::Build(build) => Ok(build),
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &str) -> Result<Box<Run>, clap::Error> {
        let line = format!("kiln run {line}");
        match Arguments::try_parse_from(line.split_whitespace())?.command {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn run_has_the_habits_of_docker() {
        let all =
            "-it --rm --hostname h -m 512m -e A=1 --env-file f -v ./a:/b -v /c:/d:ro x -- ls -l";
        let all = run(all).unwrap();
        assert!(all.tty && all.rm);
        assert_eq!((all.mem, all.verbose), (512, 0));
        assert_eq!((all.volume.len(), all.volume[1].readonly), (2, true));
        assert_eq!(all.words, ["ls", "-l"]);
        // Everywhere else the letter is of what is shown.
        assert_eq!(run("--verbose --verbose x").unwrap().verbose, 2);
        let error = run("-v hello.yml").unwrap_err().to_string();
        assert!(error.contains("DIR:PATH"), "{error}");
        let talk = |line: &str| {
            Arguments::try_parse_from(line.split(' '))
                .unwrap()
                .talk
                .verbose
        };
        assert_eq!(talk("kiln -v run --verbose x"), 1);
        assert_eq!(talk("kiln run --verbose x"), 1);
        assert_eq!(talk("kiln build -vv x"), 2);
    }

    #[test]
    fn output_has_three_spellings() {
        for spelling in ["-o x", "--o x", "--output x", "--output=x", "-ox"] {
            let build = build(&format!("{spelling} a.yml")).unwrap();
            assert_eq!(build.output, Some("x".into()), "{spelling}");
        }
        assert_eq!(build("-o - a.yml").unwrap().output, Some("-".into()));
    }

    #[test]
    fn formats_are_a_list_of_known_names() {
        let two = build("-f tar,kernel+initrd a.yml b.yml").unwrap();
        assert_eq!(two.format, ["tar", "kernel+initrd"]);
        assert_eq!(two.files.len(), 2);
        for wrong in ["-f qcow3 a.yml", "", "-o x --name y a.yml", "-q -v a.yml"] {
            let error = build(wrong).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(exit::USAGE), "{wrong}");
        }
    }
}
