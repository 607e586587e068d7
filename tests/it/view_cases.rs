//! A store with two views, and what can become of the files of one of them. Used by `view_damage`, and by the campaign
//! `views` in `tests/campaign`; so it names nothing of either.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everfold::{
    ApplyError, Batch, Event, Options, Position, Projection, RecordedEvent, Store, View, ViewBatch,
};

/// The folder whose files are damaged, and that of the other view of the same store.
pub(crate) const FOLDER: &str = "views/tally/4";
const OTHER_FOLDER: &str = "views/other/4";
const STREAMS: u64 = 300;
const SEGMENT: usize = 512 << 10;

type Rows = BTreeMap<String, Vec<u8>>;

/// The rows depend on every event of their stream, and some are removed again: a lost or repeated event shows.
pub(crate) struct Tally<const OTHER: bool>;

fn next_value(event: &RecordedEvent, before: Option<Vec<u8>>) -> Option<Vec<u8>> {
    if event.event_type() == "gone" {
        return None;
    }
    let mut value = before.unwrap_or_default();
    value.extend_from_slice(event.payload());
    Some(value)
}

impl<const OTHER: bool> Projection for Tally<OTHER> {
    const NAME: &'static str = if OTHER { "other" } else { "tally" };
    const GENERATION: u32 = 4;
    type Key = String;
    type Value = Vec<u8>;

    fn apply(&self, e: &RecordedEvent, view: &mut ViewBatch<String, Vec<u8>>) -> Result<(), ApplyError> {
        view.update(e.stream().to_owned(), |before| next_value(e, before))
    }
}

/// The same fold, in a plain map.
fn fold(store: &Store) -> Result<Rows, String> {
    let mut rows = Rows::new();
    for event in store.read(Position::START) {
        let event = event.map_err(|e| format!("the log cannot be read: {e}"))?;
        let before = rows.remove(event.stream());
        if let Some(value) = next_value(&event, before) {
            rows.insert(event.stream().to_owned(), value);
        }
    }
    Ok(rows)
}

fn options() -> Options {
    Options::new().segment_size(256 << 10).view_cache_bytes(1 << 20).view_memory_bytes(64 << 10)
}

fn text<E: std::fmt::Display>(doing: &str) -> impl Fn(E) -> String {
    move |error| format!("{doing}: {error}")
}

pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The files below a folder, by their names in it, in order.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?.into_iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Directories of stores, each as it was at one time.
pub(crate) struct Specimens {
    home: PathBuf,
    verified: bool,
}

/// Which of them is damaged.
pub(crate) const DAMAGED: [&str; 2] = ["closed", "live"];
/// Those that files are taken from: earlier, later, live states of the same store, and another store.
pub(crate) const SOURCES: [&str; 5] = ["first", "second", "closed", "live", "foreign"];

impl Specimens {
    pub(crate) fn at(home: &Path) -> Self {
        Specimens { home: home.to_owned(), verified: true }
    }

    /// Whether views are held against their digest when they are opened.
    pub(crate) fn verified(self, verified: bool) -> Self {
        Specimens { verified, ..self }
    }

    /// Makes them: a store that is closed and copied at three times, and copied once while it is open and written.
    pub(crate) fn make(home: &Path) -> Result<Self, String> {
        let specimens = Specimens::at(home);
        let work = home.join("work");
        let keep = |name: &str| copy(&work, &specimens.store(name)).map_err(text("copy"));
        for (round, name) in [(1, "first"), (2, "second")] {
            let store = open(&work)?;
            append(&store, round)?;
            agree::<false>(&store)?;
            agree::<true>(&store)?;
            store.close().map_err(text("close"))?;
            keep(name)?;
        }
        let store = open(&work)?;
        let _views = (agree::<false>(&store)?, agree::<true>(&store)?);
        for round in 3..6 {
            append(&store, round)?;
            agree::<false>(&store)?;
            agree::<true>(&store)?;
            // sled writes out what it has about once a second.
            std::thread::sleep(Duration::from_millis(700));
        }
        keep("live")?;
        append(&store, 6)?;
        agree::<false>(&store)?;
        store.close().map_err(text("close"))?;
        keep("closed")?;
        let foreign = open(&specimens.store("foreign"))?;
        append(&foreign, 1)?;
        agree::<false>(&foreign)?;
        foreign.close().map_err(text("close"))?;
        Ok(specimens)
    }

    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A file of the view in one of them.
    pub(crate) fn file(&self, store: &str, file: &str) -> PathBuf {
        self.store(store).join(FOLDER).join(file)
    }

