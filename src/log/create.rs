//! Makes a new store. `STORE` comes last: before it is there, nothing can have been appended.

use std::io;

use uuid::Uuid;

use super::files::read_up_to;
use super::layout::{FORMAT_MINOR, disk_len, field_len, is_zero, memory_len};
use super::mark::{MARK_FILE, MARK_LEN, Mark};
use super::recovery::QUARANTINE_FOLDER;
use super::segment::{LOG_FOLDER, segment_name};
use super::segment_header::{SEGMENT_HEADER, SegmentHeader};
use super::store_file::{STORE_FILE, STORE_LEN, StoreFile};
use super::writer::{new_salt, now_ns};
use crate::error::{Corruption, Damage, Error, ErrorKind};
use crate::event::Position;
use crate::options::Options;
use crate::storage::{Access, Storage};

/// The folder of the views.
pub(crate) const VIEWS_FOLDER: &str = "views";
/// The lock file's name.
const LOCK_FILE: &str = "LOCK";

/// Whether the directory holds a store. One whose creation a crash cut short does not yet.
pub(crate) fn exists(storage: &dyn Storage) -> Result<bool, Error> {
    let names = refuse_foreign(storage)?;
    if names.iter().any(|name| name == STORE_FILE) {
        return Ok(true);
    }
    if names.iter().any(|name| name == MARK_FILE) {
        check_mark_unused(storage)?;
    }
    if names.iter().any(|name| name == LOG_FOLDER) {
        check_unused(storage)?;
    }
    Ok(false)
}

/// A directory without a store, and with anything else in it, is refused. Returns the names in the directory.
pub(crate) fn refuse_foreign(storage: &dyn Storage) -> Result<Vec<String>, Error> {
    let names = storage.list("").map_err(|e| Error::io("list the directory", e))?;
    let own = [LOCK_FILE, MARK_FILE, LOG_FOLDER, QUARANTINE_FOLDER, VIEWS_FOLDER, "MARK.tmp", "STORE.tmp"];
    match names.iter().find(|name| !own.contains(&name.as_str())) {
        Some(foreign) if !names.iter().any(|name| name == STORE_FILE) => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "there is no store in the directory, and it holds {foreign:?}: give an empty directory or a new path to create one"
            ),
        )),
        _ => Ok(names),
    }
}

/// Creation writes one slot of the mark, and the first opening for writing the other one. A mark with both and no `STORE`
/// beside it is one of a store that lost it.
fn check_mark_unused(storage: &dyn Storage) -> Result<(), Error> {
    let fault = |e| Error::io(format_args!("read {MARK_FILE}"), e);
    let file = storage.open(MARK_FILE, Access::Read).map_err(fault)?;
    let second = read_up_to(file.as_ref(), 0, MARK_LEN / 2).map_err(fault)?;
    if !Mark::is_slot(&second) {
        return Ok(());
    }
    let (file, detail) =
        (STORE_FILE.into(), format!("the file is not there, but {MARK_FILE} is of a store that was used"));
    Err(Corruption { file, offset: 0, position: None, damage: Damage::Header, detail }.into())
}

/// A log that holds frames without a `STORE` beside it is a store that lost it, not a fresh one.
fn check_unused(storage: &dyn Storage) -> Result<(), Error> {
    let names = storage.list(LOG_FOLDER).map_err(|e| Error::io(format_args!("list {LOG_FOLDER}"), e))?;
    for name in names.iter().filter(|name| name.ends_with(".seg")) {
        let name = format!("{LOG_FOLDER}/{name}");
        let fault = |e| Error::io(format_args!("read {name}"), e);
        let file = storage.open(&name, Access::Read).map_err(fault)?;
        let after_header = disk_len(SEGMENT_HEADER);
        let frames = read_up_to(file.as_ref(), after_header, memory_len(4096)).map_err(fault)?;
        if name != segment_name(Position::new(1)) || !is_zero(&frames) {
            let detail = format!("the file is not there, but {name} holds events");
            let file = STORE_FILE.into();
            return Err(Corruption { file, offset: 0, position: None, damage: Damage::Header, detail }.into());
        }
    }
    Ok(())
}

