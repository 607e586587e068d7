//! Rows being changed by the fold, until they are written together with the checkpoint.

use std::any::TypeId;
use std::fmt;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApplyError;
use super::table::{AnyTable, Base, Net, Out, Table};
use super::views::{Views, place};
use crate::error::Error;
use crate::event::Position;
use crate::view::digest::Digest;
use crate::view::feed::{Recent, RowChange};
use crate::view::key::Key;
use crate::view::layout::Part;
use crate::view::levels::{Version, Writes};
use crate::view::named::NamedView;

/// What `apply` changes a view through. It sees the rows as the events before have left them.
pub struct ViewBatch<K, V> {
    base: Base,
    views: Arc<Views<K, V>>,
    own: Table<K, V>,
    /// Those of the named views that were asked for.
    named: Vec<Option<Box<dyn AnyTable>>>,
    /// Where what each event changes is told, when it is.
    told: Option<Recent>,
    /// Changes are noted for the event at hand.
    telling: bool,
}

/// What there is to write.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) writes: Writes,
    /// What tells the rows after them.
    pub(super) digest: Digest,
    /// How many rows the projection's own view has after them.
    pub(super) rows: u64,
    /// What each event changed, if that is told.
    pub(super) told: Option<Recent>,
}

impl<K, V> fmt::Debug for ViewBatch<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewBatch").field("on", self.base.rows.meta()).finish_non_exhaustive()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> ViewBatch<K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the key-value store fails, or the row is not a `V`. Pass it on with `?`.
    pub fn get(&mut self, key: &K) -> Result<Option<&V>, ApplyError> {
        self.own.get(&mut self.base, key)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: K, value: V) {
        self.own.set(&mut self.base, &key, Some(value));
    }

    /// Removes a row; one that is not there is fine.
    pub fn remove(&mut self, key: &K) {
        self.own.set(&mut self.base, key, None);
    }

    /// Puts in place of a key's value, if there is one, what `change` makes of it; `None` removes the row.
    ///
    /// # Errors
    /// As [`get`](ViewBatch::get).
    pub fn update(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), ApplyError> {
        self.own.update(&mut self.base, &key, change)
    }

    /// Puts the value of a key if there is none; otherwise has `merge` take it into the one that is there.
    ///
    /// Of all that read a row before they change it this is the fastest where there are many rows: as long as nothing asks
    /// for them, values of this event and the next ones wait, so that the processor can wait for the memory of many rows at
    /// once; small ones, while there is nothing in any view of the projection and rows rarely repeat, until all are written.
    /// In which order values are merged into a row, and which event is said to fail when `merge` panics, stays as it is
    /// without that. But `merge` may be called after `apply` has returned, on another thread (where the values are then encoded,
    /// and asked for their keys in an index), or by a later call of any kind, whose error may then be of another event: pass it on.
    ///
    /// ```
    /// # use everfold::{ApplyError, RecordedEvent, ViewBatch};
    /// fn apply(event: &RecordedEvent, view: &mut ViewBatch<String, u64>) -> Result<(), ApplyError> {
    ///     let (item, quantity): (String, u64) = event.decode()?;
    ///     view.merge(item, quantity, |sold, quantity| *sold += quantity)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`get`](ViewBatch::get).
    pub fn merge(&mut self, key: K, value: V, merge: fn(&mut V, V)) -> Result<(), ApplyError> {
        self.own.merge(&mut self.base, &key, value, merge)
    }
}

