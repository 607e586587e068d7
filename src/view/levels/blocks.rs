//! The bottom level: rows lie in the key-value store in blocks of neighbours, since it wants few and larger items.
//!
//! ```text
//! [0]            →  what the view says of itself, as of the last drain that ended
//! [0, 0]         →  while a drain is under way: the checkpoint it goes to, u64, and its turns, u32
//! [1, fence …]   →  crc u32, then a run of rows: those from the fence up to the next block's
//! ```
//!
//! A row belongs to the last block whose fence is not after its key. The first block's fence is empty. A block has some
//! 2 KiB; it is split when it outgrows 3 KiB, and removed when it has no rows, but it is never joined to another.

use std::ops::Bound;
use std::sync::Arc;

use super::filter::{Filter, Filters};
use super::run::{Run, RunRow};
use crate::error::{Error, ErrorKind};
use crate::event::Position;
use crate::log::layout::{u32_at, u64_at};
use crate::view::meta::{META_KEY, Place, ViewMeta};
use crate::view::rows::{Change, End, Row, Rows, Unread};

/// Under this key, while a drain is under way, is where it goes to.
const DRAINING_KEY: [u8; 2] = [0, 0];
/// Before the fence of each block.
const BLOCK: u8 = 1;
/// A block that is made gets no more rows beyond so many bytes.
const FULL: usize = 2 << 10;
/// A block that has more is split.
const LARGEST: usize = 3 << 10;
/// So many blocks are written at a time.
const BLOCKS_PER_WRITE: usize = 96;

/// Rows in blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    stored: Arc<dyn Rows>,
    /// A view that grows asks for many rows that are not there.
    filters: Arc<Filters>,
}

/// What the key-value store says of itself.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) meta: ViewMeta,
    /// Where a drain goes to that has not ended.
    pub(super) draining: Option<Place>,
}

/// A block: where it begins, and its rows.
#[derive(Debug)]
pub(super) struct Block {
    fence: Vec<u8>,
    rows: Run,
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::View, format!("the view is damaged: {what}"))
}

fn stored_key(fence: &[u8]) -> Vec<u8> {
    [&[BLOCK], fence].concat()
}

fn encode(rows: &Run) -> Vec<u8> {
    [&crc32fast::hash(rows.bytes()).to_le_bytes(), rows.bytes()].concat()
}

/// A block's fence, and its rows as they are packed.
type Packed<'a> = (&'a [u8], &'a [u8]);

/// What is stored, if it is a block.
fn verified((key, value): &Row) -> Result<Option<Packed<'_>>, Error> {
    let Some(fence) = key.strip_prefix(&[BLOCK]) else { return Ok(None) };
    let rows = value.get(4..).unwrap_or_default();
    if u32_at(value, 0) != Some(crc32fast::hash(rows)) {
        return Err(damaged("a block of rows does not verify"));
    }
    Ok(Some((fence, rows)))
}

impl Block {
    /// Whether a key is not before the block, nor behind its last row.
    fn spans(&self, key: &[u8]) -> bool {
        let last = self.rows.len().checked_sub(1).and_then(|last| self.rows.key(last));
        self.fence.as_slice() <= key && last.is_some_and(|last| key <= last)
    }

    fn decode(stored: &Row) -> Result<Option<Self>, Error> {
        let Some((fence, rows)) = verified(stored)? else { return Ok(None) };
        let rows = Run::parse(rows.to_vec()).ok_or_else(|| damaged("a block holds no rows"))?;
        Ok(Some(Block { fence: fence.to_vec(), rows }))
    }
}

impl Blocks {
    pub(super) fn over(stored: Arc<dyn Rows>) -> Self {
        let filters = match stored.floor(Bound::Unbounded) {
            Ok(None) => Filters::of_nothing(),
            Ok(Some(last)) => match Block::decode(&last) {
                Ok(None) => Filters::of_nothing(),
                Ok(Some(only)) if only.fence.is_empty() => {
                    let filters = Filters::of_nothing();
                    filters.add(only.rows.filter().clone());
                    filters
                }
                _ => Filters::of_anything(),
            },
            // The error will be met again by whoever reads.
            Err(_) => Filters::of_anything(),
        };
        Blocks { stored, filters: Arc::new(filters) }
    }

    /// What is said of the rows, where anything is.
    pub(super) fn said(&self) -> Result<Said, Error> {
        // What sled cannot read it may take for an empty store.
        let bytes =
            self.stored.get(&META_KEY)?.ok_or_else(|| damaged("its files do not hold what they should"))?;
        let meta = ViewMeta::decode(&bytes).ok_or_else(|| {
            damaged("what it says of itself does not verify, or is of another version's format")
        })?;
        let draining = self.stored.get(&DRAINING_KEY)?.map(|bytes| {
            let to = u64_at(&bytes, 0).zip(u32_at(&bytes, 8));
            let to = to.map(|(to, turns)| Place { checkpoint: Position::new(to), turns });
            to.ok_or_else(|| damaged("where it was being brought to is no position"))
        });
        Ok(Said { meta, draining: draining.transpose()? })
    }

