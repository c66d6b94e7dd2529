use std::error::Error;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::seed::Seed;
use crate::transfer::job::{Job, JobId, Work};
use crate::transfer::manifest::ManifestBuilder;
use crate::wire::peer::TransferKind;

#[test]
fn a_fault_is_an_error_that_names_path_and_cause() {
    fn open() -> Result<(), Box<dyn Error>> {
        Err(Fault::at(FaultKind::Io(io::ErrorKind::PermissionDenied), "db.sqlite"))?
    }
    let error = open().unwrap_err();
    assert_eq!(error.to_string(), "db.sqlite: permission denied");
    assert_eq!(error.source().unwrap().to_string(), "permission denied");
}

#[test]
fn io_error_keeps_its_own_text() {
    let own = Fault::from(io::Error::other("my database is gone"));
    assert_eq!((own.kind, own.to_string()), (FaultKind::Io(io::ErrorKind::Other), "my database is gone".to_owned()));
    assert_eq!(Fault::other("my database is gone"), own);
    let denied = Fault::from(io::Error::from_raw_os_error(13));
    assert_eq!(denied.kind, FaultKind::Io(io::ErrorKind::PermissionDenied));
    assert!(denied.to_string().contains("os error 13"), "{denied}");
    assert_eq!(Fault::from(io::Error::from(io::ErrorKind::NotFound)).to_string(), "entity not found");
}

#[test]
fn panic_text_is_kept_and_escaped() {
    struct Breaks;
    impl Source for Breaks {
        fn scan(&self, page: u32) -> Result<Option<Page>, Fault> {
            panic!("page {page} \u{1b}[2J")
        }
        fn read(&self, _: u32, _: &Entry, _: u64, _: &mut [u8]) -> Result<(), Fault> {
            Err(FaultKind::Changed.into())
        }
    }
    let work = Work::Scan {
        source: Arc::new(Breaks),
        builder: Box::new(ManifestBuilder::new(TransferKind::Files, &Seed::new([1; 32]))),
        page: 3,
    };
    let fault = Job { id: JobId(1), work }.run(&AtomicBool::new(false)).result.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Panicked);
    assert_eq!(fault.to_string(), "internal error: page 3 \\u{1b}[2J");
}

#[test]
fn long_fault_text_is_truncated() {
    let fault = Fault::other(&"x".repeat(1 << 20));
    assert_eq!(fault.detail.as_ref().unwrap().len(), MOST_DETAIL);
    assert_eq!(fault.to_string().chars().count(), SHOWN + 1);
}
