//! Questions to the user, whose answer is read while the transfer continues, and the settings of the terminal.
//!
//! Questions are asked only on a terminal; otherwise the answer is the safe one. Reading blocks a separate thread,
//! which is never joined: the transfer may end while a question is unanswered.

use std::io::{self, BufRead, IsTerminal};
use std::sync::OnceLock;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::output::Output;

/// The settings of the terminal when the program started.
static FOUND: OnceLock<Termios> = OnceLock::new();

/// Stores the settings of the terminal.
pub fn remember_terminal() {
    if let Ok(settings) = tcgetattr(io::stdin()) {
        FOUND.get_or_init(|| settings);
    }
}

/// Restores the settings that the terminal had when the program started.
pub fn restore_terminal() {
    if let Some(settings) = FOUND.get()
        && let Ok(now) = tcgetattr(io::stdin())
        && now.local_modes != settings.local_modes
    {
        // If the terminal was closed, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
    }
}

/// From now on the terminal does not show a Ctrl-C as `^C`, which would break the line that a progress bar redraws.
/// [`restore_terminal`] reverts this.
pub fn hide_control_keys() {
    // The system stops a background process that changes the terminal.
    let in_front = rustix::termios::tcgetpgrp(io::stdin()).is_ok_and(|group| group == rustix::process::getpgrp());
    if in_front && let Ok(mut settings) = tcgetattr(io::stdin()) {
        settings.local_modes -= LocalModes::ECHOCTL;
        // Without a terminal there is nothing to hide.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

/// Until this is dropped, the terminal delivers each key at once and does not echo it.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Enables this mode.
    ///
    /// # Errors
    /// Standard input is not a terminal.
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

/// Whether a user can see and answer a question.
#[must_use]
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A pending answer.
#[derive(Debug)]
pub struct Answer(Option<oneshot::Receiver<Option<String>>>);

impl Answer {
    /// Waits for the line that the user types, without its line ending. `None`: no answer is possible, or the input
    /// ended.
    pub async fn line(&mut self) -> Option<String> {
        match &mut self.0 {
            Some(receiver) => receiver.await.ok().flatten(),
            None => None,
        }
    }
}

/// Asks the user. Without a terminal the answer is `None` at once.
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
        // This fails if the transfer is over.
        drop(sender.send(line));
    };
    match std::thread::Builder::new().name("question".into()).spawn(read) {
        Ok(_) => Answer(Some(receiver)),
        Err(_) => Answer(None),
    }
}

/// Whether an answer means yes; every other answer means no.
#[must_use]
pub fn is_yes(answer: Option<&str>) -> bool {
    answer.is_some_and(|answer| matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_prompt_accepts_only_y_or_yes() {
        for yes in ["y", "Y", "yes", " YES "] {
            assert!(is_yes(Some(yes)), "{yes}");
        }
        for no in ["", "n", "no", "yes n", "yess", "ja", "\u{0}y", "1", "y\u{301}"] {
            assert!(!is_yes(Some(no)), "{no}");
        }
        assert!(!is_yes(None));
    }
}
