//! Signals: the first one ends the transfer cleanly, the second one ends the program at once.
//!
//! A thread of its own listens, on a small tokio runtime whichever runtime carries the transfer, so a busy or a stuck transfer does
//! not delay it. Before there is anything to end cleanly, the first signal ends the program at once too.
//! Timer: [`GRACE`] after the first signal the program ends whatever happens.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tallow_relay::process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::{output, prompt};

/// How long a clean end may take: the farewell's second, and a little.
const GRACE: Duration = Duration::from_millis(1800);
/// How long a reader of the program's text may take nothing when a signal ends the program at once.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether somebody can end a transfer cleanly.
static TRANSFER_RUNS: AtomicBool = AtomicBool::new(false);

/// What was asked of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal went away.
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

/// The signals that arrive.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// Begins to listen.
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

    /// From now on a signal can be answered with a clean end.
    pub fn attach(&self) {
        TRANSFER_RUNS.store(true, Ordering::SeqCst);
    }

    /// The next signal.
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

/// Ends the program at once, the terminal as it was.
fn leave(signal: Signal) -> ! {
    prompt::restore_terminal();
    output::flush(PATIENCE);
    std::process::exit(signal.exit_code().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for signal in Signal::ALL {
            assert_eq!(i32::from(signal.exit_code()), 128 + signal.kind().as_raw_value());
        }
    }
}
