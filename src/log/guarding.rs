//! What has to hold before a batch gets its place: its ids are new, its guards hold, its streams' versions are known.
//!
//! Sealed segments do not change, so whoever appends looks there before the batch is queued; the writer then looks
//! only at what came since.

use std::sync::{Arc, PoisonError, RwLockReadGuard};

use uuid::Uuid;

use super::catalog::Catalog;
use super::index::key::{Key, Kind};
use super::index::memory::MemoryIndex;
use super::index::{Lookup as _, SegmentIndex};
use super::lookup::{StreamEnd, WithId};
use super::matching::Prepared;
use super::request::Request;
use super::segment::Segment;
use super::source::QuerySource;
use crate::batch::Appended;
use crate::error::{AppendError, Error, ErrorKind};
use crate::event::{Position, Version};
use crate::guard::{Conflict, Guard};
use crate::query::Query;

/// What was looked up in segments below the one that was active then.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The numbers of the first segment and of that one.
    between: Option<(u64, u64)>,
    /// By key; of streams that the active segment did not have.
    ends: Vec<Option<StreamEnd>>,
    /// By guard.
    guards: Vec<KnownGuard>,
    /// Events that have ids of the request's, by the number of the request's event.
    ids: Vec<(usize, WithId)>,
}

#[derive(Debug)]
enum KnownGuard {
    /// The active segment has the stream.
    Active,
    End(StreamEnd),
    /// Up to the position, which was durable then, the last event that matches is this one.
    Match {
        query: Arc<Prepared>,
        up_to: Position,
        last: Option<Position>,
    },
}

impl Known {
    /// Looks up what a request needs. What cannot be looked up is left to the writer, which then tells why.
    pub(crate) fn look_up(catalog: &Arc<Catalog>, request: &Request) -> Self {
        Self::try_look_up(catalog, request).unwrap_or_default()
    }

    fn try_look_up(catalog: &Arc<Catalog>, request: &Request) -> Result<Self, Error> {
        let (first, active) = catalog.numbers();
        let up_to = catalog.watermark.get();
        let in_active = Active::of(catalog);
        let end = |key: &Key<'_>| match in_active.end_of(key) {
            Some(_) => Ok(None),
            None => catalog.end_below(key, active).map(|end| Some(end.unwrap_or_default())),
        };
        let mut ends = Vec::new();
        // Without sealed segments there is nothing to know.
        if active > first {
            ends.reserve(request.keys().len());
            for key in request.keys() {
                ends.push(if key.kind == Kind::Stream { end(&key)? } else { None });
            }
        }
        let mut guards = Vec::with_capacity(request.guards.len());
        for guard in &request.guards {
            guards.push(match guard {
                Guard::Version { stream, .. } => {
                    let end = end(&catalog.hasher.key(Kind::Stream, stream))?;
                    end.map_or(KnownGuard::Active, KnownGuard::End)
                }
                Guard::NoEvent { query, after } => {
                    let query = Arc::new(Prepared::new(query, catalog.hasher));
                    let last = last_match(catalog, &query, *after, up_to)?;
                    KnownGuard::Match { query, up_to, last }
                }
            });
        }
        let ids = match active == first {
            true => Vec::new(),
            false => {
                let ids: Vec<Uuid> = request.records().iter().map(|record| record.id).collect();
                catalog.find_ids(&ids, active)?
            }
        };
        Ok(Known { between: Some((first, active)), ends, guards, ids })
    }
}

/// The active segment, to look for streams in.
struct Active {
    segment: Option<Arc<Segment>>,
    index: Option<Arc<SegmentIndex>>,
}

impl Active {
    fn of(catalog: &Catalog) -> Self {
        let (_, active) = catalog.numbers();
        let segment = catalog.segment(active);
        let index = segment.as_ref().and_then(|segment| segment.index());
        Active { segment, index }
    }

    fn memory(&self) -> Option<RwLockReadGuard<'_, MemoryIndex>> {
        let memory = self.index.as_ref()?.memory()?;
        Some(memory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last event of a stream in it.
    fn end_of(&self, stream: &Key<'_>) -> Option<StreamEnd> {
        let found = self.memory()?.find(stream).ok().flatten()?;
        let position = self.segment.as_ref()?.position(found.last);
        Some(StreamEnd { version: found.version, position })
    }
}

/// The last event after a position, up to one, that matches a query.
fn last_match(
    catalog: &Catalog,
    query: &Arc<Prepared>,
    after: Position,
    up_to: Position,
) -> Result<Option<Position>, Error> {
    if after >= up_to {
        return Ok(None);
    }
    if query.is_all() {
        return Ok(Some(up_to));
    }
    QuerySource::last_of(query.clone(), up_to, after.next()).next_position(catalog).transpose()
}

/// Decides on requests for the one who holds the writer: nothing is added to the log meanwhile.
#[derive(Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) catalog: &'a Arc<Catalog>,
    /// The last position given to an event, durable or not.
    pub(crate) last: Position,
}

