//! Many transfers in one process: a limit on how many run at a time, and shared UDP sockets.
//!
//! A single transfer has a dozen descriptors, and more during the search for a direct path. The transfers of one
//! [`Pool`] share their UDP sockets: two of each address family and one for multicast DNS, independent of the number of
//! transfers. A further transfer costs a TCP listener during the search for a direct path, the socket of the embedded
//! relay if it has one, and its TCP connections.
//!
//! Transfers above the limit wait for their turn. A transfer releases its place when its task has ended, which is after
//! the other side was notified. A transfer that is slow or flooded loses only its own datagrams and delays no other
//! transfer.

use std::sync::Arc;

use smol::lock::{Semaphore, SemaphoreGuardArc};
use tallow_runtime::share::{Hub, Lease};

use crate::io::SmolUdp;
use crate::{Common, ConfigError, ReceiveConfig, Receiver, SendConfig, Sender, SmolIo};

/// A limit on concurrent transfers, and the sockets that they share. Clones share both.
#[derive(Debug, Clone)]
pub struct Pool {
    places: Arc<Semaphore>,
    hub: Arc<Hub<SmolUdp>>,
}

impl Pool {
    /// Allows at most this many transfers at a time; at least 1.
    ///
    /// # Panics
    /// The system provides no randomness.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), hub: Hub::new(&tallow_runtime::seed()) }
    }

    /// Like [`crate::send`], but waits for a free place first. Cancel-safe: if the future is dropped, nothing was
    /// started.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn send(&self, mut config: SendConfig) -> Result<Sender, ConfigError> {
        config.check()?;
        let place = self.place().await;
        let lease = self.share(&mut config.common);
        crate::send_with(config, SmolIo::sharing(self.hub.clone()), (place, lease))
    }

    /// Like [`crate::receive`], but waits for a free place first. Cancel-safe: if the future is dropped, nothing was
    /// started.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn receive(&self, mut config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        config.check()?;
        let place = self.place().await;
        let lease = self.share(&mut config.common);
        crate::receive_with(config, SmolIo::sharing(self.hub.clone()), (place, lease))
    }

    fn share(&self, common: &mut Common) -> Option<Lease<SmolUdp>> {
        let lease = self.hub.slot();
        common.slot = lease.as_ref().map(Lease::slot);
        lease
    }

    async fn place(&self) -> SemaphoreGuardArc {
        self.places.acquire_arc().await
    }
}
