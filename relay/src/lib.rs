//! The relay server: `tallow_proto`'s [`Relay`] on tokio, with its options, its log and its signals.
//!
//! It makes no decisions about rooms. It logs rooms by a short hash under a key of this process, counts and reasons;
//! never an address of a client. Its lines go through [`lossy`], so that a log that can't be written loses lines and
//! blocks nothing.

mod limits;
pub mod lossy;
mod options;
pub mod process;

use std::process::ExitCode;
use std::time::Duration;

use tallow_proto::drive::Ending;
use tallow_proto::node::Node;
use tallow_proto::room::{Command, Event, Relay};
use tallow_tokio::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub use options::{Options, Problem};

/// Runs a relay until a signal stops it, and returns the exit code. With `quiet` only errors are written.
#[must_use]
pub fn run(options: Options, quiet: bool) -> ExitCode {
    let code = match start(options, Lines { quiet }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("tallow relay: {problem}"));
            ExitCode::from(problem.exit_code())
        }
    };
    process::flush();
    code
}

fn start(options: Options, lines: Lines) -> Result<(), Problem> {
    let descriptors = limits::raise_descriptors();
    let drain = options.drain;
    let connections = options.max_connections;
    let config = options.into_config()?;
    lines.say(&format!("descriptor limit: {descriptors}"));
    if let Some(warning) = descriptors.too_few_for(connections) {
        tracing::warn!("{warning}");
    }
    lines.say(&format!("certificate fingerprint {}", config.identity.fingerprint()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Problem::System(error.kind()))?;
    runtime.block_on(async {
        let relay = Relay::new(config).map_err(|_| Problem::Identity)?;
        serve(tallow_tokio::spawn(relay), drain, lines).await
    })
}

/// Starts the log on standard error: warnings and rooms, with `verbose` more, with `quiet` errors only.
///
/// Dependencies never log, at any level, because their lines contain addresses.
///
/// # Panics
/// If a log was started before.
pub fn log_to_stderr(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = ["", "_proto", "_store", "_runtime", "_tokio", "_relay"].map(|part| format!("tallow{part}={level}"));
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter.join(",")))
        .with_ansi(false)
        .with_writer(lossy::stderr)
        // Otherwise it writes its own errors to standard error, and panics if that fails.
        .log_internal_errors(false)
        .init();
}

async fn serve<N>(mut handle: Handle<N>, drain: Duration, lines: Lines) -> Result<(), Problem>
where
    N: Node<Command = Command, Event = Event>,
{
    let (mut terminate, mut interrupt) = (Caught::new(SignalKind::terminate())?, Caught::new(SignalKind::interrupt())?);
    let (mut ending, mut failure) = (false, None);
    loop {
        tokio::select! {
            event = handle.next_event() => match event {
                Some(Event::CannotListen { addr, transport, kind }) => {
                    // A relay that listens on some of its addresses only is treated as failed.
                    failure = failure.or(Some(Problem::Listen(addr, transport, kind)));
                    // If no other address is left, the relay has already ended.
                    let _ = handle.command(Command::Stop);
                }
                Some(Event::Listening { addr }) => lines.say(&format!("listening on {addr}")),
                Some(event) => log(event),
                None => return outcome(failure, handle.ending(), ending),
            },
            () = terminate.next() => end(&handle, &mut ending, drain, lines),
            () = interrupt.next() => end(&handle, &mut ending, drain, lines),
        }
    }
}

/// The outcome of the relay. An end that was not requested is a failure, so that a supervisor restarts the relay.
fn outcome(failure: Option<Problem>, ending: Option<Ending>, was_asked: bool) -> Result<(), Problem> {
    match (failure, ending) {
        (Some(problem), _) => Err(problem),
        (None, Some(Ending::Closed)) if was_asked => Ok(()),
        (None, ending) => Err(Problem::Ended(ending)),
    }
}

/// A signal handler; `None` if this process was started with the signal ignored.
struct Caught(Option<tokio::signal::unix::Signal>);

impl Caught {
    fn new(kind: SignalKind) -> Result<Self, Problem> {
        if process::is_ignored(kind.as_raw_value()) {
            return Ok(Self(None));
        }
        signal(kind).map(|signal| Self(Some(signal))).map_err(|error| Problem::System(error.kind()))
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Drains the relay at the first signal, stops it at the second one.
fn end<N: Node<Command = Command>>(handle: &Handle<N>, ending: &mut bool, drain: Duration, lines: Lines) {
    if std::mem::replace(ending, true) {
        return stop(handle, Command::Stop);
    }
    lines.say(&format!("shutting down: no new rooms, running ones have {} s", drain.as_secs()));
    stop(handle, Command::Drain { within: drain });
}

fn stop<N: Node<Command = Command>>(handle: &Handle<N>, command: Command) {
    if handle.command(command).is_err() {
        tracing::warn!("the relay accepts no command");
    }
}

fn log(event: Event) {
    match event {
        Event::RoomCreated { room } => tracing::info!(%room, "room_created"),
        Event::RoomPaired { room } => tracing::info!(%room, "room_paired"),
        Event::RoomClosed { room, bytes_forwarded, seconds, reason } => {
            tracing::info!(%room, bytes_forwarded, seconds, %reason, "room_closed");
        }
        Event::Refused { reason } => tracing::debug!(%reason, "refused"),
        Event::Refusals(refusals) => tracing::warn!(%refusals, "refused in the last minute"),
        Event::Status(status) => tracing::info!(?status, "status"),
        Event::Misused(misuse) => tracing::warn!(%misuse, "misuse"),
        Event::Listening { .. } | Event::CannotListen { .. } => {}
        other => tracing::debug!(?other, "an event that is not logged"),
    }
}

/// Writes the lines for the operator that are not part of the log.
#[derive(Debug, Clone, Copy)]
struct Lines {
    quiet: bool,
}

impl Lines {
    fn say(self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }
}

fn say(line: &str) {
    lossy::stderr().push(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests;
