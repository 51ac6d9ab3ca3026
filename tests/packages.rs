//! LinuxKit's packages: what `kiln pkg show-tag` calls them, and `@pkg:` in descriptions.
//!
//! The tags are what the `linuxkit` binary said of the same directories (built from its commit
//! 3bf33c3a): they depend on contents alone, so they hold everywhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::support::loopback::{Reply, Server};
use super::support::{Said, Space, read_tar, said, tool};

const FOO: &str = "3bb56efff3339700bc3ff6966b3fea55d8d62de9";
const EX: &str = "29408382cbe9cf4b77c66738ad8c265c8a77d103";
const PKG: &str = "95f448b0b2f26884fd5bfeabeb54ce7a807eef44";

/// A repository `r` with the packages foo and ex; the latter has lib for an extra source.
fn repository() -> Space {
    let space = Space::new();
    space.write("r/pkg/foo/build.yml", "image: foo\n");
    space.write("r/pkg/foo/Dockerfile", "FROM scratch\n");
    space.write("r/pkg/foo/sub/one", "one\n");
    space.write("r/pkg/lib/lib.c", "lib\n");
    space.write(
        "r/pkg/ex/build.yml",
        "image: ex\norg: me\ntag: v1-{{.Hash}}\nextra-sources:\n  - ../lib:lib\n",
    );
    space.write("r/.gitignore", "*.o\n");
    git(&space, &["init", "--quiet", "--initial-branch=main"]);
    commit(&space);
    space
}

fn git(space: &Space, arguments: &[&str]) -> String {
    let directory = space.path("r");
    let identity = ["-c", "user.name=n", "-c", "user.email=a@b"];
    let place = ["-C", directory.to_str().unwrap()];
    tool("git", &[&place[..], &identity, arguments].concat())
}

fn commit(space: &Space) {
    git(space, &["add", "--all"]);
    git(space, &["commit", "--quiet", "--message=x"]);
}

/// Runs `kiln pkg show-tag` in the repository.
fn show(space: &Space, arguments: &[&str]) -> Said {
    let mut command = space.command();
    command.current_dir(space.path("r"));
    command.env_remove("LINUXKIT_PKG_ORG");
    said(command.args(["pkg", "show-tag"]).args(arguments))
}

