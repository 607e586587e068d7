//! The base of a truncated log: finds its file, asks it, and tells when it is lost.

use std::sync::Arc;

use uuid::Uuid;

use super::catalog::Catalog;
use super::holds::{Base, Start};
use super::index::base::{BaseFile, Identity, verify};
use super::index::key::Key;
use super::index::pages::{IndexFault, PAGE, Source};
use super::layout::disk_len;
use super::lookup::StreamEnd;
use super::segment::{base_name, position_in};
use crate::error::{Corruption, Damage, Error};
use crate::event::Position;
use crate::storage::{Access, Storage};

/// Where the log starts, judged without a mark: where its first segment does, or, where a crash has cut the removal of
/// segments short, where the next base says. What neither says is not taken for removed.
pub(crate) fn log_start(
    storage: &dyn Storage,
    store_id: Uuid,
    names: &[String],
    segments: &[Position],
) -> Result<Position, Error> {
    let first = Position::START.next();
    let Some(lowest) = segments.first().copied().filter(|lowest| *lowest > first) else { return Ok(first) };
    let mut bases: Vec<Position> = names.iter().filter_map(|name| position_in(name, ".base")).collect();
    bases.sort_unstable();
    for log_start in bases.into_iter().filter(|base| *base >= lowest && segments.contains(base)) {
        if damage(storage, Identity { store_id, log_start })?.is_none() {
            return Ok(log_start);
        }
    }
    Ok(first)
}

/// What is wrong with a base's file, all of which is read.
pub(crate) fn damage(storage: &dyn Storage, identity: Identity) -> Result<Option<Corruption>, Error> {
    let name = base_name(identity.log_start);
    match storage.open(&name, Access::Read).and_then(|file| verify(file.as_ref(), &identity)) {
        Ok(None) => Ok(None),
        Ok(Some(page)) => Ok(Some(lost(identity.log_start, Some(page)))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Some(lost(identity.log_start, None))),
        Err(e) => Err(Error::io(format_args!("read {name}"), e)),
    }
}

fn lost(log_start: Position, page: Option<u32>) -> Corruption {
    let what = match page {
        None => "the file is not there".to_owned(),
        Some(page) => format!("page {page} does not verify"),
    };
    Corruption {
        file: base_name(log_start),
        offset: u64::from(page.unwrap_or_default()) * disk_len(PAGE),
        position: None,
        damage: Damage::VersionsLost,
        detail: format!("{what}, which keeps the versions of streams whose events retention has removed"),
    }
}

impl Catalog {
    /// Opens the base of a log that starts here. Its loss does not keep the log from opening, and is returned.
    pub(crate) fn open_base(&self, log_start: Position) -> Result<Option<Corruption>, Error> {
        if log_start == Position::START.next() {
            return Ok(None);
        }
        let base = self.base_at(log_start)?;
        let damage = match &base {
            Base::Lost(damage) => Some(damage.clone()),
            Base::Nothing | Base::File(_) => None,
        };
        self.holds.set(Start { first: log_start, base });
        Ok(damage)
    }

    /// The base in the file that is named by this position.
    pub(crate) fn base_at(&self, log_start: Position) -> Result<Base, Error> {
        let identity = Identity { store_id: self.reading.store_id, log_start };
        let name = base_name(log_start);
        let opened = Source::open(&self.storage, &name, self.reading.map_segments)
            .and_then(|source| BaseFile::open(source, &identity));
        match opened {
            Ok(Some(file)) => Ok(Base::File(Arc::new(file))),
            Ok(None) => Ok(Base::Lost(lost(log_start, Some(0)))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Base::Lost(lost(log_start, None))),
            Err(e) => Err(Error::io(format_args!("open {name}"), e)),
        }
    }

    /// The last event that a stream had before the log's start.
    pub(crate) fn end_before_start(&self, stream: &Key<'_>) -> Result<Option<StreamEnd>, Error> {
        if self.log_start() == Position::START.next() {
            return Ok(None);
        }
        let mut start = self.holds.start();
        loop {
            let found = start.end_of(stream);
            let now = self.holds.start();
            // Retention has put another file in its place meanwhile.
            if found.is_ok() || now.first == start.first {
                return found;
            }
            start = now;
        }
    }
}

impl Start {
    /// The last event that a stream had before.
    pub(super) fn end_of(&self, stream: &Key<'_>) -> Result<Option<StreamEnd>, Error> {
        match &self.base {
            Base::Nothing => Ok(None),
            Base::Lost(damage) => Err(damage.clone().into()),
            Base::File(base) => {
                let found = base.find(stream).map_err(|fault| base_fault(base, fault))?;
                Ok(found.map(|(version, position)| StreamEnd { version, position }))
            }
        }
    }
}

/// A base could not be read.
pub(super) fn base_fault(base: &BaseFile, fault: IndexFault) -> Error {
    let log_start = base.identity.log_start;
    match fault {
        IndexFault::Damaged(page) => lost(log_start, Some(page)).into(),
        IndexFault::Io(e) => Error::io(format_args!("read {}", base_name(log_start)), e),
    }
}
