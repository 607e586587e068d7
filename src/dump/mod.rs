//! The files of a store, for a person to look at: segments, frames, events, damage.
//!
//! Needs no open [`Store`](crate::Store): it takes no lock, writes nothing and maps no memory, so it can be used
//! while an application has the store open, on a read-only file system, and on files that are broken in any way.
//! `everfold dump` and `everfold verify` are made of it.

mod facts;
mod verify;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub use facts::{FrameFacts, SegmentFacts, StoreFacts};
pub use verify::{Progress, Verdict};

use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::{Position, RecordedEvent};
use crate::log::files::{Files, SegmentFile, open_segment};
use crate::log::frame::FrameHeader;
use crate::log::recovery::{Ending, find_end_beside_a_writer};
use crate::log::scan::{Scanned, SegmentScan};
use crate::log::segment::segment_name;
use crate::log::walk::Walk;
use crate::log::window::{SEQUENTIAL, Window};
use crate::storage::Storage;
use crate::storage::disk::DiskStorage;

/// Looks into a store's directory.
///
/// ```
/// use std::ops::ControlFlow;
/// use everfold::dump::{Found, Inspector};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// # let store = everfold::Store::open(path)?;
/// # store.append("cart-7", everfold::Expected::Any, [everfold::Event::raw("sold", *b"hats")])?;
/// let mut types = Vec::new();
/// Inspector::open(path)?.scan(everfold::Position::START, |found| {
///     if let Found::Frame { events, .. } = found {
///         types.extend(events.iter().map(|event| event.event_type().to_owned()));
///     }
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(types, ["sold"]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Inspector {
    storage: Arc<dyn Storage>,
    files: Files,
}

/// What a scan of the log comes across, in the order of the files.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found<'a> {
    /// A frame that verifies, and its events.
    Frame {
        /// The frame.
        frame: FrameFacts,
        /// Its events; a control frame has none.
        events: &'a [RecordedEvent],
    },
    /// Bytes that do not verify.
    Damage {
        /// Where and what. [`Damage::TornTail`] is what a crash leaves, and no damage to anything acknowledged.
        corruption: Corruption,
        /// The frame there, if its header at least can be read.
        frame: Option<FrameFacts>,
        /// The events there that verify by themselves.
        events: &'a [RecordedEvent],
    },
}

/// What a scan calls.
type Visitor<'a> = dyn FnMut(Found<'_>) -> ControlFlow<()> + 'a;

impl Inspector {
    /// Reads `STORE`, `MARK` and the segments' headers.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no store, [`ErrorKind::Corrupt`] when `STORE` cannot be read,
    /// [`ErrorKind::Unsupported`] when a newer everfold wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let root = path.as_ref();
        let storage = DiskStorage::open(root)
            .map_err(|e| Error::io(format_args!("open the directory {}", root.display()), e))?;
        Self::of(Arc::new(storage)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("{} holds no store: {error}", root.display()))
            }
            _ => error,
        })
    }

    /// The same of a storage, wherever it is.
    pub(crate) fn of(storage: Arc<dyn Storage>) -> Result<Self, Error> {
        let files = Files::read(storage.as_ref())?;
        Ok(Inspector { storage, files })
    }

    /// The store as its files say it is.
    #[must_use]
    pub fn store(&self) -> StoreFacts {
        StoreFacts::new(&self.files)
    }

    /// The segments, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentFacts> {
        let mark = self.files.mark.as_ref();
        self.files.segments.iter().map(|file| SegmentFacts::new(file, mark)).collect()
    }

    /// Goes through the log, from the segment that holds the position after `after`, past any damage, checking every
    /// checksum. Frames of the first segment may lie before.
    ///
    /// # Errors
    /// When a file cannot be read. Damage is no error: it is handed to the visitor.
    pub fn scan(
        &self,
        after: Position,
        mut visit: impl FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.scan_segments(after, &mut visit)
    }

    fn scan_segments(&self, after: Position, visit: &mut Visitor<'_>) -> Result<(), Error> {
        // Damage of a segment's own is told in its place.
        let missing = self.files.order_damage().filter(|order| order.damage == Damage::SegmentMissing);
        if let Some(corruption) = missing
            && visit(Found::Damage { corruption, frame: None, events: &[] }).is_break()
        {
            return Ok(());
        }
        let Ok((active, sealed)) = self.files.active_and_sealed() else { return Ok(()) };
        let nexts = self.files.segments.iter().skip(1).map(|segment| segment.header.first);
        for (file, next) in sealed.iter().zip(nexts) {
            if next > after.next() && self.scan_sealed(file, next, visit)?.is_break() {
                return Ok(());
            }
        }
        self.scan_active(active, visit).map(drop)
    }

    fn scan_sealed(
        &self,
        file: &SegmentFile,
        next: Position,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Error> {
        if let Some(corruption) = &file.damage
            && visit(Found::Damage { corruption: corruption.clone(), frame: None, events: &[] }).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let name = segment_name(file.header.first);
        rest_of(SegmentScan::new(self.walk(file)?, &name, Some(next)), &name, visit)
    }

    fn scan_active(&self, file: &SegmentFile, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>, Error> {
        let name = segment_name(file.header.first);
        let mut walk = self.walk(file)?;
        let mut broke_off = false;
        let ending = find_end_beside_a_writer(
            self.storage.as_ref(),
            &self.files,
            &mut walk,
            &mut |offset, header, events| {
                let flow = visit(Found::Frame { frame: FrameFacts::new(&name, offset, header), events });
                broke_off = flow.is_break();
                flow
            },
        )?;
        if broke_off {
            return Ok(ControlFlow::Break(()));
        }
        let place = walk.place();
        match ending {
            Ending::Clean => Ok(ControlFlow::Continue(())),
            Ending::Unfinished { detail, .. } => {
                let (file, position) = (name, Some(place.next));
                let corruption =
                    Corruption { file, offset: place.offset, position, damage: Damage::TornTail, detail };
                Ok(visit(Found::Damage { corruption, frame: None, events: &[] }))
            }
            Ending::Damaged(corruption) => {
                let mut scan = SegmentScan::new(walk, &name, None);
                // A wrong size was found before the walk began; other damage is where the walk is.
                if corruption.offset != place.offset {
                    let told = visit(Found::Damage { corruption, frame: None, events: &[] });
                    return if told.is_break() { Ok(told) } else { rest_of(scan, &name, visit) };
                }
                let damage = scan.skip(corruption)?;
                if report(&damage, scan.events(), &name, visit).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                rest_of(scan, &name, visit)
            }
        }
    }

    fn walk(&self, file: &SegmentFile) -> Result<Walk, Error> {
        let handle = open_segment(self.storage.as_ref(), file)?;
        Ok(Walk::new(Window::reading(handle, file.len, SEQUENTIAL), &file.header))
    }
}

fn rest_of(mut scan: SegmentScan<'_>, name: &str, visit: &mut Visitor<'_>) -> Result<ControlFlow<()>, Error> {
    while let Some(found) = scan.next()? {
        if report(&found, scan.events(), name, visit).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn report(found: &Scanned, events: &[RecordedEvent], name: &str, visit: &mut Visitor<'_>) -> ControlFlow<()> {
    let facts = |offset: u64, header: &FrameHeader| FrameFacts::new(name, offset, header);
    visit(match found {
        Scanned::Frame { offset, header } => Found::Frame { frame: facts(*offset, header), events },
        Scanned::Damage { corruption, header, .. } => {
            let frame = header.as_ref().map(|header| facts(corruption.offset, header));
            Found::Damage { corruption: corruption.clone(), frame, events }
        }
    })
}
