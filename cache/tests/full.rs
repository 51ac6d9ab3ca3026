//! A full disk, and a file size limit: nothing under a final name, and what is missing is said.
//!
//! The child is this test binary again: in a mount namespace with a small tmpfs (that takes root, or
//! a kernel that lets users have namespaces of their own), and under `ulimit -f`.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use kiln_cache::{Action, Build, Cache, CacheError, KeyBuilder, Stamp};

const ROOT: &str = "KILN_TEST_FULL_ROOT";

/// Runs `setup` in a shell of `wrapper`, then the child in it.
fn run(wrapper: &[&str], setup: &str, root: &Path, task: &str) -> Output {
    let (program, arguments) = wrapper.split_first().unwrap();
    Command::new(program)
        .args(arguments)
        .args(["sh", "-c"])
        .arg(format!("{setup} && exec \"$0\" --exact {task} --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .env(ROOT, root)
        .output()
        .unwrap()
}

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Fills the disk from inside, then checks every way of writing.
#[test]
fn child_on_a_small_disk() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let root = Path::new(&root).join("cache");
    let cache = Cache::open(&root).unwrap();
    let kept = cache.put(b"kept").unwrap();
    let mut writer = cache.object_writer().unwrap();
    writer.expect_len(10 << 20);
    let error = loop {
        if let Err(error) = writer.write_all(&[7; 100_000]) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let written = writer.len();
    let error = CacheError::io("write", &root)(error);
    let CacheError::Full {
        needed,
        free,
        quota,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*needed, (10 << 20) - written);
    assert!(*free < 200_000 && !quota, "{error}");
    assert!(error.is_full_disk());
    let text = error.to_string();
    assert!(
        text.contains("disk full") && text.contains("MiB needed"),
        "{text}"
    );
    // The rest of the disk, to the last page.
    let mut rest = fs::File::create(root.parent().unwrap().join("rest")).unwrap();
    while rest.write_all(&[7; 4096]).is_ok() {}

    let key = KeyBuilder::new("test", 1).finish();
    let action = Action {
        values: vec![("v".into(), vec![1; 20_000])],
        ..Action::default()
    };
    let stamp = Stamp {
        payload: vec![1; 20_000],
        ..Stamp::default()
    };
    let build = Build {
        payload: vec![1; 20_000],
        ..Build::default()
    };
    for error in [
        cache.put(&[8; 20_000]).unwrap_err(),
        cache.put_action(&key, &action).unwrap_err(),
        cache.put_stamp(&key, &stamp).unwrap_err(),
        cache.put_build(&key, &build).unwrap_err(),
    ] {
        assert!(error.is_full_disk(), "{error}");
    }
    drop(writer);
    assert_eq!(names(&root.join("tmp")), 0);
    assert_eq!(names(&root.join("objects")), 1);
    assert_eq!(names(&root.join("actions")), 0);
    assert_eq!(names(&root.join("builds")), 0);
    assert_eq!(cache.read(&kept).unwrap(), b"kept");
    // With room again, the same cache goes on.
    fs::remove_file(root.parent().unwrap().join("rest")).unwrap();
    cache.put_action(&key, &action).unwrap();
    assert_eq!(cache.action(&key).unwrap(), Some(action));
    println!("checked all");
}

#[test]
fn child_with_a_file_size_limit() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let root = Path::new(&root).join("cache");
    let cache = Cache::open(&root).unwrap();
    let mut writer = cache.object_writer().unwrap();
    let error = (0..100).find_map(|_| writer.write_all(&[7; 100_000]).err());
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::FileTooLarge);
    drop(writer);
    cache.put(&vec![8; 200_000]).unwrap_err();
    assert_eq!(names(&root.join("tmp")), 0);
    assert_eq!(names(&root.join("objects")), 0);
    cache.put(&vec![8; 20_000]).unwrap();
    println!("checked all");
}

fn assert_checked(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("checked all"), "{text}{errors}");
}

#[test]
fn a_full_disk_leaves_nothing_and_says_so() {
    let room = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=1m none \"$KILN_TEST_FULL_ROOT\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "--mount"];
    let root_wrapper = ["unshare", "--mount"];
    let wrapper = match rustix::process::geteuid().is_root() {
        true => &root_wrapper[..],
        false => &wrapper[..],
    };
    assert_checked(&run(wrapper, mount, room.path(), "child_on_a_small_disk"));
}

#[test]
fn a_file_size_limit_leaves_nothing() {
    let room = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes; an ignored signal stays ignored across exec.
    let setup = "trap '' XFSZ && ulimit -f 200";
    assert_checked(&run(
        &["env"],
        setup,
        room.path(),
        "child_with_a_file_size_limit",
    ));
}
