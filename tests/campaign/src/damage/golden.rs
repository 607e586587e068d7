//! The golden stores in memory: their files, what is to be read from them, and what their bytes prove.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use everfold::{MemoryStorage, Options, Position, RecordedEvent, Uuid};

const CASES: [&str; 4] = ["clean", "rolled", "retained", "unclean"];
/// Of these too a file may be put in the place of one of the others.
const STRANGERS: [&str; 2] = ["torn_tail", "flipped_bit"];

/// All of an event that a store has to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) position: u64,
    pub(super) stream: String,
    pub(super) version: u64,
    id: Uuid,
    kind: String,
    recorded_at_ns: u64,
    payload: Vec<u8>,
    metadata: Option<Vec<u8>>,
    pub(super) tags: Vec<String>,
}

impl Fact {
    fn of(event: &RecordedEvent) -> Self {
        Fact {
            position: event.position().get(),
            stream: event.stream().to_owned(),
            version: event.version().get(),
            id: event.event_id(),
            kind: event.event_type().to_owned(),
            recorded_at_ns: event.recorded_at_ns(),
            payload: event.payload().to_vec(),
            metadata: event.metadata().map(<[u8]>::to_vec),
            tags: event.tags().map(str::to_owned).collect(),
        }
    }

    pub(super) fn is(&self, event: &RecordedEvent) -> bool {
        self.position == event.position().get()
            && self.stream == event.stream()
            && self.version == event.version().get()
            && self.id == event.event_id()
            && self.kind == event.event_type()
            && self.recorded_at_ns == event.recorded_at_ns()
            && self.payload == event.payload()
            && self.metadata.as_deref() == event.metadata()
            && self.tags.iter().map(String::as_str).eq(event.tags())
    }
}

/// A golden store.
pub(super) struct Golden {
    pub(super) name: &'static str,
    pub(super) storage: MemoryStorage,
    /// The files that count, by name.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// What may be put in the place of a file: another of its kind, of this store and of the others.
    pub(super) strangers: BTreeMap<String, Vec<(String, Vec<u8>)>>,
    pub(super) facts: Vec<Fact>,
    pub(super) streams: BTreeSet<String>,
    pub(super) tags: BTreeSet<String>,
    /// Streams whose events retention has dropped, with their last versions.
    pub(super) gone: Vec<(String, u64)>,
}

/// A frame as its header tells, read here by the format's description.
pub(super) struct Frame {
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) events: u64,
    pub(super) last: u64,
    durable: u64,
}

pub(super) fn load() -> Result<Vec<Golden>, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/v1");
    let all: BTreeMap<&str, BTreeMap<String, Vec<u8>>> = CASES
        .into_iter()
        .chain(STRANGERS)
        .map(|name| Ok((name, read_files(&root.join(name))?)))
        .collect::<Result<_, String>>()?;
    CASES.into_iter().map(|name| Golden::new(name, &all)).collect()
}

fn read_files(store: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let read = |name: String| {
        let path = store.join(&name);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok((name, bytes))
    };
    let log = std::fs::read_dir(store.join("log")).map_err(|e| format!("{}: {e}", store.display()))?;
    let log = log.filter_map(Result::ok).map(|entry| format!("log/{}", entry.file_name().to_string_lossy()));
    ["STORE".to_owned(), "MARK".to_owned()].into_iter().chain(log).map(read).collect()
}

/// What a file is, by its name.
fn kind(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, kind)| kind)
}

impl Golden {
    fn new(name: &'static str, all: &BTreeMap<&str, BTreeMap<String, Vec<u8>>>) -> Result<Self, String> {
        let files = all.get(name).cloned().unwrap_or_default();
        let storage = MemoryStorage::new();
        for (file, bytes) in &files {
            storage.put(file, bytes).map_err(|e| format!("{name}/{file}: {e}"))?;
        }
        let mut strangers: BTreeMap<String, Vec<(String, Vec<u8>)>> = BTreeMap::new();
        for (file, own) in &files {
            for (store, others) in all {
                let others =
                    others.iter().filter(|(other, bytes)| kind(other) == kind(file) && *bytes != own);
                let named = others.map(|(other, bytes)| (format!("{store}/{other}"), bytes.clone()));
                strangers.entry(file.clone()).or_default().extend(named);
            }
        }
        let store = Options::new().read_only(true).open_memory(&storage).map_err(|e| e.to_string())?;
        let events = store.read(Position::new(store.log_start().get() - 1));
        let facts: Vec<Fact> = events
            .map(|event| event.map(|e| Fact::of(&e)))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let gone = if name == "retained" { vec![("cart-early".to_owned(), 40)] } else { Vec::new() };
        let streams = facts.iter().map(|fact| fact.stream.clone()).collect();
        let tags = facts.iter().flat_map(|fact| fact.tags.clone()).collect();
        Ok(Golden { name, storage, files, strangers, facts, streams, tags, gone })
    }

    pub(super) fn first(&self) -> u64 {
        self.facts.first().map_or(1, |fact| fact.position)
    }

    pub(super) fn last(&self) -> u64 {
        self.facts.last().map_or(0, |fact| fact.position)
    }

    /// The last position that the files prove to have been durable, by what in them is as it was: a slot of the mark, the
    /// header of a frame, the header of a segment.
    pub(super) fn provable(&self, damaged: &MemoryStorage) -> u64 {
        let mut proven = 0;
        for (name, was) in self.files.iter().filter(|(name, _)| *name == "MARK" || kind(name) == "seg") {
            let Some(is) = damaged.file(name) else { continue };
            let same = |from: usize, len: usize| is.get(from..from + len) == was.get(from..from + len);
            if name == "MARK" {
                for slot in [0, 4096] {
                    if same(slot, 4096) {
                        proven = proven.max(u64_at(was, slot + 40));
                    }
                }
                continue;
            }
            if same(0, 512) || same(2048, 512) {
                proven = proven.max(u64_at(was, 40).saturating_sub(1));
            }
            let frames = frames(was).into_iter().filter(|frame| same(frame.offset, 64));
            proven = frames.fold(proven, |proven, frame| proven.max(frame.durable));
        }
        proven
    }

    /// The positions of the events whose frames are as they were, in segments whose header can be read.
    pub(super) fn intact(&self, damaged: &MemoryStorage) -> Vec<u64> {
        let mut intact = Vec::new();
        for (name, was) in self.files.iter().filter(|(name, _)| kind(name) == "seg") {
            let Some(is) = damaged.file(name) else { continue };
            let same = |from: usize, len: usize| is.get(from..from + len) == was.get(from..from + len);
            if same(0, 512) || same(2048, 512) {
                let whole = frames(was).into_iter().filter(|frame| same(frame.offset, frame.len));
                intact.extend(whole.flat_map(|frame| frame.last + 1 - frame.events..=frame.last));
            }
        }
        intact
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u64_at(bytes, at) & 0xffff_ffff
}

/// The frames of a segment that is as it was written.
pub(super) fn frames(segment: &[u8]) -> Vec<Frame> {
    let (mut frames, mut offset) = (Vec::new(), 4096);
    while segment.get(offset..offset + 4) == Some(b"FRM1") {
        let len = 72 + usize::try_from(u32_at(segment, offset + 8)).unwrap_or(usize::MAX >> 1);
        let (events, first) = (u32_at(segment, offset + 12), u64_at(segment, offset + 16));
        let (last, durable) = ((first + events).saturating_sub(1), u64_at(segment, offset + 24));
        frames.push(Frame { offset, len, events, last, durable });
        offset += len;
    }
    frames
}
