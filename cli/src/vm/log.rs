//! Files that a monitor writes on behalf of its guest, who may say any amount.
//!
//! Enters: a file that grows. Leaves: its end, and while somebody of us is there a file of which only
//! the end takes room.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

/// What is read of a file, in bytes.
const TAIL_BYTES: u64 = 64 << 10;
/// What is kept of one, in bytes.
const KEPT_BYTES: u64 = 1 << 20;
/// Holes are whole blocks, of any file system.
const BLOCK_BYTES: u64 = 64 << 10;
/// A serial line brings no more than some hundred kilobytes in that time.
const TRIM_EVERY: Duration = Duration::from_secs(1);

/// Returns the end of a file, empty when it cannot be read.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// Keeps files short while this process lives.
pub(crate) fn keep_short(paths: Vec<PathBuf>) {
    std::thread::spawn(move || {
        loop {
            for path in &paths {
                // It is not there yet, or its file system makes no holes: then it grows.
                let _ = trim(path);
            }
            std::thread::sleep(TRIM_EVERY);
        }
    });
}

/// Frees what lies before the end of a file. Whoever writes it has his own place in it, and goes on.
fn trim(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let past = file.metadata()?.len().saturating_sub(KEPT_BYTES);
    let past = past / BLOCK_BYTES * BLOCK_BYTES;
    if past == 0 {
        return Ok(());
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(&file, hole, 0, past)?)
}

/// Goes on behind what was freed.
pub(crate) fn skip_hole(file: &mut File) -> io::Result<()> {
    let at = file.stream_position()?;
    // There is nothing behind the end, and some file systems know no holes.
    let _ = rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(at));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_the_end_takes_room() {
        let space = tempfile::tempdir().unwrap();
        let path = space.path().join("console.log");
        assert_eq!(tail(&path), "");
        let mut writer = File::create(&path).unwrap();
        let mut reader = File::open(&path).unwrap();
        writer.write_all(b"short\xff").unwrap();
        trim(&path).unwrap();
        assert_eq!(tail(&path), "short\u{fffd}");

        for _ in 0..64 {
            writer.write_all(&[b'x'; 256 << 10]).unwrap();
        }
        writer.sync_all().unwrap();
        trim(&path).unwrap();
        writer.write_all(b"the end").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), (16 << 20) + 6 + 7);
        assert!(metadata.blocks() * 512 < 2 << 20, "{metadata:?}");
        let end = tail(&path);
        assert!(end.ends_with("xthe end") && end.len() as u64 == TAIL_BYTES);

        // Whoever reads it meets no zeros.
        let mut shown = Vec::new();
        skip_hole(&mut reader).unwrap();
        reader.read_to_end(&mut shown).unwrap();
        assert!(shown.len() < 2 << 20 && !shown.contains(&0));
        skip_hole(&mut reader).unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