    pub(super) fn make_durable(&self) -> Result<(), Error> {
        self.stored.make_durable()
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if !self.filters.may_have(key) {
            return Ok(None);
        }
        let Some(stored) = self.stored.floor(Bound::Included(&stored_key(key)))? else { return Ok(None) };
        let Some((_, rows)) = verified(&stored)? else { return Ok(None) };
        Run::find(rows, key)
            .map(|value| value.map(<[u8]>::to_vec))
            .ok_or_else(|| damaged("a block holds no rows"))
    }

    /// Whether there may be any rows.
    pub(super) fn may_have_any(&self) -> bool {
        self.filters.may_have_any()
    }

    /// The value of a key, from the block that was read for the last one if that is the same.
    pub(super) fn get_near(&self, key: &[u8], near: &mut Option<Block>) -> Result<Option<Vec<u8>>, Error> {
        if !self.filters.may_have(key) {
            return Ok(None);
        }
        if !near.as_ref().is_some_and(|block| block.spans(key)) {
            *near = self.block_of(key)?;
        }
        let found = near.as_ref().and_then(|block| block.rows.get(key)).flatten();
        Ok(found.map(<[u8]>::to_vec))
    }

    /// The block that a key belongs to, if any block begins before it.
    fn block_of(&self, key: &[u8]) -> Result<Option<Block>, Error> {
        self.stored.floor(Bound::Included(&stored_key(key)))?.as_ref().map_or(Ok(None), Block::decode)
    }

    /// The rows of the first blocks that have any in a range, from one end, in the order of their keys; none when there
    /// are none.
    pub(super) fn page(&self, unread: &Unread, end: End) -> Result<Run, Error> {
        let mut at = match (end, &unread.from, &unread.to) {
            (End::Front, Bound::Unbounded, _) => self.block_from(&[])?,
            (End::Front, Bound::Included(from) | Bound::Excluded(from), _) => {
                let found = self.block_of(from)?;
                if found.is_none() { self.block_from(from)? } else { found }
            }
            (End::Back, _, Bound::Unbounded) => self.last_block(Bound::Excluded(&[BLOCK + 1]))?,
            (End::Back, _, Bound::Included(to) | Bound::Excluded(to)) => self.block_of(to)?,
        };
        while let Some(block) = at {
            let inside = block.rows.between(&unread.from, &unread.to);
            if !inside.is_empty() {
                let mut page = Run::with_room(inside.len(), block.rows.bytes().len());
                let rows = inside.filter_map(|number| block.rows.row(number));
                rows.into_iter().try_for_each(|(key, value)| page.push(key, value))?;
                return Ok(page);
            }
            at = match end {
                End::Front => self.block_after(&block.fence)?.filter(|block| is_before(block, &unread.to)),
                End::Back => self.last_block(Bound::Excluded(&stored_key(&block.fence)))?,
            };
            if end == End::Back && is_below(&block, &unread.from) {
                break;
            }
        }
        Ok(Run::default())
    }

    /// The first block that begins at a fence or after it.
    fn block_from(&self, fence: &[u8]) -> Result<Option<Block>, Error> {
        let key = stored_key(fence);
        match self.stored.get(&key)? {
            Some(value) => Block::decode(&(key, value)),
            None => self.block_after(fence),
        }
    }

    fn block_after(&self, fence: &[u8]) -> Result<Option<Block>, Error> {
        let mut after = stored_key(fence);
        while let Some(key) = self.stored.key_after(&after)? {
            // A drain may have removed it meanwhile.
            if let Some(value) = self.stored.get(&key)? {
                return Block::decode(&(key, value));
            }
            after = key;
        }
        Ok(None)
    }

    fn last_block(&self, to: Bound<&[u8]>) -> Result<Option<Block>, Error> {
        self.stored.floor(to)?.as_ref().map_or(Ok(None), Block::decode)
    }

    /// These are the keys of all rows there are, but for some that runs over them remove.
    pub(super) fn know(&self, keys: Filter) {
        self.filters.know(keys);
    }

    /// These rows are about to be written.
    pub(super) fn expect(&self, rows: &Run) {
        self.filters.add(rows.filter().clone());
    }

