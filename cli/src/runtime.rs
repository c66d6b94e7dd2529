//! Which runtime carries the transfer out. The same code runs on both; the choice is hidden, for comparing them.

use std::future::Future;
use std::io;
use std::time::Duration;

use tallow_proto::peer::{ConfigError, ReceiveConfig, Receiver, SendConfig, Sender};

/// A runtime.
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
                // The transfer has the worker to itself; this thread shows and asks.
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
                let output = runtime.block_on(future);
                // A job that hangs on a disk must not keep the process.
                runtime.shutdown_background();
                Ok(output)
            }
            Self::Smol => Ok(smol::block_on(future)),
        }
    }

    /// Starts to send.
    ///
    /// # Errors
    /// That can't work.
    pub fn send(self, config: SendConfig) -> Result<Sender, ConfigError> {
        match self {
            Self::Tokio => tallow_tokio::send(config),
            Self::Smol => tallow_smol::send(config),
        }
    }

    /// Starts to receive.
    ///
    /// # Errors
    /// That can't work.
    pub fn receive(self, config: ReceiveConfig) -> Result<Receiver, ConfigError> {
        match self {
            Self::Tokio => tallow_tokio::receive(config),
            Self::Smol => tallow_smol::receive(config),
        }
    }

    /// Waits.
    pub async fn sleep(self, duration: Duration) {
        match self {
            Self::Tokio => tokio::time::sleep(duration).await,
            Self::Smol => drop(smol::Timer::after(duration).await),
        }
    }
}