impl<K: Key, V: Serialize + DeserializeOwned + Send + 'static> ViewBatch<K, V> {
    pub(super) fn new(rows: Arc<Version>, views: &Arc<Views<K, V>>) -> Self {
        let mut named = Vec::new();
        named.resize_with(views.layout().named_views(), || None);
        let (own, views) = (views.own_table(), views.clone());
        ViewBatch { base: Base::new(rows, views.layout()), views, own, named, told: None, telling: false }
    }

    /// What waits for the end may be put together by so many threads.
    pub(super) fn on_threads(mut self, threads: usize) -> Self {
        self.base.threads = threads;
        self
    }

    /// What each event changes is noted, and put there, if there is where.
    pub(super) fn telling(mut self, told: Option<Recent>) -> Self {
        if told.is_some() {
            self.tell();
        }
        self.told = told;
        self
    }

    /// What each event changes is noted.
    pub(super) fn tell(&mut self) {
        self.telling = true;
        self.tables().for_each(AnyTable::tell);
    }

    /// Another view of the projection, to be changed together with its own.
    ///
    /// # Errors
    /// When [`Projection::views`](crate::Projection::views) does not declare it. Pass it on with `?`.
    pub fn of<N: NamedView>(&mut self) -> Result<NamedBatch<'_, N::Key, N::Value>, ApplyError> {
        let part = self.views.layout().view(TypeId::of::<N>(), N::NAME)?;
        let lost = || ApplyError::new(format!("view {:?} is not of the type it was declared with", N::NAME));
        let slot = place(part).and_then(|place| self.named.get_mut(place)).ok_or_else(lost)?;
        let table = match slot {
            Some(table) => table,
            none => {
                let mut table = self.views.table(part).ok_or_else(lost)?;
                if self.telling {
                    table.tell();
                }
                none.insert(table)
            }
        };
        let table = table.as_any().downcast_mut().ok_or_else(lost)?;
        Ok(NamedBatch { base: &mut self.base, table })
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut (dyn AnyTable + 'static)> {
        let named = self.named.iter_mut().flatten().map(|table| &mut **table);
        std::iter::once::<&mut (dyn AnyTable + 'static)>(&mut self.own).chain(named)
    }

    /// How many rows were changed.
    pub(super) fn changed(&mut self) -> usize {
        self.tables().map(|table| table.changed()).sum()
    }

    /// Bytes of memory that its rows take, about, when their values come from so many bytes of events.
    pub(super) fn size(&mut self, events: usize) -> usize {
        // What values have elsewhere comes from the events, or from the rows that were read. These are kept for indexes,
        // and what is told, too.
        let elsewhere = match mem::needs_drop::<V>() || !self.views.layout().is_plain() || self.telling {
            true => events.saturating_add(self.base.read),
            false => 0,
        };
        self.tables().map(|table| table.size()).sum::<usize>().saturating_add(elsewhere)
    }

    /// Why the rows could not be read, if that is what an `apply` failed of.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.base.failure.take()
    }

    /// Whether values that waited to be merged could not be. Which event they are of is not known.
    pub(super) fn is_torn(&self) -> bool {
        self.base.is_torn
    }

    /// The event at this position was applied, and more may be: what it changed is told, if it is to be.
    pub(super) fn end_event(&mut self, position: Position) {
        self.base.merges_later = true;
        self.tell_event(position, Recent::push);
    }

    /// The same of an event that was set aside before.
    pub(super) fn end_redriven(&mut self, position: Position) {
        self.tell_event(position, Recent::push_redriven);
    }

    fn tell_event(&mut self, position: Position, push: fn(&mut Recent, Position, Vec<RowChange>)) {
        let Some(mut told) = self.told.take() else { return };
        match self.changes_of_event() {
            Ok(rows) => push(&mut told, position, rows),
            Err(_) => {
                // Nobody can be told of a value that has no encoding; writing it fails too, unless it does not stay.
                push(&mut told, position, Vec::new());
                told.forget();
            }
        }
        self.told = Some(told);
    }

    /// What the event at hand changed, of a batch that was told to note it.
    pub(super) fn changes_of_event(&mut self) -> Result<Vec<RowChange>, Error> {
        let mut rows = Vec::new();
        self.tables().try_for_each(|table| table.end_event(&mut rows))?;
        Ok(rows)
    }

    /// What the batch comes to. What waits is merged, and values and the keys of indexes are encoded, by the projection's
    /// code: where that panics, the error is [`Invalid`](crate::ErrorKind::Invalid).
    pub(super) fn finish(mut self, before: Digest) -> Result<Finished, Error> {
        let finished = catch_unwind(AssertUnwindSafe(|| self.write_tables(before)));
        let mut finished = finished.unwrap_or_else(|_| {
            Err(Error::invalid(
                "the projection's code panicked when a value was merged, or a row or its keys in an index were encoded",
            ))
        })?;
        finished.told = self.told;
        Ok(finished)
    }

    fn write_tables(&mut self, before: Digest) -> Result<Finished, Error> {
        let (rows, layout) = (self.base.rows.clone(), self.views.layout().clone());
        self.own.settle(&mut self.base)?;
        self.named.iter_mut().flatten().try_for_each(|table| table.settle(&mut self.base))?;
        let mut out = Out { writes: Writes::default(), digest: before };
        let nets: Vec<(Part, Net)> = self
            .tables()
            .map(|table| Ok((table.part(), table.finish(&rows, &mut out)?)))
            .collect::<Result<_, Error>>()?;
        let Out { mut writes, mut digest } = out;
        let rows = if layout.is_plain() {
            digest.rows.wrapping_sub(rows.meta().beside.rows())
        } else {
            let old = layout.counts(&rows)?;
            let mut new = old.clone();
            nets.into_iter().for_each(|(part, net)| new.add(part, net.added, net.removed));
            writes.extend(new.change(&old, &mut digest))?;
            new.of(Part::OWN)
        };
        Ok(Finished { writes, digest, rows, told: None })
    }
}

/// What `apply` changes a named view through: [`ViewBatch::of`] gives it.
pub struct NamedBatch<'a, K, V> {
    base: &'a mut Base,
    table: &'a mut Table<K, V>,
}

impl<K, V> fmt::Debug for NamedBatch<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedBatch").finish_non_exhaustive()
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> NamedBatch<'_, K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// As [`ViewBatch::get`].
    pub fn get(&mut self, key: &K) -> Result<Option<&V>, ApplyError> {
        self.table.get(self.base, key)
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: K, value: V) {
        self.table.set(self.base, &key, Some(value));
    }

    /// Removes a row; one that is not there is fine.
    pub fn remove(&mut self, key: &K) {
        self.table.set(self.base, key, None);
    }

    /// Puts in place of a key's value, if there is one, what `change` makes of it; `None` removes the row.
    ///
    /// # Errors
    /// As [`get`](NamedBatch::get).
    pub fn update(&mut self, key: K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), ApplyError> {
        self.table.update(self.base, &key, change)
    }

    /// Puts the value of a key if there is none; otherwise has `merge` take it into the one that is there. See
    /// [`ViewBatch::merge`].
    ///
    /// # Errors
    /// As [`get`](NamedBatch::get).
    pub fn merge(&mut self, key: K, value: V, merge: fn(&mut V, V)) -> Result<(), ApplyError> {
        self.table.merge(self.base, &key, value, merge)
    }
}