impl Decision<'_> {
    /// What was looked up, if the segments are still the same.
    fn known<'k>(&self, request: &'k Request) -> Option<&'k Known> {
        let segments = self.catalog.numbers();
        Some(&request.known).filter(|known| known.between == Some(segments))
    }

    fn end_of(&self, stream: &Key<'_>, known: Option<StreamEnd>) -> Result<StreamEnd, Error> {
        match (Active::of(self.catalog).end_of(stream), known) {
            (Some(end), _) | (None, Some(end)) => Ok(end),
            (None, None) => self.catalog.end_of(stream),
        }
    }

    /// Lists the version of each of the request's streams, by key.
    pub(crate) fn versions(&self, request: &Request, versions: &mut Vec<Version>) -> Result<(), Error> {
        let known = self.known(request);
        let active = Active::of(self.catalog);
        let memory = active.memory();
        let (_, last) = self.catalog.numbers();
        for (number, key) in request.keys().enumerate() {
            if key.kind != Kind::Stream {
                versions.push(Version::NONE);
                continue;
            }
            let in_memory = memory.as_ref().and_then(|memory| memory.version(memory.key_number(&key)?));
            let known = known.and_then(|known| known.ends.get(number).copied().flatten());
            versions.push(match (in_memory, known) {
                (Some(version), _) => version,
                (None, Some(end)) => end.version,
                (None, None) => self.catalog.end_below(&key, last)?.unwrap_or_default().version,
            });
        }
        Ok(())
    }

    /// Checks the guards in turn.
    pub(crate) fn check_guards(&self, request: &Request) -> Result<(), AppendError> {
        for (number, guard) in request.guards.iter().enumerate() {
            let broken = match guard {
                Guard::Version { stream, expected } => {
                    let known = self.known(request).and_then(|known| match known.guards.get(number) {
                        Some(KnownGuard::End(end)) => Some(*end),
                        Some(KnownGuard::Active | KnownGuard::Match { .. }) | None => None,
                    });
                    let end = self.end_of(&self.catalog.hasher.key(Kind::Stream, stream), known)?;
                    (!expected.holds(end.version)).then_some((end.position, Some(end.version)))
                }
                Guard::NoEvent { query, after } => {
                    // What is durable does not change, whichever segment is active.
                    let known = request.known.guards.get(number);
                    self.last_match(query, *after, known)?.map(|position| (position, None))
                }
            };
            if let Some((position, actual)) = broken {
                return Err(Conflict { guard: guard.clone(), number, position, actual }.into());
            }
        }
        Ok(())
    }

    fn last_match(
        &self,
        query: &Query,
        after: Position,
        known: Option<&KnownGuard>,
    ) -> Result<Option<Position>, Error> {
        match known {
            Some(KnownGuard::Match { query, up_to, last }) => {
                let newer = last_match(self.catalog, query, after.max(*up_to), self.last)?;
                Ok(newer.or(*last))
            }
            _ => {
                let query = Arc::new(Prepared::new(query, self.catalog.hasher));
                last_match(self.catalog, &query, after, self.last)
            }
        }
    }

    /// Where the batch's events were recorded, if they were: by their ids, in the same streams and order.
    pub(crate) fn repeated(&self, request: &Request) -> Result<Option<Appended>, Error> {
        let found = self.recorded(request)?;
        let Some(first) = found.first().map(|(_, event)| event.position) else { return Ok(None) };
        let mut version = None;
        let mut same = found.len() == request.records().len();
        for (expected, (number, event)) in (first.get()..).zip(&found) {
            let record = request.records().get(*number);
            let stream = record.and_then(|record| request.key(request.uses(record).first().copied()?));
            version = match stream {
                Some(stream) => self.catalog.version_in(event, &stream)?,
                None => None,
            };
            same = same && event.position.get() == expected && version.is_some();
        }
        if !same {
            return Err(Error::new(
                ErrorKind::IdTaken { position: first },
                format!(
                    "an event id of the batch is recorded at position {first}, but the batch as a whole is not; nothing was written: use new ids for new events"
                ),
            ));
        }
        let version = version.unwrap_or_default();
        let position = first.plus(u64::from(request.events())).previous();
        Ok(Some(Appended { first, position, version, repeated: true }))
    }

    /// The events that have ids of the request's, in the request's order.
    fn recorded(&self, request: &Request) -> Result<Vec<(usize, WithId)>, Error> {
        let (_, active) = self.catalog.numbers();
        let mut found = match self.known(request) {
            Some(known) => known.ids.clone(),
            None => {
                let ids: Vec<Uuid> = request.records().iter().map(|record| record.id).collect();
                self.catalog.find_ids(&ids, active)?
            }
        };
        let active = Active::of(self.catalog);
        if let (Some(segment), Some(index)) = (&active.segment, active.memory()) {
            for (number, record) in request.records().iter().enumerate() {
                let event = index.find_id(record.id).map(|event| WithId::in_segment(segment, event));
                found.extend(event.map(|event| (number, event)));
            }
        }
        found.sort_by_key(|(number, _)| *number);
        found.dedup_by_key(|(number, _)| *number);
        Ok(found)
    }
}
