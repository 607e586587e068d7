//! Cached states in the store, for the next process: `states/<name>.states`. Disposable, as the cache is.

use std::any::type_name;
use std::io;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Decider;
use super::cache::{FoldKey, StateKey};
use super::handler::CommandHandler;
use super::saved::{self, File, OVERHEAD, Owner};
use crate::error::Error;
use crate::log::catalog::closed;
use crate::log::read_only;
use crate::storage::whole;
use crate::view::folder::check_name;

const FOLDER: &str = "states";

/// One writes at a time, since a file being written has the name of none other.
static SAVING: Mutex<()> = Mutex::new(());

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}.states")
}

/// The longest file: encoded, too, states take no more bytes than the cache may hold.
fn longest(owner: &Owner, max_bytes: usize) -> usize {
    max_bytes.saturating_add(OVERHEAD).saturating_add(owner.name.len())
}

impl<D: Decider<State: Serialize + DeserializeOwned>> CommandHandler<D> {
    /// Writes the [cached](CommandHandler::cache) states to the store under a name, 1 to 64 of `a-z`, `0-9`, `-` and `_`, in
    /// the place of those there were; those used last first, and no more than the cache may hold bytes. They are durable on
    /// return. Returns how many there are.
    ///
    /// This is what long streams need once in a while: who [loads](CommandHandler::load_states) them after a restart folds
    /// only what came later. They are a cache: `states/<name>.states` may be removed at any time, backups are
    /// without it, and nothing but time is lost with it.
    ///
    /// ```
    /// # use everfold::{Decider, TypedEvent};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize)]
    /// # enum Counted { Up(u64) }
    /// # impl TypedEvent for Counted {}
    /// # struct Counter;
    /// # impl Decider for Counter {
    /// #     type State = u64;
    /// #     type Event = Counted;
    /// #     type Command = u64;
    /// #     type Rejection = std::convert::Infallible;
    /// #     fn evolve(&self, count: &mut u64, Counted::Up(more): &Counted) { *count += more; }
    /// #     fn decide(&self, _: &u64, more: &u64) -> Result<Vec<Counted>, Self::Rejection> { Ok(vec![Counted::Up(*more)]) }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let storage = everfold::MemoryStorage::new();
    /// # let store = everfold::Options::new().open_memory(&storage)?;
    /// let counter = store.decider(Counter)?;
    /// counter.handle("clicks", &2)?;
    /// counter.load("clicks")?;
    /// counter.save_states("counter")?;
    /// store.close()?;
    ///
    /// # let store = everfold::Options::new().open_memory(&storage)?;
    /// // After a restart.
    /// let counter = store.decider(Counter)?;
    /// assert_eq!(counter.load_states("counter")?, 1);
    /// assert_eq!(counter.load("clicks")?.state, 2);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid` when the name is none; `ReadOnly`; `Closed`; `Codec` when a state does not serialise; `DiskFull`, `Io`: then those
    /// before are still there.
    pub fn save_states(&self, name: &str) -> Result<usize, Error> {
        check_name(name)?;
        let (store, cache) = (self.store(), self.cache());
        let log = store.log();
        if !log.is_writable() {
            return Err(read_only());
        }
        if log.catalog.is_closed() {
            return Err(closed());
        }
        log.check_process()?;
        let _saving = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = self.owner(name);
        let (fold, store_id) = (FoldKey::of(self.decider()), store.store_id());
        let most = longest(&owner, cache.limit());
        let mut file = File::new(&owner);
        for (key, entry) in cache.by_use() {
            // A cache may be shared with another decider, or another store.
            if key.fold == fold && key.store_id == store_id {
                let state = saved::encode(&key.boundary, &entry)?;
                if !file.push(&state, most) {
                    break;
                }
            }
        }
        let (count, bytes) = (file.count(), file.finish());
        let storage = log.catalog.storage.as_ref();
        let path = path(name);
        let written = storage
            .create_folder(FOLDER)
            .and_then(|()| whole::write(storage, &path, &bytes))
            .and_then(|()| storage.sync_folder(FOLDER))
            .and_then(|()| storage.sync_folder(""));
        written.map_err(|error| Error::io(format_args!("write {path}"), error))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Takes the states that were [saved](CommandHandler::save_states) under a name into the cache. Returns how many there
    /// are; none if there is no such file, or it is damaged, or of another store, decider or
    /// [`generation`](Decider::generation), or larger than the cache may be. So a program whose decider evolves otherwise
    /// than that which saved them must have raised the generation. Each is held against the log before it is used, as any
    /// cached state is.
    ///
    /// # Errors
    /// `Invalid` when the name is none; `Io` when a file is there and cannot be read.
    pub fn load_states(&self, name: &str) -> Result<usize, Error> {
        check_name(name)?;
        let (store, cache, path, owner) = (self.store(), self.cache(), path(name), self.owner(name));
        let largest = u64::try_from(longest(&owner, cache.limit())).unwrap_or(u64::MAX);
        let bytes = match whole::read(store.log().catalog.storage.as_ref(), &path, largest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(Error::io(format_args!("read {path}"), error)),
            Ok(bytes) => bytes.unwrap_or_default(),
        };
        let Some(states) = saved::states(&bytes, &owner) else {
            tracing::warn!(%path, "no states of this decider are in the file: they are folded anew");
            return Ok(0);
        };
        let mut taken = 0;
        for state in states.into_iter().rev() {
            let Ok((boundary, entry)) = saved::decode::<D::State>(state) else {
                tracing::warn!(%path, "a state cannot be read, and is folded anew: has it changed without its generation?");
                continue;
            };
            let key = StateKey { store_id: store.store_id(), fold: FoldKey::of(self.decider()), boundary };
            let bytes = self.decider().state_bytes(&entry.state);
            cache.put(key, entry, bytes);
            taken += 1;
        }
        Ok(taken)
    }

    /// A file is of one decider: the type is in its name, too.
    fn owner(&self, name: &str) -> Owner {
        Owner {
            store_id: self.store().store_id(),
            name: format!("{name} {}", type_name::<D>()),
            generation: self.decider().generation(),
        }
    }
}
