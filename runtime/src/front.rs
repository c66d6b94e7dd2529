//! What a transfer of an application begins with: configurations for this machine, and disks.

#[cfg(feature = "files")]
use std::path::{Path, PathBuf};
#[cfg(feature = "files")]
use std::sync::Arc;

use tallow_proto::peer::{Embedded, Invitation, Payload, ReceiveConfig, SendConfig};
#[cfg(feature = "files")]
use tallow_proto::transfer::storage::Fault;
#[cfg(feature = "files")]
use tallow_store::{Destination, Policy, Receiving, SourceError, SourceOptions, SourceTree};

/// Sends this from here, under a fresh code. No server is needed: a relay runs inside, unless one is named
/// ([`SendConfig::with_relay`]), and a direct path is looked for.
#[must_use]
pub fn sending(payload: impl Into<Payload>) -> SendConfig {
    let mut config = SendConfig::new(crate::this_machine(), payload);
    config.embedded = crate::identity().map(Embedded::new);
    config
}

/// Receives here what the sender of this code or link offers. Without a relay, in the link or named
/// ([`ReceiveConfig::with_relay`]), the sender is looked for on this machine and in the local network.
#[must_use]
pub fn receiving(from: impl Into<Invitation>) -> ReceiveConfig {
    ReceiveConfig::new(crate::this_machine(), from)
}

/// Files and directories to be sent. Nothing is read yet.
///
/// # Errors
/// One of them is not there, or can't be sent.
#[cfg(feature = "files")]
pub fn files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Payload, SourceError> {
    let paths = paths.into_iter().map(Into::into).collect();
    Ok(Arc::new(SourceTree::new(paths, SourceOptions::default())?).into())
}

/// A directory for what is received, made if it is not there. Names that exist there are refused; other policies are in
/// [`Destination`].
///
/// # Errors
/// It can't be written.
#[cfg(feature = "files")]
pub fn directory(path: impl AsRef<Path>) -> Result<Arc<Receiving>, Fault> {
    Ok(Destination::open(path.as_ref(), Policy::default())?.sink())
}
