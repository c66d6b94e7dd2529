//! Many transfers in one process: a cap on how many run at a time, and sockets that they share.
//!
//! A transfer by itself has a dozen descriptors, and more while a direct path is looked for. Those of one [`Pool`] share
//! their UDP sockets: two for each address family and one for multicast DNS, however many transfers there are. A
//! further transfer costs a TCP listener while it looks for a direct path, the socket of the relay inside a sender that
//! runs one, and its TCP connections. All of them run on one tokio runtime: the sockets belong to the one that was current
//! when they were bound.
//!
//! What is above the cap waits for its turn. A transfer gives its place back when its task has ended, which is after
//! the other side was notified. A transfer that is slow, or is flooded, loses datagrams of its own and holds up no
//! other one.

use std::sync::Arc;

use tallow_runtime::share::{Hub, Lease};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::io::TokioUdp;
use crate::{Common, ConfigError, ReceiveConfig, Receiver, SendConfig, Sender, TokioIo};

/// See the module's text. Clones share the cap and the sockets.
#[derive(Debug, Clone)]
pub struct Pool {
    places: Arc<Semaphore>,
    hub: Arc<Hub<TokioUdp>>,
}

impl Pool {
    /// At most so many transfers at a time; at least 1.
    ///
    /// # Panics
    /// The system has no randomness to give.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most.max(1))), hub: Hub::new(&tallow_runtime::seed()) }
    }

    /// As [`crate::send`], once there is a place. Cancel-safe: nothing was started when it is dropped.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn send(&self, mut config: SendConfig) -> Result<Sender, ConfigError> {
        config.check()?;
        let place = self.place().await;
        let lease = self.share(&mut config.common);
        crate::send_with(config, TokioIo::sharing(self.hub.clone()), (place, lease))
    }

    /// As [`crate::receive`], once there is a place. Cancel-safe: nothing was started when it is dropped.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn receive(&self, mut config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        config.check()?;
        let place = self.place().await;
        let lease = self.share(&mut config.common);
        crate::receive_with(config, TokioIo::sharing(self.hub.clone()), (place, lease))
    }

    fn share(&self, common: &mut Common) -> Option<Lease<TokioUdp>> {
        let lease = self.hub.slot();
        common.slot = lease.as_ref().map(Lease::slot);
        lease
    }

    /// `None` never comes: the semaphore is not closed.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }
}
