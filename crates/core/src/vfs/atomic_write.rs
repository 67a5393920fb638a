//! Atomic file writes: a file has all of its content or does not exist.

use super::display_path;
use anyhow::{Context as _, Result};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes through a temporary file in the same folder, so that after a full disk or a power cut either the old file or the new one exists.
/// The file is readable by others, like any output. The folder must exist.
///
/// # Errors
/// `write` fails or the disk refuses; one line that names the file.
pub fn write_whole_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let made = || -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut out = BufWriter::new(readable(folder)?);
        write(&mut out)?;
        let file = out.into_inner()?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    made().with_context(|| format!("{}: cannot be written", display_path(path)))
}

/// As [`write_whole_by`], with bytes.
///
/// # Errors
/// A disk error.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    write_whole_by(path, |out| Ok(out.write_all(content)?))
}

/// Temporary files are private by default; this one gets the usual permissions.
fn readable(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    #[cfg(unix)]
    return tempfile::Builder::new().permissions(permissions).tempfile_in(folder);
    #[cfg(not(unix))]
    tempfile::NamedTempFile::new_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_only_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_whole(&path, b"old").unwrap();
        let half = write_whole_by(&path, |out| {
            out.write_all(&[0; 100_000])?;
            anyhow::bail!("no more")
        });
        assert!(format!("{:#}", half.unwrap_err()).contains("a.txt: cannot be written: no more"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        write_whole(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(write_whole(&dir.path().join("none").join("b"), b"").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn the_file_has_default_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        write_whole(&dir.path().join("ours"), b"x").unwrap();
        std::fs::write(dir.path().join("plain"), b"x").unwrap();
        assert_eq!(mode("ours"), mode("plain") & 0o100_644);
    }
}
