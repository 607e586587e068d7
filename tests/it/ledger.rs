//! What a test asked a store to record, kept outside of it: the plain list that the store is held against.

use everfold::{
    AppendError, Batch, Durability, Error, ErrorKind, Event, Options, Position, RecordedEvent, Store, Uuid,
    Version,
};

/// Options of the smallest store, in which nothing happens unless a test asks for it.
pub(crate) fn small() -> Options {
    let never = std::time::Duration::from_secs(1 << 20);
    Options::new().segment_size(everfold::MIN_SEGMENT_BYTES).sync_after(never)
}

/// All of an event that a store has to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) position: u64,
    pub(crate) stream: String,
    pub(crate) version: u64,
    pub(crate) id: Uuid,
    pub(crate) kind: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Option<Vec<u8>>,
}

impl From<&RecordedEvent> for Fact {
    fn from(event: &RecordedEvent) -> Self {
        Fact {
            position: event.position().get(),
            stream: event.stream().to_owned(),
            version: event.version().get(),
            id: event.event_id(),
            kind: event.event_type().to_owned(),
            payload: event.payload().to_vec(),
            tags: event.tags().map(str::to_owned).collect(),
            metadata: event.metadata().map(<[u8]>::to_vec),
        }
    }
}

impl Fact {
    pub(crate) fn event(&self) -> Event {
        let event = Event::raw(self.kind.clone(), self.payload.clone()).id(self.id);
        let event = self.tags.iter().fold(event, |event, tag| event.tag(tag.clone()));
        match &self.metadata {
            Some(metadata) => event.metadata(metadata.clone()),
            None => event,
        }
    }
}

/// Everything that can be read, which must be gapless from 1.
pub(crate) fn facts(store: &Store) -> Vec<Fact> {
    try_facts(store).unwrap()
}

/// The same, or the error that a read meets.
pub(crate) fn try_facts(store: &Store) -> Result<Vec<Fact>, Error> {
    let facts: Vec<Fact> =
        store.read(Position::START).map(|e| e.map(|e| Fact::from(&e))).collect::<Result<_, _>>()?;
    for (fact, position) in facts.iter().zip(1..) {
        assert_eq!(fact.position, position, "positions are gapless");
    }
    Ok(facts)
}

/// Batches in the order in which they were appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) batches: Vec<Vec<Fact>>,
    /// How many of the batches are acknowledged as durable, and how many as written or better.
    pub(crate) durable: usize,
    pub(crate) written: usize,
    made: u64,
}

impl Ledger {
    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.batches.concat()
    }

    pub(crate) fn len(&self) -> u64 {
        self.batches.iter().map(|batch| u64::try_from(batch.len()).unwrap()).sum()
    }

    pub(crate) fn version(&self, stream: &str) -> u64 {
        let own = self.batches.iter().flatten().filter(|fact| fact.stream == stream);
        own.map(|fact| fact.version).max().unwrap_or(0)
    }

    /// Makes up a batch with these payload sizes. Each event is unlike any other, and no byte of a payload is zero.
    pub(crate) fn make(&mut self, sizes: &[usize]) -> Vec<Fact> {
        let mut batch: Vec<Fact> = Vec::new();
        for size in sizes {
            self.made += 1;
            let n = self.made;
            let stream = format!("stream-{}", n % 3);
            let before = batch.iter().filter(|fact| fact.stream == stream).count();
            let version = self.version(&stream) + u64::try_from(before).unwrap() + 1;
            let text = format!("payload {n} ");
            batch.push(Fact {
                position: self.len() + u64::try_from(batch.len()).unwrap() + 1,
                stream,
                version,
                id: Uuid::new_v4(),
                kind: format!("kind-{}", n % 4),
                payload: text.bytes().cycle().take(*size).collect(),
                tags: (0..n % 3).map(|tag| format!("tag:{tag}")).collect(),
                metadata: n.is_multiple_of(2).then(|| text.clone().into_bytes()),
            });
        }
        batch
    }

    /// Appends a batch and keeps it if it was, or may have been, recorded.
    pub(crate) fn append(
        &mut self,
        store: &Store,
        batch: Vec<Fact>,
        durability: Durability,
    ) -> Result<(), ErrorKind> {
        let request =
            batch.iter().fold(Batch::new(), |request, fact| request.event(fact.stream.clone(), fact.event()));
        match store.append_batch(request.durability(durability)) {
            Ok(done) => {
                let (first, last) = (batch.first().unwrap(), batch.last().unwrap());
                assert_eq!((done.first.get(), done.position.get()), (first.position, last.position));
                assert_eq!((done.version, done.repeated), (Version::new(last.version), false));
                self.batches.push(batch);
                self.acknowledge(durability);
                Ok(())
            }
            Err(AppendError::Failed(error)) => {
                if error.kind() == ErrorKind::Indeterminate {
                    self.batches.push(batch);
                }
                Err(error.kind())
            }
            Err(other) => {
                assert!(other.conflict().is_none(), "there was no guard: {other}");
                Err(ErrorKind::Invalid)
            }
        }
    }

    /// Notes that everything so far is as safe as this.
    pub(crate) fn acknowledge(&mut self, durability: Durability) {
        if durability >= Durability::Written {
            self.written = self.batches.len();
        }
        if durability == Durability::Durable {
            self.durable = self.batches.len();
        }
    }

    /// Checks that these events are the first batches of the ledger, whole and unchanged, and no fewer than
    /// `at_least`. Returns how many.
    pub(crate) fn check(&self, found: &[Fact], at_least: usize, what: &str) -> usize {
        let mut rest = found;
        let mut whole = 0;
        for batch in &self.batches {
            if rest.is_empty() {
                break;
            }
            assert!(rest.len() >= batch.len(), "{what}: batch {whole} was recovered in part");
            let (own, after) = rest.split_at(batch.len());
            assert_eq!(own, batch, "{what}: batch {whole} came back changed");
            (rest, whole) = (after, whole + 1);
        }
        assert!(rest.is_empty(), "{what}: there are events that were never appended: {rest:?}");
        assert!(whole >= at_least, "{what}: {whole} batches are there, and {at_least} were acknowledged");
        whole
    }

    /// Takes what was found for what there is.
    pub(crate) fn keep(&mut self, batches: usize) {
        self.batches.truncate(batches);
        self.durable = batches;
        self.written = batches;
    }
}
