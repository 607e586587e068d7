//! The only way to the disk: a few methods with a contract each, on [`disk`] and in [`memory`].
//!
//! Names are relative to the store's directory, with `/` between folders: `log/00000000000000000001.seg`.

pub(crate) mod disk;
mod map;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod whole;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use uuid::Uuid;

/// A directory of files. Everything that everfold does to a disk, except inside a view's key-value store.
pub(crate) trait Storage: Debug + Send + Sync {
    /// The directory on disk, where there is one.
    fn root(&self) -> Option<&Path>;

    /// The names in a folder (`""` is the store's own), in no order. `NotFound` when the folder is not there.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder; one that is there already is fine. Durable after `sync_folder` of its parent.
    fn create_folder(&self, folder: &str) -> io::Result<()>;

    /// Opens a file that exists. Symbolic links are not followed, and what is no regular file is refused.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Makes a new file of `len` zero bytes whose space is allocated; `AlreadyExists` when there is one. Its
    /// content is durable after `File::sync`, its name after `sync_folder`.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing what has the new name, in one step. Durable after `sync_folder`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after `sync_folder`.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in a folder durable. For `""` also the store's own name in its parent.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Takes the lock that one writer holds for life; dropping the result gives it back.
    fn lock(&self) -> Result<Lock, LockError>;

    /// A random number, for the ids and salts of what is made.
    fn random(&self) -> u128 {
        random()
    }

    /// The time, for people.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

fn random() -> u128 {
    Uuid::new_v4().as_u128()
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Bytes at offsets. The size never changes after [`Storage::create`].
pub(crate) trait File: Debug + Send + Sync {
    /// The size in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads at an offset until `buf` is full or the file ends; how many bytes were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, or fails: then any part of them may have been written. After a success, a reader
    /// in any process sees them; a loss of power may undo them until `sync`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable. After a failure nothing is known about bytes written since the last
    /// success, and trying again proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// The first `len` bytes, which the file has, lent without reading them. Only where no one writes any more.
    fn map(&self, len: u64) -> io::Result<Bytes>;
}

/// Holds the store's lock until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    #[expect(dead_code, reason = "held for its drop, which gives the lock back")]
    held: Box<dyn Debug + Send + Sync>,
}

impl Lock {
    pub(crate) fn new(held: impl Debug + Send + Sync + 'static) -> Self {
        Lock { held: Box::new(held) }
    }
}

/// Why the lock was not to be had.
#[derive(Debug)]
pub(crate) enum LockError {
    Held { pid: Option<u32> },
    Io(io::Error),
}
