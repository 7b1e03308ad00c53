//! Connections that end by a reset.

use tokio::net::TcpStream;

/// Closing sends RST instead of FIN from now on.
pub(super) fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
