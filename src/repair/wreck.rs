//! A damaged store: finds what is left of its files, and goes through its events in the order of positions.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::{Position, RecordedEvent, Version};
use crate::log::base;
use crate::log::files::{Files, SegmentFile, read_mark, read_store, read_up_to};
use crate::log::index::base::{BaseFile, Ended, Identity, streams};
use crate::log::index::file::{Identity as SegmentIdentity, IndexFile, identity_of};
use crate::log::index::pages::{PAGE, Source};
use crate::log::layout::{BlockFault, Features};
use crate::log::mark::Mark;
use crate::log::recovery::{Ending, find_end};
use crate::log::scan::{Scanned, SegmentScan};
use crate::log::segment::{LOG_FOLDER, base_name, index_name, position_in, segment_first};
use crate::log::segment_header::{SEGMENT_HEADER, SegmentHeader};
use crate::log::store_file::{STORE_FILE, StoreFile};
use crate::log::walk::Walk;
use crate::log::window::{SEQUENTIAL, Window};
use crate::options::is_segment_size;
use crate::storage::{Access, Storage};

/// What is left of a store.
pub(super) struct Wreck {
    storage: Arc<dyn Storage>,
    pub(super) store: StoreFile,
    pub(super) mark: Option<Mark>,
    /// Where the log starts, as far as anything tells.
    pub(super) log_start: Position,
    pieces: Vec<Piece>,
    accept_unproven_tail: bool,
    pub(super) damage: Vec<Corruption>,
    pub(super) notes: Vec<String>,
}

/// A segment's file.
struct Piece {
    name: String,
    header: SegmentHeader,
    len: u64,
}

/// What is come across on the way.
pub(super) enum Passed<'a> {
    /// Events of one batch, at ascending positions.
    Events(&'a [RecordedEvent]),
    Damage(Corruption),
    /// From here on nothing proves that it was acknowledged.
    Unproven(Position),
    /// Events after that, which are not to be taken.
    LeftOut(u64),
}

pub(super) type Visitor<'a> = dyn FnMut(Passed<'_>) -> Result<(), Error> + 'a;

