//! What came of a damage: everything that a store can be asked is held against what it was.

use std::collections::BTreeSet;

use everfold::{
    AppendError, Cursor, Error, ErrorKind, Event, Expected, LOST_TYPE, MemoryStorage, Options, Position,
    Query, Repair, Store, Version, repair_memory,
};

use super::golden::{Fact, Golden};

/// How a damaged store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All events are there, and every answer is right.
    Whole,
    /// An error names the place, and nothing wrong was given.
    Told,
    /// The events after this position are gone without an error: nothing in the files proves that they were durable.
    Short(u64),
}

/// How a damaged store is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Opened read-only, for writing, or both, one after the other.
    pub(super) reading: bool,
    pub(super) writing: bool,
    /// By lent bytes, as through a map, or by reads.
    pub(super) map: bool,
}

/// Opens it, reads and appends. An error is what may never happen, for people.
pub(super) fn judge(golden: &Golden, damaged: &MemoryStorage, way: Way) -> Result<Verdict, String> {
    let options = Options::new().create(false).map_segments(way.map);
    let provable = golden.provable(damaged);
    let reading = way.reading.then(|| read_only(golden, damaged, options.clone())).transpose()?;
    let writing = way.writing.then(|| for_writing(golden, damaged, options)).transpose()?;
    if reading.is_some() && writing.is_some() && reading != writing {
        return Err(format!("read-only it is {reading:?}, and opened for writing {writing:?}"));
    }
    match writing.or(reading).ok_or("it was not looked at")? {
        Verdict::Short(after) if after < provable => {
            Err(format!("all after position {after} is gone without a word, and {provable} was provable"))
        }
        verdict => Ok(verdict),
    }
}

fn read_only(golden: &Golden, damaged: &MemoryStorage, options: Options) -> Result<Verdict, String> {
    let verdict = match options.read_only(true).verify_on_open(true).open_memory(damaged) {
        Err(error) => told(&error).map(|()| Verdict::Told)?,
        Ok(store) => {
            let verdict = Reading::of(&store, golden)?.verdict;
            if verdict == Verdict::Told && store.recovery().damage.is_empty() {
                return Err("verify_on_open found nothing, and a read met damage".to_owned());
            }
            verdict
        }
    };
    match damaged.operations() {
        0 => Ok(verdict),
        _ => Err("opening read-only changed something".to_owned()),
    }
}

fn for_writing(golden: &Golden, damaged: &MemoryStorage, options: Options) -> Result<Verdict, String> {
    match options.open_memory(damaged) {
        Err(error) => told(&error).map(|()| Verdict::Told),
        Ok(store) => {
            let verdict = Reading::of(&store, golden)?.verdict;
            append(&store, golden, verdict)?;
            Ok(verdict)
        }
    }
}

/// An error that says what is wrong where.
fn told(error: &Error) -> Result<(), String> {
    let placed = match (error.kind(), error.corruption()) {
        (ErrorKind::Corrupt, Some(place)) => !place.file.is_empty() && !place.detail.is_empty(),
        (ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Io, None) => {
            let text = error.to_string();
            ["STORE", "MARK", "log/", "directory"].iter().any(|place| text.contains(place))
        }
        _ => false,
    };
    if placed { Ok(()) } else { Err(format!("an error without a place: {error:?}")) }
}

/// What was read of a store.
struct Reading {
    verdict: Verdict,
    /// The positions of the events that came.
    given: BTreeSet<u64>,
}

impl Reading {
    fn of(store: &Store, golden: &Golden) -> Result<Self, String> {
        let reading = Self::of_log(store, golden)?;
        let bound = if let Verdict::Short(after) = reading.verdict { after } else { golden.last() };
        let there = || golden.facts.iter().filter(|fact| fact.position <= bound);
        for stream in &golden.streams {
            let own = || there().filter(|fact| fact.stream == *stream);
            // What retention has dropped of the stream is not asked for.
            let before = own().next().map_or(Version::NONE, |fact| Version::new(fact.version - 1));
            compare(store.read_stream(stream, before), own(), stream, golden)?;
            compare(store.read_stream_backward(stream, Version::END), own().rev(), stream, golden)?;
        }
        let before = Position::new(golden.first() - 1);
        for tag in &golden.tags {
            let query = Query::all().tags([tag.as_str()]);
            let own = || there().filter(|fact| fact.tags.contains(tag));
            compare(store.read_query(&query, before), own(), tag, golden)?;
            compare(store.read_query_backward(&query, Position::END), own().rev(), tag, golden)?;
        }
        Ok(reading)
    }