    /// Damages a copy of a store, and looks what becomes of it.
    pub(crate) fn judge(&self, store: &str, damage: &Damage, scratch: &Path) -> Result<Outcome, String> {
        let path = scratch.join("store");
        let _ = fs::remove_dir_all(&path);
        copy(&self.store(store), &path).map_err(text("copy"))?;
        damage.apply(self, &path).map_err(text("damage"))?;
        judge(&path, damage.meets_the_other(), self.verified)
    }
}

fn open(path: &Path) -> Result<Store, String> {
    options().open(path).map_err(text("the store does not open"))
}

/// One batch of events in the log: rows of some bytes up to several pieces, changed, removed and made again.
fn append(store: &Store, round: u64) -> Result<(), String> {
    let mut batch = Batch::new();
    for n in 0..STREAMS {
        if (n + round).is_multiple_of(3) {
            continue;
        }
        let event_type = if (n * round) % 11 == 7 { "gone" } else { "more" };
        // Enough that each life of the store fills several of sled's segments of 512 KiB.
        let len = usize::try_from(if n % 37 == 5 { 3000 } else { 200 + 5 * n }).map_err(text("a length"))?;
        let payload: Vec<u8> =
            (0..=255).cycle().skip(usize::from(round.to_le_bytes()[0])).take(len).collect();
        batch = batch.event(format!("stream-{n}"), Event::raw(event_type, payload));
    }
    store.append_batch(batch).map(drop).map_err(text("append"))
}

/// Waits for a view, and holds it against the fold of the log.
fn agree<const OTHER: bool>(store: &Store) -> Result<View<String, Vec<u8>>, String> {
    let name = Tally::<OTHER>::NAME;
    let view = store.project(Tally::<OTHER>).map_err(text(&format!("view {name} does not open")))?;
    view.wait_for(store.watermark(), Duration::from_secs(60)).map_err(text(&format!("wait for {name}")))?;
    let found = view.iter().collect::<Result<Vec<_>, _>>().map_err(text(&format!("read {name}")))?;
    let expected = fold(store)?;
    if found.len() != expected.len() || view.len() != u64::try_from(expected.len()).unwrap_or(u64::MAX) {
        return Err(format!(
            "WRONG: {name} has {} rows of {}, and says {}",
            found.len(),
            expected.len(),
            view.len()
        ));
    }
    match found.into_iter().zip(expected).find(|(found, expected)| found != expected) {
        Some((found, _)) => Err(format!("WRONG: {name} at {:?}", found.0)),
        None => Ok(view),
    }
}

/// What became of a damaged view that is right in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went on from what was there.
    Served,
    /// It was set aside and made anew, and says so.
    MadeAnew,
}

