//! A bearer token in a file, which rotates.
//!
//! In: the file. Out: requests with what it says now.
//! Never: a line break in a header: people write such files with `echo` (client-go trims them too).

use hyper::Request;
use hyper::header::{AUTHORIZATION, HeaderValue};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token may be used for so long before its file is read again.
const FRESH: Duration = Duration::from_secs(50);

/// Copies share what was read.
#[derive(Debug, Clone)]
pub(super) struct TokenFile {
    path: PathBuf,
    read: Arc<Mutex<(HeaderValue, Instant)>>,
}

impl TokenFile {
    /// Why not, without the file's name.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let header = header(&path)?;
        Ok(Self { path, read: Arc::new(Mutex::new((header, Instant::now()))) })
    }

    /// The request, of who has the token.
    pub fn sign<B>(&self, mut request: Request<B>) -> Request<B> {
        request.headers_mut().insert(AUTHORIZATION, self.header());
        request
    }

    /// What was read last stays where the file cannot be read: some are removed once they were.
    fn header(&self) -> HeaderValue {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.1.elapsed() > FRESH {
            match header(&self.path) {
                Ok(header) => read.0 = header,
                Err(error) => {
                    let path = self.path.display();
                    tracing::debug!(%path, "token file: {error}; the former token is used");
                }
            }
            read.1 = Instant::now();
        }
        read.0.clone()
    }
}

fn header(path: &Path) -> Result<HeaderValue, String> {
    let token = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| "it holds what no token may hold")?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_token_is_what_the_file_says_without_its_line_break() {
        let directory = TempDir::new().expect("a temporary directory");
        let path = directory.path().join("token");
        assert!(TokenFile::open(path.clone()).unwrap_err().contains("No such file"));
        fs::write(&path, "a\0b").expect("it is ours");
        let error = TokenFile::open(path.clone()).unwrap_err();
        assert!(error.contains("no token may hold") && !error.contains("a\0b"), "{error}");
        fs::write(&path, "first\n").expect("it is ours");
        let token = TokenFile::open(path.clone()).unwrap();
        assert_eq!(token.header(), "Bearer first");
        fs::write(&path, " second ").expect("it is ours");
        assert_eq!(token.header(), "Bearer first", "it is fresh");
        let long_ago = Instant::now().checked_sub(FRESH * 2).expect("a machine up for two minutes");
        token.read.lock().unwrap().1 = long_ago;
        assert_eq!(token.clone().header(), "Bearer second");
        fs::remove_file(&path).expect("it is ours");
        token.read.lock().unwrap().1 = long_ago;
        assert_eq!(token.header(), "Bearer second", "the last that could be read");
    }
}
