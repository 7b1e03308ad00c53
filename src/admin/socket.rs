//! The socket file: made so that at no moment anybody but its owner can use it.

use super::Error;
use rustix::fs::{FileType, Mode};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// A listening socket; dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.socket.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|found| found == self.inode) {
            // Nothing is lost when it stays: the next daemon replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path` with mode 0600, in a directory that is made with mode 0700 if it is missing. A
/// socket file that nobody answers on is replaced. Needs a tokio runtime.
pub fn bind(path: &Path) -> Result<Listener, Error> {
    let listen = |source| Error::Listen { path: path.into(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::Directory { path: directory.into(), source })?;
    check_replaceable(path)?;
    // Bound under another name and renamed: bind(2) obeys the umask, and a file that is narrowed
    // afterwards at its final place can be opened in between.
    let fresh = directory.join(format!(".{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let socket = UnixListener::bind(&fresh).map_err(listen)?;
    let placed = rustix::fs::chmod(&fresh, Mode::RUSR | Mode::WUSR)
        .map_err(io::Error::from)
        .and_then(|()| inode(&fresh))
        .and_then(|inode| std::fs::rename(&fresh, path).map(|()| inode));
    match placed {
        Ok(inode) => Ok(Listener { socket, path: path.into(), inode }),
        Err(source) => {
            let _ = std::fs::remove_file(&fresh);
            Err(listen(source))
        }
    }
}

fn check_replaceable(path: &Path) -> Result<(), Error> {
    match rustix::fs::lstat(path) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::Listen { path: path.into(), source: errno.into() }),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            Err(Error::NotASocket { path: path.into() })
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(Error::InUse { path: path.into() })
        }
        Ok(_) => Ok(()),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