fn judge(path: &Path, both: bool, verified: bool) -> Result<Outcome, String> {
    let log = log_of(path)?;
    let store = options().verify_views(verified).open(path).map_err(text("the store does not open"))?;
    let last = store.watermark();
    let view = agree::<false>(&store)?;
    let other = agree::<true>(&store)?;
    let because = view.status().rebuilt_because;
    if !both && let Some(why) = other.status().rebuilt_because {
        return Err(format!("WRONG: the other view was made anew: {why}"));
    }
    if store.watermark() != last {
        return Err("WRONG: the log has grown".into());
    }
    store.close().map_err(text("close"))?;
    for (name, bytes) in log {
        let now = fs::read(path.join("log").join(&name)).map_err(text(&name))?;
        if !now.starts_with(&bytes) {
            return Err(format!("WRONG: {name} of the log has changed"));
        }
    }
    let quarantined = fs::read_dir(path.join("quarantine")).map_err(text("quarantine"))?.count();
    match (&because, quarantined) {
        (None, 0) => {}
        (Some(why), 1..) if why.contains("quarantine/") => {}
        (because, kept) => return Err(format!("WRONG: {kept} in quarantine, and told {because:?}")),
    }
    // What stands there now is sound, and has events to go on with.
    let store = open(path)?;
    append(&store, 7)?;
    if let Some(why) = agree::<false>(&store)?.status().rebuilt_because {
        return Err(format!("WRONG: made anew once more: {why}"));
    }
    store.close().map_err(text("close"))?;
    Ok(if because.is_some() { Outcome::MadeAnew } else { Outcome::Served })
}

/// The segments of a log up to their last byte that is not zero.
fn log_of(path: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut segments = Vec::new();
    for name in
        files(&path.join("log")).map_err(text("log"))?.into_iter().filter(|name| name.ends_with(".seg"))
    {
        let mut bytes = fs::read(path.join("log").join(&name)).map_err(text(&name))?;
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        segments.push((name, bytes));
    }
    Ok(segments)
}

/// One thing that happens to the files of a view.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Flip {
        file: String,
        bit: u64,
    },
    Truncate {
        file: String,
        len: u64,
    },
    Delete {
        file: String,
    },
    /// Bytes behind the end: zeros or noise.
    Extend {
        file: String,
        by: u64,
        noise: bool,
    },
    /// A range of zeros or noise.
    Overwrite {
        file: String,
        at: u64,
        len: u64,
        noise: bool,
    },
    /// The file as it is in another state or store; one that is not there is deleted.
    FileFrom {
        file: String,
        store: &'static str,
    },
    /// All files as they are in another state or store.
    AllFrom {
        store: &'static str,
    },
    /// All files but one as they are in another state or store.
    AllButOneFrom {
        file: String,
        store: &'static str,
    },
    /// The file as the other view of the store has it, and the other way round.
    SwapFile {
        file: String,
    },
    SwapAll,
    DeleteAll,
    /// The generation's folder comes back under another number, as its own folder and beside it.
    OfAnotherGeneration,
}

fn noise(at: u64) -> u8 {
    (at.wrapping_add(77).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).to_le_bytes()[0]
}

impl Damage {
    /// Whether the other view is damaged as well.
    pub(crate) fn meets_the_other(&self) -> bool {
        matches!(self, Damage::SwapFile { .. } | Damage::SwapAll)
    }

    fn apply(&self, specimens: &Specimens, store: &Path) -> io::Result<()> {
        let folder = store.join(FOLDER);
        match self {
            Damage::Flip { file, bit } => change(&folder.join(file), |bytes| {
                if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|at| bytes.get_mut(at)) {
                    *byte ^= 1 << (bit % 8);
                }
            }),
            Damage::Truncate { file, len } => {
                fs::OpenOptions::new().write(true).open(folder.join(file))?.set_len(*len)
            }
            Damage::Delete { file } => fs::remove_file(folder.join(file)),
            Damage::Extend { file, by, noise: noisy } => change(&folder.join(file), |bytes| {
                bytes.extend((0..*by).map(|at| if *noisy { noise(at) } else { 0 }));
            }),
            Damage::Overwrite { file, at, len, noise: noisy } => change(&folder.join(file), |bytes| {
                let (at, len) = (usize::try_from(*at).unwrap_or(0), usize::try_from(*len).unwrap_or(0));
                for (n, byte) in (0..).zip(bytes.iter_mut().skip(at).take(len)) {
                    *byte = if *noisy { noise(n) } else { 0 };
                }
            }),
            Damage::FileFrom { file, store } => replace(&specimens.file(store, file), &folder.join(file)),
            Damage::AllFrom { store } => replace_all(&specimens.store(store).join(FOLDER), &folder),
            Damage::AllButOneFrom { file, store } => {
                let kept = fs::read(folder.join(file))?;
                replace_all(&specimens.store(store).join(FOLDER), &folder)?;
                fs::write(folder.join(file), kept)
            }
            Damage::SwapFile { file } => swap(&folder.join(file), &store.join(OTHER_FOLDER).join(file)),
            Damage::SwapAll => swap(&folder, &store.join(OTHER_FOLDER)),
            Damage::DeleteAll => {
                files(&folder)?.iter().try_for_each(|file| fs::remove_file(folder.join(file)))
            }
            Damage::OfAnotherGeneration => {
                copy(&folder, &store.join("views/tally/3"))?;
                fs::remove_dir_all(&folder)?;
                copy(&store.join(OTHER_FOLDER), &folder)
            }
        }
    }
}

