//! How an application starts a transfer: configurations for this machine, and sources and sinks on its disks.

#[cfg(feature = "files")]
use std::path::{Path, PathBuf};
#[cfg(feature = "files")]
use std::sync::Arc;

use tallow_proto::peer::{Embedded, Invitation, Payload, ReceiveConfig, SendConfig};
#[cfg(feature = "files")]
use tallow_proto::transfer::storage::Fault;
#[cfg(feature = "files")]
use tallow_store::{Destination, Policy, Receiving, SourceError, SourceOptions, SourceTree};

/// Sends this payload from this machine with a new code. No server is needed: the sender runs a relay itself unless
/// one is configured ([`SendConfig::with_relay`]), and it searches for a direct path.
#[must_use]
pub fn sending(payload: impl Into<Payload>) -> SendConfig {
    let mut config = SendConfig::new(crate::this_machine(), payload);
    config.embedded = crate::identity().map(Embedded::new);
    config
}

/// Receives on this machine what the sender of this code or link offers. If no relay is known, from the link or by
/// [`ReceiveConfig::with_relay`], it searches for the sender on this machine and in the local network.
#[must_use]
pub fn receiving(from: impl Into<Invitation>) -> ReceiveConfig {
    ReceiveConfig::new(crate::this_machine(), from)
}

/// Files and directories to send. Nothing is read yet.
///
/// # Errors
/// One of them does not exist, or can't be sent.
#[cfg(feature = "files")]
pub fn files<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Payload, SourceError> {
    let paths = paths.into_iter().map(Into::into).collect();
    Ok(Arc::new(SourceTree::new(paths, SourceOptions::default())?).into())
}

/// A directory for received files; it is created if it does not exist. If a name exists there already, the offer is
/// refused; [`Destination`] has other policies.
///
/// # Errors
/// The directory can't be written.
#[cfg(feature = "files")]
pub fn directory(path: impl AsRef<Path>) -> Result<Arc<Receiving>, Fault> {
    Ok(Destination::open(path.as_ref(), Policy::default())?.sink())
}
