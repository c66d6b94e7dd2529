//! The terminal of the progress bar: frames go through the queue of standard error, so that a stopped terminal blocks
//! nothing. A frame is dropped when much text is already queued.

use std::fmt::Write as _;
use std::io;
use std::sync::{Mutex, PoisonError};

use console::Term;
use indicatif::TermLike;
use tallow_relay::lossy;

/// A terminal that collects the parts of a frame and queues them together.
#[derive(Debug, Default)]
pub struct Canvas {
    frame: Mutex<String>,
}

impl Canvas {
    fn draw(&self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        let mut frame = self.frame.lock().unwrap_or_else(PoisonError::into_inner);
        frame.write_fmt(text).map_err(io::Error::other)
    }

    /// Writes the control sequence that moves the cursor by `n`; nothing if `n` is 0.
    fn move_by(&self, n: usize, direction: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.draw(format_args!("\x1b[{n}{direction}")) }
    }
}

impl TermLike for Canvas {
    fn width(&self) -> u16 {
        Term::stderr().size().1
    }

    fn height(&self) -> u16 {
        Term::stderr().size().0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.draw(format_args!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.draw(format_args!("{text}"))
    }

    fn clear_line(&self) -> io::Result<()> {
        self.draw(format_args!("\r\x1b[2K"))
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.frame.lock().unwrap_or_else(PoisonError::into_inner));
        if !frame.is_empty() {
            lossy::stderr().push_unless_busy(frame.as_bytes());
        }
        Ok(())
    }
}
