//! Process setup that all programs of this project share: protection of the memory, signals that the parent process
//! ignored, and panic reports in one line.

use std::time::Duration;

use crate::lossy;

/// The exit code after an internal error, which is that of a Rust program after a panic.
pub const INTERNAL_ERROR: u8 = 101;
/// At exit, queued text is written as long as its reader reads some of it within this time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prevents other processes of the same user from reading the memory of this one, and core files with its secrets.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // An error means that the system has no such protection.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Whether this process was started with this signal ignored, as `nohup` does with a hang-up and a shell with the
/// interrupt of a background job: then it stays ignored. False on systems that do not report it.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // Signal 1 has bit 0.
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

/// The line that reports a panic. The panic message could contain a secret, so the line has only the source location.
#[must_use]
pub fn bug(info: &std::panic::PanicHookInfo<'_>) -> String {
    let place = info.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
    format!("tallow: internal error at {place}; this is a bug in tallow, please report it")
}

/// Installs a panic hook that writes one line to standard error, without blocking on its reader.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        lossy::stderr().push(format!("{}\n", bug(info)).as_bytes());
        flush();
    }));
}

/// Waits until queued text is written to standard error, but not for a reader that reads nothing.
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