    /// Reads the log, and behind each error on.
    fn of_log(store: &Store, golden: &Golden) -> Result<Self, String> {
        let (mut next, mut broken, mut given) = (golden.first(), false, BTreeSet::new());
        let fact =
            |position: u64| usize::try_from(position - golden.first()).ok().and_then(|n| golden.facts.get(n));
        let mut cursor = store.read(Position::new(next - 1));
        loop {
            match cursor.next() {
                Some(Ok(event)) => match fact(next) {
                    Some(fact) if fact.is(&event) => {
                        given.insert(next);
                        next += 1;
                    }
                    _ => return Err(format!("a wrong event came for position {next}: {event:?}")),
                },
                Some(Err(error)) => {
                    told(&error)?;
                    broken = true;
                    next += 1;
                    if next > golden.last() {
                        break;
                    }
                    cursor = store.read(Position::new(next - 1));
                }
                None => break,
            }
        }
        let verdict = match (broken, next > golden.last()) {
            (true, _) => Verdict::Told,
            (false, true) => Verdict::Whole,
            (false, false) => Verdict::Short(next - 1),
        };
        Ok(Reading { verdict, given })
    }
}

/// Events have to come as they were appended, up to all of them, to an error, or to where retention has cut the log off.
fn compare<'a>(
    cursor: Cursor,
    mut expected: impl Iterator<Item = &'a Fact>,
    what: &str,
    golden: &Golden,
) -> Result<(), String> {
    let start = ErrorKind::Truncated { first: Position::new(golden.first()) };
    for event in cursor {
        match (event, expected.next()) {
            (Ok(event), Some(fact)) if fact.is(&event) => {}
            (Err(error), None) if error.kind() == start => return Ok(()),
            (Err(error), _) => return told(&error),
            (Ok(event), fact) => return Err(format!("{what:?} gave {event:?} for {fact:?}")),
        }
    }
    match expected.next() {
        None => Ok(()),
        Some(fact) => Err(format!("{what:?} ended before {fact:?}, without an error")),
    }
}

/// Streams go on where they were, or an error says why not.
fn append(store: &Store, golden: &Golden, verdict: Verdict) -> Result<(), String> {
    let bound = if let Verdict::Short(after) = verdict { after } else { golden.last() };
    let mut versions = golden.gone.clone();
    for stream in golden.streams.iter().take(2) {
        let mut own = golden.facts.iter().filter(|fact| fact.stream == *stream && fact.position <= bound);
        versions.push((stream.clone(), own.next_back().map_or(0, |fact| fact.version)));
    }
    let event = || [Event::raw("more", *b"more")];
    let mut next = bound + 1;
    for (stream, version) in versions {
        if version > 0 {
            match store.append(&stream, Expected::NoStream, event()) {
                Err(AppendError::Conflict(_)) => {}
                Err(AppendError::Failed(error)) => told(&error)?,
                other => return Err(format!("{stream:?} was taken for a new stream: {other:?}")),
            }
        }
        let expected = if version == 0 { Expected::NoStream } else { Version::new(version).into() };
        match store.append(&stream, expected, event()) {
            Ok(done) if (done.position.get(), done.version.get()) == (next, version + 1) => next += 1,
            Err(AppendError::Failed(error)) => told(&error)?,
            other => return Err(format!("{stream:?} at version {version}, position {next}: {other:?}")),
        }
    }
    Ok(())
}

/// Repairs a damaged store into a new one. An error is what may never happen, for people.
pub(super) fn repair(golden: &Golden, damaged: &MemoryStorage) -> Result<(), String> {
    let options = Options::new().read_only(true);
    let mut readable: BTreeSet<u64> = golden.intact(damaged).into_iter().collect();
    if let Ok(store) = options.open_memory(damaged) {
        readable.extend(Reading::of_log(&store, golden)?.given);
    }
    let new = MemoryStorage::new();
    let report = match repair_memory(damaged, &new, &Repair::new()) {
        Ok(report) => report,
        Err(error) => {
            told(&error)?;
            return match readable.len() {
                0 => Ok(()),
                events => Err(format!("{events} events are readable, and a repair fails: {error}")),
            };
        }
    };
    if damaged.operations() > 0 {
        return Err("a repair changed the damaged store".to_owned());
    }
    let store = options.open_memory(&new).map_err(|e| format!("the repaired store does not open: {e}"))?;
    for event in store.read(Position::new(store.log_start().get() - 1)) {
        let event = event.map_err(|e| format!("the repaired store is damaged: {e}"))?;
        let position = event.position().get();
        let fact = golden.facts.iter().find(|fact| fact.position == position);
        match fact {
            Some(fact) if fact.is(&event) => drop(readable.remove(&position)),
            _ if event.event_type() == LOST_TYPE => {}
            _ => return Err(format!("a repair changed an event: {event:?} for {fact:?}")),
        }
    }
    // What nothing proves to have been acknowledged is taken only where that is asked for.
    if let Some(unproven) = report.unproven.filter(|unproven| !unproven.accepted) {
        readable.retain(|position| *position < unproven.position.get());
    }
    match readable.first() {
        None => Ok(()),
        Some(first) => {
            Err(format!("{} readable events were not saved, position {first} first", readable.len()))
        }
    }
}
