//! LinuxKit's packages: what `kiln pkg show-tag` calls them.
//!
//! The tags are what the `linuxkit` binary said of the same directories (built from its commit
//! 3bf33c3a): they depend on contents alone, so they hold everywhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::support::{Said, Space, said, tool};

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
    let trap = space.write("trap", "#!/bin/sh\ntouch \"$(dirname \"$0\")/sprung\"\n");
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
    assert!(!space.path("sprung").exists() && !space.path("r/.git/hooks/sprung").exists());
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
