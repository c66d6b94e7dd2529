//! `tallow-relay`: the same as `tallow relay`, for machines that only relay.

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// A relay for tallow: pairs two peers and carries their sealed bytes. Nobody has to trust it.
#[derive(Debug, Parser)]
#[command(name = "tallow-relay", version)]
struct Arguments {
    #[command(flatten)]
    relay: tallow_relay::Options,
    /// Say more; may be repeated
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = match (arguments.quiet, arguments.verbose) {
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
    tallow_relay::run(arguments.relay)
}
