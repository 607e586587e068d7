//! Writes the index of a sealed segment as pages. What is on disk is told in [`file`](super::file).

use std::io;

use super::file::{Header, ID_ENTRY, Identity, KEY_ENTRY, PLACES_PER_PAGE, id_entry};
use super::key::{KeyHasher, Kind};
use super::memory::{MemoryIndex, MemoryKey};
use super::pages::{PAYLOAD, PageSink};
use super::table::{Table, TableWriter};
use crate::event::Version;
use crate::log::layout::{ALIGN, disk_len, field_len, put};

/// The index's file, whole.
pub(crate) fn encode(index: &MemoryIndex, identity: &Identity, hasher: KeyHasher) -> io::Result<Vec<u8>> {
    let mut body = PageSink::in_memory(identity.tag());
    body.page(&[])?;
    let places = body.bytes(&places(index), PLACES_PER_PAGE * 8)?;
    let (names, postings, table) = keys(index, &mut body)?;
    let mut hashed: Vec<(u64, u32)> =
        (0..).zip(index.ids()).map(|(number, id)| (hasher.id(*id), number)).collect();
    hashed.sort_unstable();
    let ids = ids(&hashed, &mut body)?;
    let header = Header {
        events: field_len(index.places().len()),
        times: index.times.unwrap_or_default(),
        ids: (index.ids().iter().min().copied(), index.ids().iter().max().copied()),
        places,
        names,
        postings,
        key_table: table,
        keys: field_len(index.keys().len()),
        id_table: ids,
        pages: body.pages,
    };
    let mut first = PageSink::in_memory(identity.tag());
    first.page(&header.encode(identity))?;
    let mut bytes = body.finish()?;
    put(&mut bytes, 0, &first.finish()?);
    Ok(bytes)
}

/// Two offsets for each event, in units of eight bytes.
fn places(index: &MemoryIndex) -> Vec<u8> {
    let unit = |offset: u64| u32::try_from(offset / disk_len(ALIGN)).unwrap_or(u32::MAX).to_le_bytes();
    index.places().iter().flat_map(|place| [unit(place.frame), unit(place.record)]).flatten().collect()
}

fn keys(index: &MemoryIndex, body: &mut PageSink) -> io::Result<(u32, u32, Table)> {
    let mut order: Vec<&MemoryKey> = index.keys().iter().collect();
    order.sort_by_key(|key| key.hash);
    let (mut names, mut postings) = (Vec::new(), Vec::new());
    let mut entries = Vec::with_capacity(order.len());
    for key in order {
        let name = index.name(key);
        let mut entry = [0; KEY_ENTRY];
        put(&mut entry, 0, &key.hash.to_le_bytes());
        put(&mut entry, 8, &[key.kind.code(), u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        put(&mut entry, 12, &field_len(names.len()).to_le_bytes());
        put(&mut entry, 16, &key.count().to_le_bytes());
        put(&mut entry, 20, &key.first.to_le_bytes());
        put(&mut entry, 24, &key.last().to_le_bytes());
        put(&mut entry, 28, &disk_len(postings.len() / 4).to_le_bytes());
        let base = if key.kind == Kind::Stream { key.base } else { Version::NONE };
        put(&mut entry, 36, &base.get().to_le_bytes());
        entries.push((key.hash, entry));
        names.extend_from_slice(name);
        // One or two are in the entry.
        if key.count() > 2 {
            let all = std::iter::once(&key.first).chain(&key.rest);
            postings.extend(all.flat_map(|number| number.to_le_bytes()));
        }
    }
    let names = body.bytes(&names, PAYLOAD)?;
    let postings = body.bytes(&postings, PAYLOAD)?;
    let mut table = TableWriter::new(body, disk_len(entries.len()), KEY_ENTRY);
    entries.iter().try_for_each(|(hash, entry)| table.push(*hash, entry))?;
    Ok((names, postings, table.finish()?))
}

fn ids(hashed: &[(u64, u32)], body: &mut PageSink) -> io::Result<Table> {
    let mut table = TableWriter::new(body, disk_len(hashed.len()), ID_ENTRY);
    for (hash, number) in hashed {
        table.push(*hash, &id_entry(*hash, *number))?;
    }
    table.finish()
}