impl Wreck {
    pub(super) fn open(storage: Arc<dyn Storage>, accept_unproven_tail: bool) -> Result<Self, Error> {
        let (mut damage, mut notes) = (Vec::new(), Vec::new());
        let mut names = match storage.list(LOG_FOLDER) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?,
        };
        names.sort_unstable();
        let store = match read_store(storage.as_ref(), &mut damage) {
            Ok(store) => Some(store),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                notes.push(format!("{STORE_FILE} cannot be read: the segments tell what the store is"));
                damage.extend(error.corruption().cloned());
                None
            }
            Err(error) => return Err(error),
        };
        let mut pieces = Vec::new();
        for name in names.iter().filter(|name| segment_first(name).is_some()) {
            pieces.push(read_piece(storage.as_ref(), name, store.as_ref())?);
        }
        let store = match store.or_else(|| guess(&pieces)) {
            Some(store) => store,
            None => {
                return Err(Error::new(ErrorKind::NotFound, "there is nothing of a store in the directory"));
            }
        };
        let mark = read_mark(storage.as_ref(), store.store_id)?.mark;
        let firsts: Vec<Position> =
            pieces.iter().filter_map(|piece| segment_first(file_name(piece))).collect();
        let log_start = match mark {
            Some(mark) => mark.log_start,
            None => {
                notes.push("MARK cannot be read: the segments tell how far the log went".into());
                base::log_start(storage.as_ref(), store.store_id, &names, &firsts)?
            }
        };
        let mut wreck = Wreck {
            storage,
            store,
            mark,
            log_start,
            pieces: Vec::new(),
            accept_unproven_tail,
            damage,
            notes,
        };
        wreck.keep(pieces);
        Ok(wreck)
    }

    /// Keeps the segments of the store, in order.
    fn keep(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            let (name, first) = (piece.name.clone(), Some(piece.header.first));
            let (damage, detail) = if piece.header.salt == 0 {
                (
                    Damage::Header,
                    "neither copy verifies, and its index is not there to stand in: nothing in it can be read",
                )
            } else if piece.header.store_id != self.store.store_id {
                (Damage::SegmentForeign, "it belongs to another store")
            } else {
                if segment_first(file_name(&piece)) != Some(piece.header.first) {
                    self.notes.push(format!(
                        "{name} starts at position {}, as its header says",
                        piece.header.first
                    ));
                }
                self.pieces.push(piece);
                continue;
            };
            self.damage.push(Corruption {
                file: name,
                offset: 0,
                position: first,
                damage,
                detail: detail.into(),
            });
        }
        self.pieces.retain(|piece| piece.header.first >= self.log_start);
        self.pieces.sort_by_key(|piece| piece.header.first);
    }

    /// The streams of which events were removed before the log's start; `None` when what tells of them is lost.
    pub(super) fn ended(&self) -> Result<Option<Vec<Ended>>, Error> {
        let (store_id, log_start) = (self.store.store_id, self.log_start);
        if log_start == Position::START.next() {
            return Ok(Some(Vec::new()));
        }
        let (identity, name) = (Identity { store_id, log_start }, base_name(log_start));
        let base =
            Source::open(&self.storage, &name, false).and_then(|source| BaseFile::open(source, &identity));
        match base {
            Ok(Some(base)) => Ok(streams(&Arc::new(base)).ok()),
            Ok(None) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format_args!("open {name}"), e)),
        }
    }

    /// What the indexes that are left tell of events of streams at positions that are wanted. One that does not verify
    /// tells nothing more.
    pub(super) fn ask_indexes(
        &self,
        is_wanted: &dyn Fn(Position) -> bool,
        told: &mut dyn FnMut(Position, &str, Version),
    ) -> Result<(), Error> {
        let names = match self.storage.list(LOG_FOLDER) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?,
        };
        for first in names.iter().filter_map(|name| position_in(name, ".idx")) {
            let Some(identity) = index_identity(self.storage.as_ref(), first)
                .filter(|known| known.first == first && known.store_id == self.store.store_id)
            else {
                continue;
            };
            let source = Source::open(&self.storage, &index_name(first), false);
            if let Ok(Some(index)) = source.and_then(|source| IndexFile::open(source, &identity))
                && let Err(fault) = index.each_stream(|stream, version, number| {
                    let position = first.plus(number.into());
                    if is_wanted(position) {
                        told(position, stream, version);
                    }
                })
            {
                tracing::debug!(%first, %fault, "an index tells only a part of what it knew");
            }
        }
        Ok(())
    }

    /// Goes through all that verifies. Positions never go back: what is there twice is passed over.
    pub(super) fn go_through(&self, visit: &mut Visitor<'_>) -> Result<(), Error> {
        let mut next = self.log_start;
        let visit: &mut Visitor<'_> = &mut |passed| match passed {
            Passed::Events(events) => {
                let new = events.partition_point(|event| event.position() < next);
                let events = events.get(new..).unwrap_or_default();
                match events.last() {
                    Some(last) => next = last.position().next(),
                    None => return Ok(()),
                }
                visit(Passed::Events(events))
            }
            other => visit(other),
        };
        for (at, piece) in self.pieces.iter().enumerate() {
            let after = self.pieces.get(at + 1);
            let is_active =
                after.is_none() && self.mark.is_none_or(|mark| mark.segment <= piece.header.first);
            if piece.len != piece.header.segment_size {
                let detail = format!(
                    "the file has {} bytes and was made with {}",
                    piece.len, piece.header.segment_size
                );
                visit(Passed::Damage(piece.corruption(piece.len, Damage::SizeChanged, detail)))?;
            }
            if is_active {
                self.active(piece, visit)?;
                continue;
            }
            let follows = after.filter(|after| piece.header.index.checked_add(1) == Some(after.header.index));
            let scan =
                SegmentScan::new(self.walk(piece)?, &piece.name, follows.map(|after| after.header.first));
            rest(scan, visit)?;
        }
        Ok(())
    }

    /// The last segment: where it ends is judged as an opening would, and what the opening would set aside is left.
    fn active(&self, piece: &Piece, visit: &mut Visitor<'_>) -> Result<(), Error> {
        let segment = SegmentFile { header: piece.header, sealed_len: None, len: piece.len, damage: None };
        let files = Files {
            store: self.store,
            mark: self.mark,
            log_start: self.log_start,
            segments: vec![segment],
            copies: Vec::new(),
            notes: Vec::new(),
        };
        let (mut walk, mut failed) = (self.walk(piece)?, Ok(()));
        let ending = find_end(&files, &mut walk, &mut |_, _, events| {
            failed = visit(Passed::Events(events));
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        failed?;
        let Ending::Damaged(corruption) = ending else { return Ok(()) };
        let (damage, position) = (corruption.damage, walk.place().next);
        let mut scan = SegmentScan::new(walk, &piece.name, None);
        if damage != Damage::SuspectTail {
            pass(&scan.skip(corruption)?, scan.events(), visit)?;
            return rest(scan, visit);
        }
        visit(Passed::Unproven(position))?;
        let take = self.accept_unproven_tail;
        let visit: &mut Visitor<'_> = &mut |passed| match passed {
            Passed::Events(events) if !take => {
                visit(Passed::LeftOut(events.len().try_into().unwrap_or(u64::MAX)))
            }
            other => visit(other),
        };
        pass(&scan.skip(corruption)?, scan.events(), visit)?;
        rest(scan, visit)
    }

    fn walk(&self, piece: &Piece) -> Result<Walk, Error> {
        let file = self.storage.open(&piece.name, Access::Read);
        let file = file.map_err(|e| Error::io(format_args!("open {}", piece.name), e))?;
        Ok(Walk::new(Window::reading(file, piece.len, SEQUENTIAL), &piece.header))
    }
}

