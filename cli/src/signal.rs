//! Signals: the first one ends the transfer cleanly, the second one ends the program at once.
//!
//! A separate thread waits for signals on a small tokio runtime, whichever runtime the transfer uses, so that a busy or
//! blocked transfer does not delay it. Before a transfer is attached, the first signal ends the program at once, too.
//! Timer: [`GRACE`] after the first signal the program ends in any case.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallow_relay::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::{output, prompt};

/// The maximum time for a clean end: one second to notify the peer, and a margin.
const GRACE: Duration = Duration::from_millis(1800);
/// How long the program waits for a reader that reads nothing when a signal ends the program at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether a transfer is attached that can end cleanly.
static TRANSFER_RUNS: AtomicBool = AtomicBool::new(false);

/// The signals that end the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal was closed.
    HangUp,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::HangUp];

    /// The exit code: 128 and the signal's number.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    const fn kind(self) -> SignalKind {
        match self {
            Self::HangUp => SignalKind::hangup(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Terminate => SignalKind::terminate(),
        }
    }
}

/// Receives signals.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Starts the thread that waits for signals.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub fn watch() -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = Vec::new();
        {
            let _context = runtime.enter();
            for kind in Signal::ALL {
                if !process::is_ignored(kind.kind().as_raw_value()) {
                    signals.push((kind, signal(kind.kind())?));
                }
            }
        }
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let first = next(&mut signals).await;
                if !TRANSFER_RUNS.load(Ordering::SeqCst) || sender.send(first).is_err() {
                    leave(first);
                }
                let second = tokio::time::timeout(GRACE, next(&mut signals)).await;
                leave(second.unwrap_or(first));
            });
        })?;
        Ok(Self(receiver))
    }

    /// Attaches a transfer: from now on the first signal is passed to it for a clean end.
    pub fn attach(&self) {
        TRANSFER_RUNS.store(true, Ordering::SeqCst);
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

async fn next(signals: &mut [(Signal, tokio::signal::unix::Signal)]) -> Signal {
    std::future::poll_fn(|cx| {
        for (kind, signal) in signals.iter_mut() {
            if signal.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(*kind);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Restores the terminal and ends the program at once.
fn leave(signal: Signal) -> ! {
    prompt::restore_terminal();
    output::flush(PATIENCE);
    std::process::exit(signal.exit_code().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_exit_code_is_128_plus_signal_number() {
        for signal in Signal::ALL {
            assert_eq!(i32::from(signal.exit_code()), 128 + signal.kind().as_raw_value());
        }
    }
}
