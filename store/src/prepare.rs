//! Prepares the receipt of an offer: finds what an earlier attempt left, or makes a staging directory, and decides
//! whether all of the offer is allowed and fits on the disk.
//!
//! The disk is probed in the staging directory, since names, skipped entries and space depend on what it can hold. If
//! the offer is refused, nothing of it stays. No timers. Bounds: those of the plan and of the names.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tallow_proto::transfer::Manifest;
use tallow_proto::transfer::journal::{Header, Stored};
use tallow_proto::transfer::local_names::LocalNames;
use tallow_proto::transfer::storage::{Fault, FaultKind};

use crate::abilities::Abilities;
use crate::clean::clean_left;
use crate::contained_dir::Dir;
use crate::destination::{Destination, local_names, unmake};
use crate::fault::{fault, kind};
use crate::plan::Plan;
use crate::rollback::take_back;
use crate::staging::{Left, Staging};

/// Free space in bytes that is reserved for metadata of the file system.
const MARGIN: u64 = 1 << 20;

/// The staging directory of a transfer, and what was decided about the offer.
pub struct Prepared {
    /// Without what is skipped.
    pub manifest: Arc<Manifest>,
    pub staging: Staging,
    pub stored: Vec<Stored>,
    /// Bytes that are there from an earlier attempt.
    pub there: u64,
    pub plan: Plan,
    pub names: LocalNames,
    pub abilities: Abilities,
}

impl Destination {
    /// Finds or makes the staging directory, and checks whether all of the offer is allowed and fits on the disk.
    /// Returns also the destination, and the directories that were created for it.
    pub(crate) fn prepare(&self, offered: &Arc<Manifest>) -> Result<(Arc<Dir>, Vec<PathBuf>, Prepared), Fault> {
        let left = match self.ground.existing() {
            Some(target) => Staging::find(target, &Header::of(offered)).map_err(|error| self.fault(error))?,
            None => None,
        };
        let (target, made) = self.ground.make(&self.path)?;
        let prepared = match left {
            Some(left) => self.resume(&target, left, offered),
            None => self.start(&target, offered),
        };
        let prepared = prepared.and_then(|prepared| self.check_holes(&target, prepared));
        let prepared = prepared.inspect_err(|_| unmake(&made))?;
        Ok((target, made, prepared))
    }

    /// Begins a transfer of which nothing is here.
    fn start(&self, target: &Dir, manifest: &Arc<Manifest>) -> Result<Prepared, Fault> {
        let staging = Staging::make(target, &Header::of(manifest)).map_err(|error| self.fault(error))?;
        let planned = (|| {
            let abilities = self.abilities(staging.probe())?;
            let names = local_names(manifest, self.policy, &abilities)?;
            let plan = self.plan(target, manifest, &abilities, &names)?;
            self.check_space(target, plan.need)?;
            let manifest = without_skipped(manifest, &plan);
            if !plan.skip.is_empty() {
                staging.describe(&Header::of(&manifest)).map_err(|error| self.fault(error))?;
            }
            Ok((manifest, abilities, names, plan))
        })();
        match planned {
            Ok((manifest, abilities, names, plan)) => {
                Ok(Prepared { manifest, staging, stored: Vec::new(), there: 0, plan, names, abilities })
            }
            Err(fault) => {
                if let Err(error) = staging.remove(target) {
                    tracing::warn!(%error, "the staging directory could not be removed");
                }
                Err(fault)
            }
        }
    }

    /// Goes on with what an earlier transfer of the same manifest left.
    fn resume(&self, target: &Dir, left: Left, offered: &Arc<Manifest>) -> Result<Prepared, Fault> {
        let abilities = self.abilities(left.probe())?;
        let names = local_names(offered, self.policy, &abilities)?;
        take_back(target, &left, offered, &names).map_err(|error| self.fault(error))?;
        let plan = self.plan(target, offered, &abilities, &names)?;
        let manifest = without_skipped(offered, &plan);
        if !left.is_of(&Header::of(&manifest)) {
            // Chunks are numbered without what is skipped, so another choice makes stored ones useless.
            drop(left);
            return self.start(target, offered);
        }
        let there = match clean_left(&left, &manifest, &names, &plan) {
            Ok(there) => there,
            Err(error) => {
                tracing::warn!(%error, "the data of an earlier transfer can't be used");
                // The name is free for another one, which clears it.
                drop(left);
                return self.start(target, offered);
            }
        };
        self.check_space(target, plan.need.saturating_sub(there))?;
        let (staging, stored) = Staging::resume(left).map_err(|error| self.fault(error))?;
        Ok(Prepared { manifest, staging, stored, there, plan, names, abilities })
    }

