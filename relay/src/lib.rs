//! The relay server: `tallow_proto`'s [`Relay`] on tokio, with its options, its log and its signals.
//!
//! It decides nothing about rooms. What it logs are rooms by a short hash under a key of this process, counts and reasons; never
//! an address of a client.

mod limits;
mod options;

use std::io::Write;
use std::process::ExitCode;

use tallow_proto::room::{Command, Config, Event, Relay};
use tallow_tokio::Handle;
use tokio::signal::unix::{SignalKind, signal};

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

async fn serve(config: Config, drain: std::time::Duration) -> Result<(), Problem> {
    let catch = |kind| signal(kind).map_err(|error| Problem::System(error.kind()));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    let relay = Relay::new(config).map_err(|_| Problem::Identity)?;
    let mut handle: Handle<Relay> = tallow_tokio::spawn(relay);
    let (mut listening, mut draining, mut failure) = (false, false, None);
    loop {
        tokio::select! {
            event = handle.next_event() => match event {
                Some(Event::CannotListen { addr, kind }) => {
                    failure = Some(Problem::Listen(addr, kind));
                    if !listening {
                        tracing::debug!(%addr, ?kind, "cannot listen");
                    }
                }
                Some(Event::Listening { addr }) => {
                    listening = true;
                    say(&format!("listening on {addr}"));
                }
                Some(event) => log(event),
                None => return if listening { Ok(()) } else { Err(failure.unwrap_or(Problem::Identity)) },
            },
            _ = terminate.recv() => stop(&handle, &mut draining, drain),
            _ = interrupt.recv() => stop(&handle, &mut draining, drain),
        }
    }
}

/// The first signal drains, the second one ends it.
fn stop(handle: &Handle<Relay>, draining: &mut bool, drain: std::time::Duration) {
    let command = if *draining { Command::Stop } else { Command::Drain { within: drain } };
    if !*draining {
        say(&format!("ending: no new rooms, running ones have {} s", drain.as_secs()));
    }
    *draining = true;
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
    }
}

/// A line for the operator. A closed standard error ends nothing.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
