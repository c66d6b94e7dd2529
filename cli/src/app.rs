//! From the command line to the exit code: what surrounds every command.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::CommandFactory;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command, OutputArgs, Parsed, PartialCommand};
use crate::failure::Problem;
use crate::output::{LogWriter, Output};
use crate::{args, partial, prompt, receive, send};

/// Runs the program.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(panicked));
    hide_memory();
    prompt::remember_terminal();
    // Known before the options are: a wrong option is told in the form that was asked for, too.
    let json = argv.iter().any(|word| word == "--json");
    let plain = Output::plain(json);
    match args::parse(argv) {
        Ok(Parsed::Run(cli)) => command(cli.command, &plain),
        Ok(Parsed::Text(text)) => {
            plain.payload(text.as_bytes());
            ExitCode::SUCCESS
        }
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
            tallow_relay::run(args.relay)
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
            plain.payload(&script);
            ExitCode::SUCCESS
        }
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
}

/// Logs go to standard error, as much as was asked for.
fn log(level: Level, output: &Output) {
    let (ours, theirs) = match level {
        Level::Errors => ("error", "off"),
        Level::Info => ("info", "warn"),
        Level::Debug => ("debug", "warn"),
        Level::Trace => ("trace", "info"),
        Level::Everything => ("trace", "trace"),
    };
    let ours: String = ["", "_proto", "_store", "_runtime", "_tokio", "_smol", "_relay"]
        .into_iter()
        .map(|part| format!(",tallow{part}={ours}"))
        .collect();
    let writer = LogWriter(output.clone());
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{theirs}{ours}")))
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
}

/// Other processes of the same user can't look into this one, and no core file holds its secrets.
fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where it can't be set, the system protects no process.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// A bug is told in one line. What the panic says could hold a secret, so only its place is.
fn panicked(info: &std::panic::PanicHookInfo<'_>) {
    prompt::restore_terminal();
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    Output::plain(false).say(&format!("tallow: internal error at {place}; this is a bug in tallow, please report it"));
}
