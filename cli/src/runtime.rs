//! The async runtime of a transfer. The same code runs on both; the hidden option selects one for comparisons.

use std::future::Future;
use std::io;
use std::time::Duration;

use tallow_proto::peer::{ConfigError, ReceiveConfig, Receiver, SendConfig, Sender};

/// The available runtimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// tokio.
    Tokio,
    /// smol.
    Smol,
}

impl Runtime {
    /// Runs until the future is ready.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub fn block_on<F: Future>(self, future: F) -> io::Result<F::Output> {
        match self {
            Self::Tokio => {
                // The worker thread runs the transfer only; this thread runs the user interface.
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                let output = runtime.block_on(future);
                // A job that is blocked by a disk must not keep the process alive.
                runtime.shutdown_background();
                Ok(output)
            }
            Self::Smol => Ok(smol::block_on(future)),
        }
    }

    /// Starts a sender.
    ///
    /// # Errors
    /// The configuration is contradictory.
    pub fn send(self, config: SendConfig) -> Result<Sender, ConfigError> {
        match self {
            Self::Tokio => tallow_tokio::send(config),
            Self::Smol => tallow_smol::send(config),
        }
    }

    /// Starts a receiver.
    ///
    /// # Errors
    /// The configuration is contradictory.
    pub fn receive(self, config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        match self {
            Self::Tokio => tallow_tokio::receive(config),
            Self::Smol => tallow_smol::receive(config),
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(self, duration: Duration) {
        match self {
            Self::Tokio => tokio::time::sleep(duration).await,
            Self::Smol => drop(smol::Timer::after(duration).await),
        }
    }
}
