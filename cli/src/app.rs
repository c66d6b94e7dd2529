//! From the command line to the exit code: what surrounds every command.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use tallow_relay::process;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, OutputArgs, Parsed, PartialCommand};
use crate::failure::Problem;
use crate::output::{LogWriter, Output};
use crate::{args, output, partial, prompt, receive, send};

/// At its end the program waits for a reader of its text as long as it takes some within this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the program.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    process::hide_memory();
    let code = parse(argv);
    output::flush(PATIENCE);
    code
}

fn parse(argv: Vec<OsString>) -> ExitCode {
    prompt::remember_terminal();
    // Known before the options are: a wrong option is told in the form that was asked for, too.
    let json = argv.iter().any(|word| word == "--json");
    let plain = Output::plain(json);
    match args::parse(argv) {
        Ok(Parsed::Run(cli)) => command(cli.command, &plain),
        Ok(Parsed::Text(text)) => show(text.as_bytes(), &plain),
        Ok(Parsed::Nothing(text)) => {
            plain.block(&text);
            ExitCode::from(2)
        }
        Err(problem) => fail(&problem, &plain),
    }
}

fn command(command: Command, plain: &Output) -> ExitCode {
    match command {
        Command::Send(args) => {
            let output = begin(&args.output);
            end(send::run(*args, output.clone()), &output)
        }
        Command::Receive(args) => {
            let output = begin(&args.output);
            end(receive::run(*args, output.clone()), &output)
        }
        Command::Relay(args) => {
            tallow_relay::log_to_stderr(args.quiet, args.verbose);
            tallow_relay::run(args.relay, args.quiet)
        }
        Command::Partial(args) => {
            let output = begin(match &args.command {
                PartialCommand::List { output, .. } | PartialCommand::Clear { output, .. } => output,
            });
            end(partial::run(args.command, &output), &output)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tallow", &mut script);
            show(&script, plain)
        }
    }
}

/// What the program was started for is on standard output, or it failed.
fn show(text: &[u8], plain: &Output) -> ExitCode {
    match plain.payload(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&Problem::system("could not write to standard output", &error), plain),
    }
}

fn begin(args: &OutputArgs) -> Output {
    let output = Output::new(args);
    log(Level::of(args.verbose), &output);
    output
}

fn end(outcome: Result<(), Problem>, output: &Output) -> ExitCode {
    prompt::restore_terminal();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem, output),
    }
}

fn fail(problem: &Problem, output: &Output) -> ExitCode {
    problem.tell(output);
    ExitCode::from(problem.code)
}

/// How much is logged.
#[derive(Debug, Clone, Copy)]
enum Level {
    Errors,
    Info,
    Debug,
    Trace,
    /// Other people's crates speak up, too.
    Everything,
}

impl Level {
    const fn of(verbose: u8) -> Self {
        match verbose {
            0 => Self::Errors,
            1 => Self::Info,
            2 => Self::Debug,
            3 => Self::Trace,
            _ => Self::Everything,
        }
    }

    /// As the log's filter reads it: other people's crates, then each of ours.
    fn filter(self) -> String {
        let (ours, theirs) = match self {
            Self::Errors => ("error", "off"),
            Self::Info => ("info", "warn"),
            Self::Debug => ("debug", "warn"),
            Self::Trace => ("trace", "info"),
            Self::Everything => ("trace", "trace"),
        };
        let parts = ["", "_proto", "_store", "_runtime", "_tokio", "_smol", "_relay"];
        let ours: String = parts.into_iter().map(|part| format!(",tallow{part}={ours}")).collect();
        format!("{theirs}{ours}")
    }
}

/// Logs go to standard error, as much as was asked for.
fn log(level: Level, output: &Output) {
    let writer = LogWriter(output.clone());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level.filter()))
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(false)
        .with_writer(move || writer.clone())
        // It would write its own failures to standard error, and wait or panic there.
        .log_internal_errors(false)
        .init();
}

/// A bug is one line, whatever the panic says.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    prompt::restore_terminal();
    Output::plain(false).say(&process::bug(info));
    // The program may end right after this.
    process::flush();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn c02_a_panic_is_told_by_its_place_alone() {
        let (told, hear) = mpsc::channel();
        let me = std::thread::current().id();
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().id() == me {
                drop(told.send(process::bug(info)));
            } else {
                others(info);
            }
        }));
        let secret = "xylophone-canary";
        assert!(std::panic::catch_unwind(|| panic!("{secret}")).is_err());
        // The hook that was there before is gone with this one; the next one is the standard's.
        drop(std::panic::take_hook());
        let line = hear.recv().unwrap();
        assert!(line.starts_with("tallow: internal error at ") && line.contains("app.rs:"), "{line}");
        assert!(!line.contains(secret) && !line.contains('\n'), "{line}");
    }

    #[test]
    fn each_v_says_more_and_addresses_need_two() {
        let filters = [0, 1, 2, 3, 4, 9].map(|verbose| Level::of(verbose).filter());
        assert!(filters[0].starts_with("off,") && filters[0].contains(",tallow_proto=error"), "{}", filters[0]);
        assert!(filters[1].starts_with("warn,") && filters[1].contains(",tallow=info"));
        assert!(filters[2].contains(",tallow_relay=debug") && filters[3].contains(",tallow_tokio=trace"));
        assert!(filters[4].starts_with("trace,") && filters[4] == filters[5]);
        for filter in filters {
            assert!(EnvFilter::try_new(&filter).is_ok(), "{filter}");
        }
    }
}
