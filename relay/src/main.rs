//! `tallow-relay`: the same as `tallow relay`, for machines that only relay.

use std::process::ExitCode;

use clap::Parser;

/// A relay for tallow: pairs two peers and carries their sealed bytes. Nobody has to trust it.
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
