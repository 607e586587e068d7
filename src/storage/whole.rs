//! Files that are written whole and read whole: derived ones, which can be made anew.

use std::io;

use super::{Access, Storage};

/// Puts a file in its place, whole or not at all. Its content is durable on return, its name after
/// [`sync_folder`](Storage::sync_folder).
pub(crate) fn write(storage: &dyn Storage, path: &str, bytes: &[u8]) -> io::Result<()> {
    let unnamed = format!("{path}.tmp");
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let file = match storage.create(&unnamed, len) {
        // Left by a crash, or of somebody who is at the same. Whoever reads what the two make of it verifies it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(&unnamed)?;
            storage.create(&unnamed, len)?
        }
        created => created?,
    };
    let named =
        file.write_at(bytes, 0).and_then(|()| file.sync()).and_then(|()| storage.rename(&unnamed, path));
    if named.is_err() {
        // It takes room that may be what was missing.
        drop(storage.remove(&unnamed));
    }
    named
}

/// What a file holds; `None` when it is larger than that, or is cut short as it is read.
pub(crate) fn read(storage: &dyn Storage, path: &str, largest: u64) -> io::Result<Option<Vec<u8>>> {
    let file = storage.open(path, Access::Read)?;
    let len = file.len()?;
    let Some(len) = usize::try_from(len).ok().filter(|_| len <= largest) else { return Ok(None) };
    let mut bytes = vec![0; len];
    Ok((file.read_at(&mut bytes, 0)? == len).then_some(bytes))
}