fn rest(mut scan: SegmentScan<'_>, visit: &mut Visitor<'_>) -> Result<(), Error> {
    while let Some(found) = scan.next()? {
        pass(&found, scan.events(), visit)?;
    }
    Ok(())
}

fn pass(found: &Scanned, events: &[RecordedEvent], visit: &mut Visitor<'_>) -> Result<(), Error> {
    if let Scanned::Damage { corruption, .. } = found {
        visit(Passed::Damage(corruption.clone()))?;
    }
    visit(Passed::Events(events))
}

impl Piece {
    fn corruption(&self, offset: u64, damage: Damage, detail: String) -> Corruption {
        Corruption { file: self.name.clone(), offset, position: Some(self.header.first), damage, detail }
    }
}

fn file_name(piece: &Piece) -> &str {
    piece.name.rsplit('/').next().unwrap_or(&piece.name)
}

fn read_piece(storage: &dyn Storage, name: &str, store: Option<&StoreFile>) -> Result<Piece, Error> {
    let path = format!("{LOG_FOLDER}/{name}");
    let fault = |e| Error::io(format_args!("read {path}"), e);
    let file = storage.open(&path, Access::Read).map_err(fault)?;
    let len = file.len().map_err(fault)?;
    let page = read_up_to(file.as_ref(), 0, SEGMENT_HEADER).map_err(fault)?;
    let header = match SegmentHeader::decode(&page) {
        Ok(header) => header,
        Err(fault @ BlockFault::Format(_)) => {
            return Err(Error::new(ErrorKind::Unsupported, format!("{path}: {fault}; use a newer everfold")));
        }
        Err(_) => stand_in(storage, name, store, len),
    };
    if header.features.incompat != 0 {
        let message = format!("{path} uses features that this version does not know: use a newer everfold");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(Piece { name: path, header, len })
}

/// In place of a header of which neither copy verifies: the index beside the segment knows the salt, without which no
/// checksum can be checked.
fn stand_in(storage: &dyn Storage, name: &str, store: Option<&StoreFile>, len: u64) -> SegmentHeader {
    let first = segment_first(name).unwrap_or_default();
    let known = index_identity(storage, first).filter(|known| known.first == first);
    SegmentHeader {
        store_id: known.map_or_else(Uuid::nil, |known| known.store_id),
        index: 0,
        first,
        salt: known.map_or(0, |known| known.salt),
        max_body: 0,
        features: Features::default(),
        prev_sealed_len: 0,
        segment_size: store.map_or(len, |store| store.segment_size),
        created_ns: 0,
        prev_chain: 0,
        chain: 0,
    }
}

/// The segment that the index of this name was made of.
fn index_identity(storage: &dyn Storage, first: Position) -> Option<SegmentIdentity> {
    let file = storage.open(&index_name(first), Access::Read).ok()?;
    identity_of(&read_up_to(file.as_ref(), 0, PAGE).ok()?)
}

/// What the store is, as most of its segments say.
fn guess(pieces: &[Piece]) -> Option<StoreFile> {
    let mut votes: HashMap<(Uuid, u64), usize> = HashMap::new();
    for header in pieces.iter().map(|piece| &piece.header).filter(|header| header.salt != 0) {
        *votes.entry((header.store_id, header.segment_size)).or_default() += 1;
    }
    let valid = votes.into_iter().filter(|((_, size), _)| is_segment_size(*size));
    let ((store_id, segment_size), _) = valid.max_by_key(|(store, votes)| (*votes, *store))?;
    Some(StoreFile { store_id, segment_size, features: Features::default(), created_ns: 0, minor: 0 })
}
