//! The relay server: `tallow_proto`'s [`Relay`] on tokio, with its options, its log and its signals.
//!
//! It decides nothing about rooms. What it logs are rooms by a short hash under a key of this process, counts and reasons; never
//! an address of a client.

mod limits;
mod options;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tallow_proto::room::{Command, Config, Event, Relay};
use tallow_tokio::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub use options::{Options, Problem};

/// Runs a relay until it is told to end; the exit code says how it went.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("tallow relay: {problem}"));
            ExitCode::from(problem.exit_code())
        }
    }
}

fn start(options: Options) -> Result<(), Problem> {
    let got = limits::raise_descriptors();
    let drain = options.drain;
    let config = options.into_config()?;
    say(&format!("descriptor limit: {got}"));
    say(&format!("certificate fingerprint {}", config.identity.fingerprint()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Problem::System(error.kind()))?;
    runtime.block_on(serve(config, drain))
}

/// Starts the log on standard error: warnings and rooms, with `verbose` more, with `quiet` errors only.
///
/// Only this project's crates are heard, however much is asked for: what others log holds addresses.
///
/// # Panics
/// When a log was started before.
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
        .with_writer(std::io::stderr)
        .init();
}

async fn serve(config: Config, drain: Duration) -> Result<(), Problem> {
    let catch = |kind| signal(kind).map_err(|error| Problem::System(error.kind()));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let relay = Relay::new(config).map_err(|_| Problem::Identity)?;
    let mut handle: Handle<Relay> = tallow_tokio::spawn(relay);
    let (mut draining, mut failure) = (false, None);
    loop {
        tokio::select! {
            event = handle.next_event() => match event {
                Some(Event::CannotListen { addr, transport, kind }) => {
                    // Half of what was asked for is not what was asked for.
                    failure = failure.or(Some(Problem::Listen(addr, transport, kind)));
                    // If there was no other address it has ended by itself.
                    let _ = handle.command(Command::Stop);
                }
                Some(Event::Listening { addr }) => say(&format!("listening on {addr}")),
                Some(event) => log(event),
                None => return failure.map_or(Ok(()), Err),
            },
            _ = terminate.recv() => end(&handle, &mut draining, drain),
            _ = interrupt.recv() => end(&handle, &mut draining, drain),
        }
    }
}

/// The first signal drains, the second one ends it.
fn end(handle: &Handle<Relay>, draining: &mut bool, drain: Duration) {
    if std::mem::replace(draining, true) {
        return stop(handle, Command::Stop);
    }
    say(&format!("ending: no new rooms, running ones have {} s", drain.as_secs()));
    stop(handle, Command::Drain { within: drain });
}

fn stop(handle: &Handle<Relay>, command: Command) {
    if handle.command(command).is_err() {
        tracing::warn!("the relay takes no command");
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
        Event::Status(status) => tracing::info!(?status, "status"),
        Event::Misused(misuse) => tracing::warn!(%misuse, "misuse"),
        Event::Listening { .. } | Event::CannotListen { .. } => {}
        other => tracing::debug!(?other, "an event that is not logged"),
    }
}

/// A line for the operator. A closed standard error ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
