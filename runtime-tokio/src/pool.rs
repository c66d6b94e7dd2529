//! A cap on the transfers that one process runs at a time.
//!
//! Each transfer has sockets of its own: a dozen descriptors, and more while a direct path is looked for. A program
//! that has many transfers to make starts them through one [`Pool`]; what is above the cap waits for its turn. A
//! transfer gives its place back when its task has ended, which is after the other side was told.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{ConfigError, ReceiveConfig, Receiver, SendConfig, Sender};

/// See the module's text. Clones share the cap.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Semaphore>);

impl Pool {
    /// At most so many transfers at a time; at least 1.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most.max(1))))
    }

    /// As [`crate::send`], once there is a place. Cancel-safe: nothing was started when it is dropped.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn send(&self, config: SendConfig) -> Result<Sender, ConfigError> {
        config.check()?;
        let place = self.place().await;
        crate::send_with(config, place)
    }

    /// As [`crate::receive`], once there is a place. Cancel-safe: nothing was started when it is dropped.
    ///
    /// # Errors
    /// The configuration can't work.
    pub async fn receive(&self, config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        config.check()?;
        let place = self.place().await;
        crate::receive_with(config, place)
    }

    /// `None` never comes: the semaphore is not closed.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().acquire_owned().await.ok()
    }
}
