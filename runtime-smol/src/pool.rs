//! A limit on the number of transfers that one process runs at a time.
//!
//! Each transfer has its own sockets: a dozen descriptors, and more during the search for a direct path. A program
//! with many transfers starts them through one [`Pool`]; transfers above the limit wait for their turn. A transfer
//! releases its place when its task has ended, which is after the other side was notified.

use std::sync::Arc;

use smol::lock::{Semaphore, SemaphoreGuardArc};

use crate::{ConfigError, ReceiveConfig, Receiver, SendConfig, Sender};

/// A limit on concurrent transfers. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Semaphore>);

impl Pool {
    /// Allows at most this many transfers at a time; at least 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.max(1))))
    }

    /// Like [`crate::send`], but waits for a free place first. Cancel-safe: if the future is dropped, nothing was
    /// started.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn send(&self, config: SendConfig) -> Result<Sender, ConfigError> {
        config.check()?;
        let place = self.place().await;
        crate::send_with(config, place)
    }

    /// Like [`crate::receive`], but waits for a free place first. Cancel-safe: if the future is dropped, nothing was
    /// started.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn receive(&self, config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        config.check()?;
        let place = self.place().await;
        crate::receive_with(config, place)
    }

    async fn place(&self) -> SemaphoreGuardArc {
        self.0.acquire_arc().await
    }
}
