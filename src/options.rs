//! How a store is opened, and the limits.

use std::time::Duration;

use crate::error::Error;

/// How a store is created and opened. Setters are consuming; the end is [`open`](Options::open).
///
/// ```no_run
/// use everfold::Options;
/// # fn main() -> Result<(), everfold::Error> {
/// let store = Options::new().create(false).segment_size(16 << 20).open("shop")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until the store is opened with them"]
pub struct Options {
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) segment_size: u64,
    pub(crate) max_batch_bytes: usize,
    pub(crate) max_in_flight_bytes: usize,
    pub(crate) map_segments: bool,
    pub(crate) sync_after: Duration,
    pub(crate) view_cache_bytes: u64,
    pub(crate) view_memory_bytes: usize,
    pub(crate) verify_views: bool,
    pub(crate) change_buffer_bytes: usize,
    pub(crate) max_index_bytes: usize,
    pub(crate) verify_on_open: bool,
}

/// The smallest size of a segment: a header page, and room for some small frames.
pub const MIN_SEGMENT_BYTES: u64 = 8 << 10;
/// The largest size of a segment.
pub const MAX_SEGMENT_BYTES: u64 = 4 << 30;
/// The largest batch that [`Options::max_batch_bytes`] can allow.
pub const MAX_BATCH_BYTES: usize = 64 << 20;

pub(crate) fn is_segment_size(bytes: u64) -> bool {
    (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes) && bytes.is_multiple_of(4096)
}

impl Default for Options {
    fn default() -> Self {
        Options {
            create: true,
            read_only: false,
            segment_size: 64 << 20,
            max_batch_bytes: 16 << 20,
            max_in_flight_bytes: 64 << 20,
            map_segments: true,
            sync_after: Duration::from_millis(100),
            view_cache_bytes: 64 << 20,
            view_memory_bytes: 64 << 20,
            verify_views: true,
            change_buffer_bytes: 4 << 20,
            max_index_bytes: 128 << 20,
            verify_on_open: false,
        }
    }
}

impl Options {
    /// The defaults, as each setter states them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to create a store where there is none (default: yes). A directory that holds anything else is
    /// never taken for a fresh store.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether to open for reading only (default: no): without a lock, without writing a byte, also on a
    /// read-only file system and beside a process that writes. What is read is what a recovery would keep, as of
    /// the opening: the last events may be written by that process and not yet synced. Views cannot be opened;
    /// [`ViewNote::read_all`](crate::ViewNote::read_all) and `everfold views` tell their state.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Size of a segment file in bytes, fixed when the store is created (default: 64 MiB; from
    /// [`MIN_SEGMENT_BYTES`] to [`MAX_SEGMENT_BYTES`], in multiples of 4,096). An existing store keeps its own.
    pub fn segment_size(mut self, bytes: u64) -> Self {
        self.segment_size = bytes;
        self
    }

    /// The largest batch, in bytes of its encoded events (default: 16 MiB; at most [`MAX_BATCH_BYTES`]), in this
    /// opening. A batch must also fit in a segment.
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// How many bytes of encoded batches may be submitted and not yet answered (default: 64 MiB), in this opening.
    /// Whoever would exceed it waits in [`submit`](crate::Store::submit) or [`append`](crate::Store::append) until there
    /// is room, in order of arrival. A batch that is larger goes when nothing else is under way.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.max_in_flight_bytes = bytes;
        self
    }

    /// Whether sealed segments, their indexes and what is durable of the active segment are read through memory maps
    /// (default: yes). Where something else may shorten the files, as on a network file system, say no: touching a page
    /// that is gone ends the process. Each look into an index then opens and reads its file.
    pub fn map_segments(mut self, map: bool) -> Self {
        self.map_segments = map;
        self
    }

    /// After how long events that were appended as `Written` or `Deferred` are synced (default: 100 ms). The thread that
    /// does it also makes the files of new segments, and is late while it does.
    pub fn sync_after(mut self, wait: Duration) -> Self {
        self.sync_after = wait;
        self
    }

    /// Memory for the cache of each view's key-value store, in bytes (default: 64 MiB; less than 1 MiB is taken as
    /// 1 MiB).
    pub fn view_cache_bytes(mut self, bytes: u64) -> Self {
        self.view_cache_bytes = bytes;
        self
    }

    /// Memory for the rows of each view that have changed and are not in its key-value store yet, in bytes (default:
    /// 64 MiB). When they take about so much, they are written there in the background, while others take as much again;
    /// so may the rows that events are being applied to. A row that changes often until then costs no more than one
    /// that changes once. Each view keeps up to 32 MiB more, two bytes a row, which tell of most keys that are not
    /// there that they are not: one that was made in this opening, or read whole in it (see
    /// [`verify_views`](Self::verify_views)).
    pub fn view_memory_bytes(mut self, bytes: usize) -> Self {
        self.view_memory_bytes = bytes;
        self
    }

    /// Whether [`project`](crate::Store::project) reads all rows of a view that it finds, and holds them against the digest
    /// that was written with them (default: yes). Rows that the key-value store has lost or brought back are found in no
    /// other way: the view would go on with them and be wrong. It takes some seconds for a million small rows, and spares
    /// the view to look for rows that are not there.
    pub fn verify_views(mut self, verify: bool) -> Self {
        self.verify_views = verify;
        self
    }

    /// Memory for the recent changes of each view that somebody follows, in bytes (default: 4 MiB). Who is slower than that
    /// is told by [`Lagged`](crate::ErrorKind::Lagged). Nothing is kept while nobody follows.
    pub fn change_buffer_bytes(mut self, bytes: usize) -> Self {
        self.change_buffer_bytes = bytes;
        self
    }

    /// Memory for the index of the active segment, in bytes (default: 128 MiB). When it takes about so much, the segment
    /// is sealed before it is full. Up to two indexes of sealed segments may be in memory besides, until they are written
    /// to their files; those are mapped, and looked into where needed.
    pub fn max_index_bytes(mut self, bytes: usize) -> Self {
        self.max_index_bytes = bytes;
        self
    }

    /// Whether opening reads all sealed segments for damage, and reports it (default: no). Otherwise their headers and
    /// the ends of the segments are checked, and what is in them when it is read. The active segment is always read.
    pub fn verify_on_open(mut self, verify: bool) -> Self {
        self.verify_on_open = verify;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !is_segment_size(self.segment_size) {
            return Err(Error::invalid(format!(
                "a segment size of {} bytes: give a multiple of 4,096 from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}",
                self.segment_size
            )));
        }
        if !(1..=MAX_BATCH_BYTES).contains(&self.max_batch_bytes) {
            return Err(Error::invalid(format!(
                "a largest batch of {} bytes: give from 1 to {MAX_BATCH_BYTES}",
                self.max_batch_bytes
            )));
        }
        Ok(())
    }
}