/// Makes the files of an empty store, durably.
pub(crate) fn create(storage: &dyn Storage, options: &Options) -> Result<(), Error> {
    let store_id = new_store_id(storage);
    create_from(storage, options, store_id, Position::START.next())
}

/// The id of a new store.
pub(crate) fn new_store_id(storage: &dyn Storage) -> Uuid {
    uuid::Builder::from_random_bytes(storage.random().to_be_bytes()).into_uuid()
}

/// Makes the files of an empty store whose log starts with a later position. What is before is told by a base that is there already.
pub(crate) fn create_from(
    storage: &dyn Storage,
    options: &Options,
    store_id: Uuid,
    first: Position,
) -> Result<(), Error> {
    for folder in [LOG_FOLDER, QUARANTINE_FOLDER, VIEWS_FOLDER] {
        storage.create_folder(folder).map_err(|e| Error::io(format_args!("make the folder {folder}"), e))?;
    }
    let mut header = SegmentHeader {
        store_id,
        index: 0,
        first,
        salt: new_salt(storage),
        max_body: field_len(options.max_batch_bytes),
        features: Default::default(),
        prev_sealed_len: 0,
        segment_size: options.segment_size,
        created_ns: now_ns(storage),
        prev_chain: 0,
        chain: 0,
    };
    let page = header.encode();
    let name = segment_name(first);
    write_file(storage, &name, &format!("{LOG_FOLDER}/next.tmp"), options.segment_size, &page, 0)?;
    storage.sync_folder(LOG_FOLDER).map_err(|e| Error::io(format_args!("sync {LOG_FOLDER}"), e))?;

    let mark = Mark {
        store_id,
        generation: 1,
        durable: first.previous(),
        segment: first,
        end: disk_len(SEGMENT_HEADER),
        log_start: first,
        chain: header.chain,
        epoch: 0,
        clean: true,
    };
    let (offset, slot) = mark.encode();
    write_file(storage, MARK_FILE, "MARK.tmp", disk_len(MARK_LEN), &slot, offset)?;
    // All that the store needs is there for good before it is said to be a store.
    storage.sync_folder("").map_err(|e| Error::io("sync the directory", e))?;
    let store = StoreFile {
        store_id,
        segment_size: options.segment_size,
        features: Default::default(),
        created_ns: now_ns(storage),
        minor: FORMAT_MINOR,
    };
    write_file(storage, STORE_FILE, "STORE.tmp", disk_len(STORE_LEN), &store.encode(), 0)?;
    storage.sync_folder("").map_err(|e| Error::io("sync the directory", e))
}

/// Makes the mark's file anew when it is not there, or not as long as it was made.
pub(crate) fn restore_mark(storage: &dyn Storage, mark: &Mark) -> Result<(), Error> {
    let len = match storage.open(MARK_FILE, Access::Read).and_then(|file| file.len()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        len => len.map_err(|e| Error::io(format_args!("open {MARK_FILE}"), e))?,
    };
    if len == disk_len(MARK_LEN) {
        return Ok(());
    }
    let (offset, slot) = mark.encode();
    write_file(storage, MARK_FILE, "MARK.tmp", disk_len(MARK_LEN), &slot, offset)?;
    storage.sync_folder("").map_err(|e| Error::io("sync the directory", e))
}

/// Writes a file under another name, syncs it, and gives it its own.
pub(crate) fn write_file(
    storage: &dyn Storage,
    name: &str,
    temporary: &str,
    len: u64,
    bytes: &[u8],
    offset: u64,
) -> Result<(), Error> {
    let fault = |doing: &str, e| Error::io(format_args!("{doing} {name}"), e);
    match storage.remove(temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fault("clear the way for", e)),
        _ => {}
    }
    let file = storage.create(temporary, len).map_err(|e| fault("make", e))?;
    file.write_at(bytes, offset).map_err(|e| fault("write", e))?;
    file.sync().map_err(|e| fault("sync", e))?;
    storage.rename(temporary, name).map_err(|e| fault("name", e))
}
