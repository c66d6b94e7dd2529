//! `tallow-relay`: the command `tallow relay` as a program of its own, for machines that only run a relay.

use std::process::ExitCode;

use clap::Parser;

/// A relay for tallow: connects two peers and forwards their encrypted data. It does not need to be trusted.
#[derive(Debug, Parser)]
#[command(name = "tallow-relay", version)]
struct Arguments {
    #[command(flatten)]
    relay: tallow_relay::Options,
    /// Log more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Write nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    tallow_relay::process::report_panics();
    tallow_relay::process::hide_memory();
    let arguments = Arguments::parse();
    tallow_relay::log_to_stderr(arguments.quiet, arguments.verbose);
    tallow_relay::run(arguments.relay, arguments.quiet)
}