fn tags(space: &Space, arguments: &[&str]) -> String {
    let said = show(space, arguments);
    assert_eq!(said.code, Some(0), "{arguments:?}: {}", said.stderr);
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn tags_are_linuxkits() {
    let space = repository();
    for (arguments, expected) in [
        (
            &["pkg/foo", "pkg/ex"][..],
            format!("linuxkit/foo:{FOO}\nme/ex:v1-{EX}\n"),
        ),
        (
            &["--canonical", "pkg/foo/"],
            format!("docker.io/linuxkit/foo:{FOO}\n"),
        ),
        (
            &["--org", "other", "--tag", "x-{{.Hash}}", "pkg/foo"],
            format!("other/foo:x-{FOO}\n"),
        ),
        (
            &["--hash-path", "pkg", "pkg/foo"],
            format!("linuxkit/foo:{PKG}\n"),
        ),
        (&["--hash", "abc", "pkg/ex"], "me/ex:v1-abc\n".to_owned()),
        (
            &["--force-dirty", "pkg/foo"],
            format!("linuxkit/foo:{FOO}-dirty-6940e57\n"),
        ),
        (
            &["--force-dirty", "--hash-commit", "main", "pkg/foo"],
            format!("linuxkit/foo:{FOO}-dirty-6940e57\n"),
        ),
    ] {
        assert_eq!(tags(&space, arguments), expected, "{arguments:?}");
    }
    let with = |name: &str, value: &str, arguments: &[&str]| {
        let mut command = space.command();
        let command = command.env(name, value).args(["pkg"]).args(arguments);
        let said = said(command);
        String::from_utf8(said.stdout).unwrap()
    };
    let foo = space.path("r/pkg/ex");
    let ex = foo.to_str().unwrap();
    let expected = format!("env/ex:v1-{EX}\n");
    assert_eq!(with("LINUXKIT_PKG_ORG", "env", &["show-tag", ex]), expected);
    // Flags of all package commands stand on either side.
    let org = with(
        "LINUXKIT_PKG_ORG",
        "env",
        &["--org", "flag", "show-tag", ex],
    );
    assert_eq!(org, format!("flag/ex:v1-{EX}\n"));
    assert_eq!(
        with("USER", "joe", &["show-tag", "--dev", ex]),
        "joe/ex:v1-dev\n"
    );

    // The whole repository as a package, now and before.
    space.write("r/build.yml", "image: root\n");
    commit(&space);
    assert_eq!(
        tags(&space, &["."]),
        "linuxkit/root:6ec3531b57577cebaa22fedca33eabb0c6e06eab\n"
    );
    let before = tags(&space, &["--hash-commit", "HEAD~1", "."]);
    assert_eq!(
        before,
        "linuxkit/root:ff997ba2073be210cb278e434b89ad4bcfe06123\n"
    );
}

#[test]
fn what_is_not_committed_shows_in_the_tag() {
    let space = repository();
    let one = space.path("r/pkg/foo/sub/one");
    let foo = || {
        let tag = tags(&space, &["pkg/foo"]);
        let tag = tag.trim_end().strip_prefix("linuxkit/foo:").unwrap();
        tag.strip_prefix(FOO).unwrap().to_owned()
    };
    let undo = || drop(git(&space, &["checkout", "--quiet", "pkg"]));
    // Another time is no change.
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30);
    let file = fs::File::options().write(true).open(&one).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(foo(), "");

    fs::write(&one, "two\n").unwrap();
    assert_eq!(foo(), "-dirty-c17b45a");
    // Only HEAD's work tree can be dirty; the contents are the package's.
    let older = tags(&space, &["--hash-commit", "main", "pkg/foo"]);
    assert_eq!(older, format!("linuxkit/foo:{FOO}\n"));
    let wider = tags(&space, &["--hash-path", "pkg", "pkg/foo"]);
    assert_eq!(wider, format!("linuxkit/foo:{PKG}-dirty-c17b45a\n"));
    undo();

    let new = space.write("r/pkg/foo/untracked", "u\n");
    assert_eq!(foo(), "-dirty-1139ac8");
    fs::remove_file(new).unwrap();
    let ignored = space.write("r/pkg/foo/x.o", "o\n");
    assert_eq!(foo(), "");
    fs::remove_file(ignored).unwrap();
    // Links and modes make it dirty, and only contents count.
    let link = space.path("r/pkg/foo/sub/link");
    symlink("one", &link).unwrap();
    assert_eq!(foo(), "-dirty-6940e57");
    fs::remove_file(link).unwrap();
    fs::set_permissions(&one, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(foo(), "-dirty-6940e57");
    undo();
    fs::remove_file(&one).unwrap();
    assert_eq!(foo(), "-dirty-21c7488");
    undo();
    // LinuxKit does not find what git quotes.
    let quoted = space.write("r/pkg/foo/é", "é\n");
    assert_eq!(foo(), "-dirty-6940e57");
    fs::remove_file(quoted).unwrap();
    // Extra sources count as committed.
    space.write("r/pkg/lib/lib.c", "changed\n");
    assert_eq!(tags(&space, &["pkg/ex"]), format!("me/ex:v1-{EX}\n"));
}

#[test]
fn without_git_a_package_is_the_latest() {
    let space = Space::new();
    space.write("r/foo/build.yml", "image: foo\n");
    assert_eq!(tags(&space, &["foo"]), "linuxkit/foo:latest\n");
    assert_eq!(
        tags(&space, &["--tag", "v{{.Hash}}", "foo"]),
        "linuxkit/foo:v\n"
    );
    // LinuxKit takes a repository that git cannot read for none.
    space.write("r/.git/HEAD", "nonsense\n");
    let said = show(&space, &["foo"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("git rev-parse failed"),
        "{}",
        said.stderr
    );
}

#[test]
fn mistakes_are_told_with_a_way_out() {
    let space = repository();
    space.write("r/pkg/new/build.yml", "image: new\n");
    space.write("r/pkg/odd/build.yml", "image: odd\nimages: odd\n");
    space.write("r/pkg/out/build.yml", "image: out\nextra-sources: [/:x]\n");
    for (arguments, code, words) in [
        (&["pkg/new"][..], 1, "is not in the commit HEAD"),
        (&["pkg/none"], 1, "none"),
        (&["pkg/lib"], 1, "a package is a directory with a build.yml"),
        (&["pkg/odd"], 3, "build.yml:2:1"),
        (
            &["pkg/out"],
            1,
            "the extra source / is in no git repository",
        ),
        (
            &["--hash-commit", "v9", "pkg/foo"],
            1,
            "there is no commit v9",
        ),
        (
            &["--hash-commit=--version", "pkg/foo"],
            1,
            "there is no commit",
        ),
        (
            &["--hash-path", "pkg/lib", "pkg/foo"],
            1,
            "does not hold the package",
        ),
        (
            &["--tag", "{{.Time}}", "pkg/foo"],
            1,
            "all there is is {{.Hash}}",
        ),
        (
            &["--network", "--nonetwork", "pkg/foo"],
            2,
            "cannot be used with",
        ),
        (&[], 2, "required"),
    ] {
        let said = show(&space, arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.stderr);
        assert!(
            said.stderr.contains(words),
            "{arguments:?}: {}",
            said.stderr
        );
        assert_eq!(said.stdout, b"", "{arguments:?}");
    }
    // One that fails keeps the others from being printed.
    assert_eq!(show(&space, &["pkg/foo", "pkg/none"]).stdout, b"");
    let mut command = space.command();
    let foo = space.path("r/pkg/foo");
    let without = said(
        command
            .args(["pkg", "show-tag"])
            .arg(foo)
            .env("PATH", "/nowhere"),
    );
    assert_eq!(without.code, Some(1));
    assert!(without.stderr.contains("install git"), "{}", without.stderr);
}

#[test]
fn a_repository_runs_nothing_and_nothing_of_it_is_written() {
    let space = repository();
    let trap = space.write("trap", "#!/bin/sh\necho \"$0 $*, by $(tr '\\0' ' ' </proc/$PPID/cmdline)\" >>\"$(dirname \"$0\")/sprung\"\n");
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    let trap = trap.to_str().unwrap();
    for key in [
        "core.fsmonitor",
        "diff.external",
        "diff.x.command",
        "diff.x.textconv",
        "core.pager",
        "pager.diff",
        "pager.ls-files",
        "core.sshCommand",
    ] {
        git(&space, &["config", key, trap]);
    }
    space.write("r/.gitattributes", "* diff=x\n");
    let hook = space.path("r/.git/hooks/post-index-change");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::copy(trap, hook).unwrap();
    let one = space.write("r/pkg/foo/sub/one", "two\n");
    let index = fs::metadata(space.path("r/.git/index")).unwrap();
    let tag = tags(&space, &["pkg/foo"]);
    assert_eq!(tag, format!("linuxkit/foo:{FOO}-dirty-c17b45a\n"));
    // The same contents at another time: git would like to note that in its index.
    fs::write(one, "one\n").unwrap();
    tags(&space, &["pkg/foo"]);
    for sprung in ["sprung", "r/.git/hooks/sprung"] {
        if let Ok(by) = fs::read_to_string(space.path(sprung)) {
            panic!("{by}");
        }
    }
    let now = fs::metadata(space.path("r/.git/index")).unwrap();
    assert_eq!(now.modified().unwrap(), index.modified().unwrap());

    // A caller that is itself run by git, such as a hook.
    let mut command = space.command();
    let foo = space.path("r/pkg/foo");
    let command = command.args(["pkg", "show-tag"]).arg(foo);
    let said = said(
        command
            .env("GIT_DIR", "/nowhere")
            .env("GIT_INDEX_FILE", "/nowhere"),
    );
    assert_eq!(said.stdout, format!("linuxkit/foo:{FOO}\n").into_bytes());
}

#[test]
fn what_kiln_does_not_do_with_packages_it_says() {
    let space = Space::new();
    for (arguments, way) in [
        (
            &["build", "--force", "--platforms", "linux/amd64", "d"][..],
            "docker build",
        ),
        (&["push", "d"], "linuxkit pkg build --push"),
        (&["manifest", "d"], "linuxkit pkg manifest"),
        (&["index", "--release", "v1", "d"], "linuxkit pkg manifest"),
        (&["remote-tag", "a", "b"], "skopeo copy"),
        (&["builder", "du"], "docker buildx"),
        (&["--org", "x", "build", "d"], "docker build"),
    ] {
        let said = space.kiln(&[&["pkg"], arguments].concat());
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains("error: kiln "), "{}", said.stderr);
        assert!(said.stderr.contains(way), "{arguments:?}: {}", said.stderr);
    }
}

/// A description with the package foo in it, whose organisation is a registry of the test.
fn system(space: &Space, host: &str) {
    let build_yml = format!("image: foo\norg: {host}\n");
    space.write("r/pkg/foo/build.yml", &build_yml);
    git(space, &["add", "--all"]);
    git(space, &["commit", "--quiet", "--message=x"]);
    let yaml = "\
init: ['@pkg:../pkg/foo']
files:
  - {path: etc/foo, contents: '@pkg:/../pkg/foo'}
  - {path: etc/other, contents: '@other'}
  - {path: etc/system, metadata: yaml}
";
    space.write("r/systems/a.yml", yaml);
}

fn foo_tag(space: &Space) -> String {
    let tag = tags(space, &["--canonical", "pkg/foo"]);
    tag.trim_end().to_owned()
}

#[test]
fn a_package_stands_wherever_an_image_or_text_does() {
    let space = repository();
    space.image("foo").layer(&[("bin/foo", "the package")]);
    let registry = space.loopback();
    let host = registry.reference("").split('/').next().unwrap().to_owned();
    system(&space, &host);
    let tag = foo_tag(&space);
    assert!(tag.starts_with(&format!("{host}/foo:")), "{tag}");

    let said = space.kiln(&["build", "--dry-run", "r/systems/a.yml"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(
        text.contains(&format!("init:\n    - {tag}\n")),
        "{text}\n{}",
        said.stderr
    );
    assert!(text.contains(&format!("contents: {tag}\n")), "{text}");
    assert!(text.contains("contents: '@other'\n"), "{text}");

    space.build(&["-f", "tar", "r/systems/a.yml"]);
    let tar = read_tar(&space.path("a.tar"));
    let file = |name: &str| String::from_utf8(tar[name].content.clone()).unwrap();
    assert_eq!(file("bin/foo"), "the package");
    assert_eq!(file("etc/foo"), tag);
    assert_eq!(file("etc/other"), "@other");
    assert!(file("etc/system").contains(&tag), "{}", file("etc/system"));

    let said = space.kiln(&["lock", "r/systems/a.yml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let lock = fs::read_to_string(space.path("r/systems/a.lock")).unwrap();
    assert!(lock.contains(&tag) && lock.contains("sha256:"), "{lock}");
    // With the tag gone from the registry, the lock is enough.
    let asked = format!("/v2/foo/manifests/{}", tag.rsplit(':').next().unwrap());
    registry.misbehave(move |request, reply| match request.path == asked {
        true => Reply::status(404),
        false => reply,
    });
    let mut command = space.command();
    let command = command.env("KILN_CACHE", space.path("another"));
    let built = super::support::said(command.args(["build", "-f", "tar", "r/systems/a.yml"]));
    assert_eq!(built.code, Some(0), "{}", built.stderr);
}

#[test]
fn packages_of_what_is_no_file() {
    let space = repository();
    let yaml = "init: ['@pkg:pkg/foo']\n";
    let input = fs::File::open(space.write("input", yaml)).unwrap();
    let mut command = space.command();
    let command = command.current_dir(space.path("r")).stdin(input);
    let said = said(command.args(["build", "--dry-run", "-"]));
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(
        text.contains(&format!("docker.io/linuxkit/foo:{FOO}")),
        "{text}{}",
        said.stderr
    );

    let served = yaml.to_owned();
    let server = Server::start(move |_| Reply::ok(served.as_str()));
    let url = format!("http://{}/a.yml", server.host());
    let said = space.kiln(&["build", "--dry-run", &url]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(said.stderr.contains("from a URL"), "{}", said.stderr);
}

#[test]
fn an_unresolvable_package_is_shown_where_it_stands() {
    let space = repository();
    space.write("r/pkg/bad/build.yml", "image: bad\nnetwrok: true\n");
    space.write(
        "r/a.yml",
        "init: ['@pkg:pkg/none']\nservices:\n  - {name: a, image: '@pkg:pkg/bad'}\n",
    );
    let said = space.kiln(&["build", "r/a.yml"]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    for words in [
        "@pkg:pkg/none: cannot read",
        "r/a.yml:1:8",
        "@pkg:pkg/bad: ",
        "build.yml:2:1: unknown key \"netwrok\"",
        "r/a.yml:3:22",
        "did you mean \"network\"?",
    ] {
        assert!(said.stderr.contains(words), "{words}:\n{}", said.stderr);
    }
}

#[test]
fn no_change_of_a_package_is_taken_for_fresh() {
    let space = repository();
    // Text alone, so that no registry has a part in it.
    let yaml = "files:\n  - {path: tag, contents: '@pkg:pkg/foo'}\n";
    space.write("r/a.yml", yaml);
    let build = || {
        let said = space.build(&["-f", "tar", "r/a.yml"]);
        let tar = read_tar(&space.path("a.tar"));
        let tag = String::from_utf8(tar["tag"].content.clone()).unwrap();
        let tag = tag
            .strip_prefix("docker.io/linuxkit/foo:")
            .unwrap()
            .to_owned();
        (said.stderr.contains("Fresh"), tag)
    };
    let stays = |expected: &str| assert_eq!(build(), (true, expected.to_owned()));
    let becomes = |expected: &str| {
        assert_eq!(build(), (false, expected.to_owned()));
        stays(expected);
    };
    becomes(FOO);
    let one = space.write("r/pkg/foo/sub/one", "two\n");
    becomes(&format!("{FOO}-dirty-c17b45a"));
    let new = space.write("r/pkg/foo/untracked", "u\n");
    becomes(&format!("{FOO}-dirty-{}", contents(&space)));
    // Ignored from elsewhere, by a file that is not the package's.
    let exclude = space.write("r/.git/info/exclude", "untracked\n");
    becomes(&format!("{FOO}-dirty-c17b45a"));
    fs::remove_file(exclude).unwrap();
    fs::remove_file(new).unwrap();
    stays(&format!("{FOO}-dirty-c17b45a"));
    git(&space, &["add", "pkg/foo"]);
    stays(&format!("{FOO}-dirty-c17b45a"));
    git(&space, &["commit", "--quiet", "--message=x"]);
    let committed = git(&space, &["rev-parse", "HEAD:pkg/foo"]);
    becomes(committed.trim_end());
    // Back, by the ref alone: the files stay as they are.
    git(&space, &["reset", "--quiet", "--soft", "HEAD~1"]);
    becomes(&format!("{FOO}-dirty-c17b45a"));
    git(&space, &["pack-refs", "--all"]);
    stays(&format!("{FOO}-dirty-c17b45a"));
    fs::write(one, "one\n").unwrap();
    git(&space, &["reset", "--quiet"]);
    becomes(FOO);
    space.write("r/pkg/foo/build.yml", "image: foo\ntag: fixed\n");
    becomes("fixed");
    // A change elsewhere in the repository is none of it.
    space.write("r/pkg/lib/lib.c", "changed\n");
    stays("fixed");
}

/// What LinuxKit hashes of the package foo as it is, by other means than kiln's.
fn contents(space: &Space) -> String {
    let package = space.path("r/pkg/foo");
    let read = |name: &str| fs::read(package.join(name)).unwrap();
    let names = ["Dockerfile", "build.yml", "sub/one", "untracked"];
    let all = names.map(read).concat();
    let file = space.path("all");
    fs::write(&file, all).unwrap();
    tool("sha256sum", &[file.to_str().unwrap()])[..7].to_owned()
}
