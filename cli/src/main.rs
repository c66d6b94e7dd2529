//! `tallow`: sends files between any two machines, end-to-end encrypted, with a short code.

mod app;
mod args;
mod canvas;
mod code_input;
mod failure;
mod offer;
mod output;
mod partial;
mod placement;
mod progress;
mod prompt;
mod receive;
mod report;
mod runtime;
mod send;
mod setup;
mod signal;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::run(std::env::args_os().collect())
}
