//! The listening socket: where it lies, who may have it, and its removal.
//!
//! Owns the socket and its name in the file system, which goes when the listener does. The name that a dead server has
//! left behind is replaced; that of a live one is not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use doorbell_spec::vfio_user::SOCKET_NAME;

/// Why a port could not be opened at a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another server listens there.
    #[error("{path}: another server listens there; stop it, or choose another path")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the name.
    #[error(
        "{path}: exists and is no socket; choose another path, or a directory for {SOCKET_NAME}"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A listening socket with a name of its own.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode, so that a successor's socket under the same name is left alone.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`; where that is a directory, at the socket `cntrl` in it.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let path = if path.is_dir() { path.join(SOCKET_NAME) } else { path.to_path_buf() };
        let failed = |what| {
            let path = path.clone();
            move |source| BindError::Io { path, what, source }
        };
        if let Ok(metadata) = fs::symlink_metadata(&path) {
            if !metadata.file_type().is_socket() {
                return Err(BindError::NotASocket { path });
            }
            match UnixStream::connect(&path) {
                // Nobody has listened since its server ended.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(&path)
                        .map_err(failed("removing the socket of a dead server"))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(failed("asking whether a server listens")(error));
                }
                _ => return Err(BindError::Taken { path }),
            }
        }
        let socket = UnixListener::bind(&path).map_err(failed("listening"))?;
        socket.set_nonblocking(true).map_err(failed("listening"))?;
        let identity = fs::symlink_metadata(&path).ok().map(|found| (found.dev(), found.ino()));
        Ok(Self { socket, path, identity })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A client that waits to be served, if there still is one.
    ///
    /// # Errors
    /// Where the process cannot take one now, for want of file descriptors say; the client goes on waiting.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream.into())),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path).ok();
        if found.map(|found| (found.dev(), found.ino())) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("doorbell-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("directory");
        path
    }

    #[test]
    #[cfg_attr(miri, ignore = "listens")]
    fn live_stale_and_foreign_names() {
        let directory = directory("listener");
        let path = directory.join("socket");
        let first = Listener::bind(&path).expect("free");
        assert!(matches!(Listener::bind(&path), Err(BindError::Taken { .. })));
        drop(first);
        assert!(!path.exists(), "unlinked");

        drop(UnixListener::bind(&path).expect("a server that dies"));
        assert!(path.exists());
        let second = Listener::bind(&path).expect("stale");
        // Somebody else has taken the name since: theirs stays.
        fs::remove_file(&path).expect("remove");
        let theirs = UnixListener::bind(&path).expect("bind");
        drop(second);
        assert!(path.exists());
        drop(theirs);

        fs::remove_file(&path).expect("remove");
        fs::write(&path, "precious").expect("write");
        assert!(matches!(Listener::bind(&path), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read(&path).expect("read"), b"precious");

        let inside = Listener::bind(&directory).expect("directory");
        assert_eq!(inside.path(), directory.join("cntrl"));
        drop(inside);
        let _ = fs::remove_dir_all(&directory);
    }
}