    /// Writes changes in the order of their keys, so that a crash at any time leaves either none of them, or some of
    /// them and the mark of a drain to the checkpoint of `meta`. `overwritten` is told what the rows were, before they
    /// are changed. Where anybody reads meanwhile or after, the rows are [expected](Self::expect) before.
    pub(super) fn drain<'a>(
        &self,
        changes: impl Iterator<Item = RunRow<'a>>,
        meta: &ViewMeta,
        mut overwritten: impl FnMut(Run),
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        let mut changes = changes.peekable();
        let mark = [&meta.checkpoint.get().to_le_bytes()[..], &meta.turns.to_le_bytes()].concat();
        let mut writes: Vec<Change> = vec![(DRAINING_KEY.to_vec(), Some(mark))];
        while let Some((key, _)) = changes.peek() {
            if !go_on() {
                return Ok(false);
            }
            let mut rewrite = Rewrite::of(self, key, std::mem::take(&mut writes))?;
            while rewrite.writes.len() < BLOCKS_PER_WRITE
                && let Some((key, value)) = changes.next_if(|(key, _)| rewrite.reaches(key))
            {
                rewrite.put(key, value)?;
            }
            let before = rewrite.finish()?;
            overwritten(before.overwritten);
            writes = before.writes;
            if writes.len() >= BLOCKS_PER_WRITE {
                self.stored.write(&std::mem::take(&mut writes))?;
            }
        }
        writes.push((META_KEY.to_vec(), Some(meta.encode())));
        writes.push((DRAINING_KEY.to_vec(), None));
        self.stored.write(&writes)?;
        Ok(true)
    }
}

fn is_before(block: &Block, to: &Bound<Vec<u8>>) -> bool {
    match to {
        Bound::Unbounded => true,
        Bound::Included(to) => block.fence <= *to,
        Bound::Excluded(to) => block.fence < *to,
    }
}

/// Whether all blocks before this one end before the range begins.
fn is_below(block: &Block, from: &Bound<Vec<u8>>) -> bool {
    match from {
        Bound::Unbounded => false,
        Bound::Included(from) | Bound::Excluded(from) => block.fence <= *from,
    }
}

/// One block being written anew, as itself and others after it.
struct Rewrite {
    fence: Vec<u8>,
    /// Whether the block is there.
    exists: bool,
    /// Where the next block begins, if there is one.
    upper: Option<Vec<u8>>,
    old: Run,
    /// The number of the next old row.
    next: usize,
    /// Rows of the block that is being filled, and where it begins.
    filling: Run,
    filling_fence: Vec<u8>,
    /// Whether a block was written in place of the old one.
    replaced: bool,
    overwritten: Run,
    writes: Vec<Change>,
}

struct Rewritten {
    overwritten: Run,
    writes: Vec<Change>,
}

impl Rewrite {
    /// Begins with the block that a key belongs to.
    fn of(blocks: &Blocks, key: &[u8], writes: Vec<Change>) -> Result<Self, Error> {
        let found = blocks.block_of(key)?;
        let exists = found.is_some();
        let Block { fence, rows: old } =
            found.unwrap_or_else(|| Block { fence: vec![], rows: Run::default() });
        let upper = blocks.stored.key_after(&stored_key(&fence))?;
        let upper = upper.and_then(|key| key.strip_prefix(&[BLOCK]).map(<[u8]>::to_vec));
        let (filling, filling_fence) = (Run::default(), fence.clone());
        let overwritten = Run::default();
        Ok(Rewrite {
            fence,
            exists,
            upper,
            old,
            next: 0,
            filling,
            filling_fence,
            replaced: false,
            overwritten,
            writes,
        })
    }

    /// Whether a key belongs to this block.
    fn reaches(&self, key: &[u8]) -> bool {
        self.upper.as_ref().is_none_or(|upper| key < upper.as_slice())
    }

    /// Takes the next change, after the old rows before it.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        self.keep_before(Some(key))?;
        let old = self.old.row(self.next).filter(|(found, _)| *found == key);
        self.overwritten.push(key, old.and_then(|(_, value)| value))?;
        self.next += usize::from(old.is_some());
        match value {
            Some(value) => self.add(key, value),
            None => Ok(()),
        }
    }

    /// Keeps the old rows before a key; all that are left, without one.
    fn keep_before(&mut self, key: Option<&[u8]>) -> Result<(), Error> {
        let old = std::mem::take(&mut self.old);
        while let Some((found, Some(value))) = old.row(self.next)
            && key.is_none_or(|key| found < key)
        {
            self.add(found, value)?;
            self.next += 1;
        }
        self.old = old;
        Ok(())
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let filled = self.filling.bytes().len();
        if filled >= FULL || (filled > 0 && filled + key.len() + value.len() > LARGEST) {
            self.write_filled(key.to_vec());
        }
        self.filling.push(key, Some(value))
    }

    /// Writes the block that is full; the next begins at a fence.
    fn write_filled(&mut self, next: Vec<u8>) {
        let rows = std::mem::take(&mut self.filling);
        let fence = std::mem::replace(&mut self.filling_fence, next);
        self.replaced |= fence == self.fence;
        self.writes.push((stored_key(&fence), Some(encode(&rows))));
    }

    /// Ends with the old rows that are left. A block without rows goes, but for the first.
    fn finish(mut self) -> Result<Rewritten, Error> {
        self.keep_before(None)?;
        if !self.filling.is_empty() {
            self.write_filled(Vec::new());
        }
        if !self.replaced && self.exists {
            self.writes.push((stored_key(&self.fence), None));
        }
        Ok(Rewritten { overwritten: self.overwritten, writes: self.writes })
    }
}
