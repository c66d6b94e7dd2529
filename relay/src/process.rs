//! What every program of this project does with its own process: it hides its memory, respects the signals that its parent ignored,
//! and tells of a bug in one line.

use std::time::Duration;

use crate::lossy;

/// The exit code after an internal error: that of a Rust program that panics.
pub const INTERNAL_ERROR: u8 = 101;
/// Text that was pushed shortly before the end is waited for as long as its reader takes some within this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Other processes of the same user can't look into this one, and no core file holds its secrets.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Where it can't be set, the system protects no process.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Whether this process was started with this signal ignored, as `nohup` does with a hang-up and a shell with the interrupt of a
/// background job: then it stays ignored. False where the system does not tell.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signal 1 has bit 0.
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// The line that tells of a panic. What the panic says could hold a secret, so only its place is in it.
#[must_use]
pub fn bug(info: &std::panic::PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    format!("tallow: internal error at {place}; this is a bug in tallow, please report it")
}

/// From now on a panic is one line on standard error, which nobody needs to read.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        lossy::stderr().push(format!("{}\n", bug(info)).as_bytes());
        flush();
    }));
}

/// Waits for what was written to standard error last, but not for a reader that takes nothing.
pub fn flush() {
    lossy::stderr().flush(PATIENCE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_signals_can_be_ignored() {
        assert!(![-1, 0, 65, i32::MAX].into_iter().any(is_ignored));
        // Rust ignores SIGPIPE for every program.
        assert_eq!(is_ignored(13), cfg!(target_os = "linux"));
    }
}