fn change(file: &Path, work: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
    let mut bytes = fs::read(file)?;
    work(&mut bytes);
    fs::write(file, bytes)
}

fn replace(from: &Path, to: &Path) -> io::Result<()> {
    match fs::read(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(to),
        bytes => fs::write(to, bytes?),
    }
}

fn replace_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::remove_dir_all(to)?;
    copy(from, to)
}

fn swap(one: &Path, other: &Path) -> io::Result<()> {
    let aside = one.with_extension("swapped");
    match fs::rename(other, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::rename(one, other),
        moved => moved?,
    }
    fs::rename(one, other)?;
    fs::rename(aside, one)
}

/// The damages of one store's view: `flips` and `cuts` of each file spread over its used part, and one of each other.
pub(crate) fn damages(specimens: &Specimens, store: &str, flips: u64, cuts: u64) -> io::Result<Vec<Damage>> {
    let mut all = vec![Damage::SwapAll, Damage::DeleteAll, Damage::OfAnotherGeneration];
    let others = || SOURCES.into_iter().filter(|source| *source != store);
    all.extend(others().map(|store| Damage::AllFrom { store }));
    for file in files(&specimens.store(store).join(FOLDER))? {
        let bytes = fs::read(specimens.file(store, &file))?;
        let len = u64::try_from(bytes.len()).unwrap_or(0);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let used = u64::try_from(used).unwrap_or(0);
        let named = || file.clone();
        // The start of each of sled's segments says where it belongs; what is skipped for it is missed by nobody else.
        let heads = (0..used).step_by(SEGMENT).flat_map(|at| (at * 8..(at + 20) * 8).step_by(13));
        all.extend(heads.map(|bit| Damage::Flip { file: named(), bit }));
        let segments = (0..used).step_by(SEGMENT);
        all.extend(segments.map(|at| Damage::Overwrite { file: named(), at, len: 512 << 10, noise: false }));
        // An odd stride meets all bits of a byte, and all places of a record.
        let stride = (used * 8 / flips.max(1)).max(1) | 1;
        all.extend(
            (0..used * 8)
                .step_by(usize::try_from(stride).unwrap_or(1))
                .map(|bit| Damage::Flip { file: named(), bit }),
        );
        let step = usize::try_from((used / cuts.max(1)).max(1) | 1).unwrap_or(1);
        all.extend((0..used).step_by(step).map(|len| Damage::Truncate { file: named(), len }));
        all.push(Damage::Truncate { file: named(), len: len.saturating_sub(1) });
        for noise in [false, true] {
            all.extend([1, 4096, 1 << 20].map(|by| Damage::Extend { file: named(), by, noise }));
            all.push(Damage::Overwrite { file: named(), at: 0, len, noise });
            let sectors = (0..used).step_by(step).map(|at| at / 512 * 512);
            all.extend(sectors.map(|at| Damage::Overwrite { file: named(), at, len: 512, noise }));
        }
        all.push(Damage::Delete { file: named() });
        all.push(Damage::SwapFile { file: named() });
        all.extend(others().map(|store| Damage::FileFrom { file: named(), store }));
        all.extend(others().map(|store| Damage::AllButOneFrom { file: named(), store }));
    }
    Ok(all)
}
