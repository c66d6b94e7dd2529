//! Questions to the person: a line that is read while the transfer goes on, and the terminal as it was found.
//!
//! A question is asked only where somebody can answer it, so on a terminal; everywhere else the answer is the careful one. Reading
//! blocks a thread of its own, which nobody waits for: the transfer may end while the question stands.

use std::io::{self, BufRead, IsTerminal};
use std::sync::OnceLock;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::output::Output;

/// The terminal's settings as they were when the program started.
static FOUND: OnceLock<Termios> = OnceLock::new();

/// Remembers how the terminal is set.
pub fn remember_terminal() {
    if let Ok(settings) = tcgetattr(io::stdin()) {
        FOUND.get_or_init(|| settings);
    }
}

/// Sets the terminal as it was when the program started.
pub fn restore_terminal() {
    if let Some(settings) = FOUND.get()
        && let Ok(now) = tcgetattr(io::stdin())
        && now.local_modes != settings.local_modes
    {
        // Without a terminal any more there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
    }
}

/// From now on the terminal does not show a Ctrl-C as `^C`, which would break the line that a progress bar redraws.
/// [`restore_terminal`] ends it.
pub fn hide_control_keys() {
    // A process in the background would be stopped for touching the terminal.
    let in_front = rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
    if in_front && let Ok(mut settings) = tcgetattr(io::stdin()) {
        settings.local_modes -= LocalModes::ECHOCTL;
        // Without a terminal there is nothing to hide.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

/// The terminal gives each key at once and shows none, until this is dropped.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Begins.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub fn begin() -> io::Result<Self> {
        let mut settings = tcgetattr(io::stdin())?;
        settings.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Drain, &settings)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Whether a person can answer a question: both see it and type.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// An answer that is being waited for.
#[derive(Debug)]
pub struct Answer(Option<oneshot::Receiver<Option<String>>>);

impl Answer {
    /// What a person typed, without the end of the line. `None`: nobody can answer, or the input ended.
    pub async fn line(&mut self) -> Option<String> {
        match &mut self.0 {
            Some(receiver) => receiver.await.ok().flatten(),
            None => None,
        }
    }
}

/// Asks; where nobody can answer, the answer is there at once: none.
#[must_use]
pub fn ask(output: &Output, question: &str) -> Answer {
    if !is_interactive() {
        return Answer(None);
    }
    output.ask(question);
    let output = output.clone();
    let (sender, receiver) = oneshot::channel();
    let read = move || {
        let mut line = String::new();
        let line = match io::stdin().lock().read_line(&mut line) {
            Ok(1..) => {
                output.answered();
                Some(line.trim_end_matches(['\n', '\r']).to_owned())
            }
            Ok(0) | Err(_) => None,
        };
        // The transfer may be over.
        drop(sender.send(line));
    };
    match std::thread::Builder::new().name("question".into()).spawn(read) {
        Ok(_) => Answer(Some(receiver)),
        Err(_) => Answer(None),
    }
}

/// Whether an answer means yes; everything that does not is no.
#[must_use]
pub fn is_yes(answer: Option<&str>) -> bool {
    answer.is_some_and(|answer| matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_only_yes_is_yes() {
        for yes in ["y", "Y", "yes", " YES "] {
            assert!(is_yes(Some(yes)), "{yes}");
        }
        for no in ["", "n", "no", "yes n", "yess", "ja", "\u{0}y", "1", "y\u{301}"] {
            assert!(!is_yes(Some(no)), "{no}");
        }
        assert!(!is_yes(None));
    }
}