    fn abilities(&self, probed: io::Result<Abilities>) -> Result<Abilities, Fault> {
        let probed = probed.map_err(|error| self.fault(error))?;
        Ok(self.assumed.unwrap_or(probed))
    }

    fn plan(
        &self,
        target: &Dir,
        manifest: &Manifest,
        abilities: &Abilities,
        names: &LocalNames,
    ) -> Result<Plan, Fault> {
        let Destination { path, policy, .. } = self;
        Plan::make(manifest, target, *policy, abilities, names)
            .map_err(|(kind, below)| Fault::at(kind, path.join(below).to_string_lossy()))
    }

    /// Whether so many bytes fit on the disk.
    fn check_space(&self, target: &Dir, need: u64) -> Result<(), Fault> {
        let have = self.space(target)?;
        let need = with_margin(need);
        if need > have {
            return Err(Fault::at(FaultKind::Full { need, have }, self.path.to_string_lossy()));
        }
        Ok(())
    }

    /// The free space of the disk, in bytes.
    fn space(&self, target: &Dir) -> Result<u64, Fault> {
        let system = rustix::fs::fstatvfs(target).map_err(|error| self.fault(error.into()))?;
        // Some file systems do not count blocks: ramfs reports 0 of 0.
        Ok(if system.f_blocks == 0 { u64::MAX } else { system.f_bavail.saturating_mul(system.f_frsize) })
    }

    /// Checks that files with holes can be made there.
    fn check_holes(&self, target: &Dir, staged: Prepared) -> Result<Prepared, Fault> {
        let Prepared { staging, plan, there, .. } = &staged;
        if plan.holes == 0 {
            return Ok(staged);
        }
        let need = with_margin(plan.need.saturating_sub(*there));
        let checked = self.space(target).and_then(|have| {
            judge_holes(staging.keeps_holes(plan.longest), need, plan.holes, have)
                .map_err(|kind| Fault::at(kind, self.path.to_string_lossy()))
        });
        // What an earlier attempt left may be of use elsewhere.
        if checked.is_err()
            && !staging.is_resumed
            && let Err(error) = staging.remove(target)
        {
            tracing::warn!(%error, "the staging directory could not be removed");
        }
        checked.map(|()| staged)
    }

    fn fault(&self, error: io::Error) -> Fault {
        fault(error, self.path.to_string_lossy())
    }
}

/// What is received: without what is skipped.
fn without_skipped(offered: &Arc<Manifest>, plan: &Plan) -> Arc<Manifest> {
    if plan.skip.is_empty() { Arc::clone(offered) } else { Arc::new(offered.without(plan.skip.clone())) }
}

/// The bytes that must be free for so many bytes of files.
const fn with_margin(need: u64) -> u64 {
    if need == 0 { 0 } else { need.saturating_add(MARGIN) }
}

/// Checks the space for files with holes, if a trial had this result: a file system without holes writes zeros, which
/// need space.
fn judge_holes(are_kept: io::Result<bool>, need: u64, holes: u64, have: u64) -> Result<(), FaultKind> {
    let need = need.saturating_add(holes).saturating_add(if need == 0 { MARGIN } else { 0 });
    match are_kept {
        Ok(true) => Ok(()),
        Ok(false) if need > have => Err(FaultKind::Full { need, have }),
        Ok(false) => Ok(()),
        // The file of the trial filled the disk.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(FaultKind::Full { need, have }),
        Err(error) => Err(kind(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_need_space_where_they_are_written_as_zeros() {
        assert_eq!(judge_holes(Ok(true), 1 << 20, 1 << 40, 2 << 20), Ok(()));
        assert_eq!(judge_holes(Ok(false), 1 << 20, 1 << 20, 2 << 20), Ok(()));
        let full = FaultKind::Full { need: (1 << 20) + (1 << 40), have: 2 << 20 };
        assert_eq!(judge_holes(Ok(false), 1 << 20, 1 << 40, 2 << 20), Err(full));
        assert_eq!(judge_holes(Err(io::ErrorKind::StorageFull.into()), 1 << 20, 1 << 40, 2 << 20), Err(full));
        let too_long = judge_holes(Err(io::Error::from_raw_os_error(27)), 0, 1 << 40, 2 << 20);
        assert_eq!(too_long, Err(FaultKind::Io(io::ErrorKind::FileTooLarge)));
    }
}
