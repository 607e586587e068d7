//! What headers say, in the open.

use uuid::Uuid;

use crate::error::Corruption;
use crate::event::Position;
use crate::log::files::{Files, SegmentFile};
use crate::log::frame::{CLEAN, COMPRESSED, FrameHeader, SEAL, WATERMARK};
use crate::log::layout::FORMAT_MAJOR;
use crate::log::mark::Mark;
use crate::log::segment::segment_name;

/// A store, as `STORE` and `MARK` say it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreFacts {
    /// The store's id.
    pub store_id: Uuid,
    /// Major version of the files' format; a reader knows it or refuses the store.
    pub format_major: u16,
    /// Minor version of the format the store was made in.
    pub format_minor: u16,
    /// Size of a segment file in bytes.
    pub segment_size: u64,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// The first position that retention has left; 1 if it has removed none.
    pub log_start: Position,
    /// How many segments the log has.
    pub segments: usize,
    /// Bytes that the segments take.
    pub log_bytes: u64,
    /// The mark says that the store was closed, and not opened for writing since.
    pub clean: bool,
    /// Events up to here were durable when the mark was written. There may be more.
    pub marked: Option<Position>,
    /// How often it was opened for writing, as of the mark.
    pub epoch: u32,
    /// What is worth a word about the files.
    pub notes: Vec<String>,
}

impl StoreFacts {
    pub(super) fn new(files: &Files) -> Self {
        StoreFacts {
            store_id: files.store.store_id,
            format_major: FORMAT_MAJOR,
            format_minor: files.store.minor,
            segment_size: files.store.segment_size,
            created_ns: files.store.created_ns,
            log_start: files.log_start,
            segments: files.segments.len(),
            log_bytes: files.segments.iter().map(|segment| segment.len).sum(),
            clean: files.mark.is_some_and(|mark| mark.clean),
            marked: files.mark.map(|mark| mark.durable),
            epoch: files.mark.map_or(0, |mark| mark.epoch),
            notes: files.notes.iter().cloned().chain(files.copies.iter().map(ToString::to_string)).collect(),
        }
    }
}

/// A segment, as its header says it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentFacts {
    /// The file, relative to the store's directory.
    pub file: String,
    /// 0 for the store's first.
    pub index: u64,
    /// Position of its first event.
    pub first: Position,
    /// Size of the file.
    pub bytes: u64,
    /// Where the frames end, in a sealed segment.
    pub sealed_at: Option<u64>,
    /// Up to where the mark says the segment is durable, if it is the one that the mark is about.
    pub marked_at: Option<u64>,
    /// The random number in all its checksums.
    pub salt: u64,
    /// The checksum of the header: the chain value of the first frame.
    pub chain: u32,
    /// When it was created, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// What is wrong with the file as a whole.
    pub damage: Option<Corruption>,
}

impl SegmentFacts {
    pub(super) fn new(file: &SegmentFile, mark: Option<&Mark>) -> Self {
        SegmentFacts {
            file: segment_name(file.header.first),
            index: file.header.index,
            first: file.header.first,
            bytes: file.len,
            sealed_at: file.sealed_len,
            marked_at: mark.filter(|mark| mark.segment == file.header.first).map(|mark| mark.end),
            salt: file.header.salt,
            chain: file.header.chain,
            created_ns: file.header.created_ns,
            damage: file.damage.clone(),
        }
    }
}

/// A frame, as its header says it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FrameFacts {
    /// The file it is in, relative to the store's directory.
    pub file: String,
    /// Where it starts.
    pub offset: u64,
    /// Its length in bytes, with header and trailer.
    pub len: u64,
    /// Position of its first event; of the next event in a control frame.
    pub first: Position,
    /// How many events.
    pub events: u32,
    /// The last durable position when it was written.
    pub durable: Position,
    /// The header checksum of the frame before.
    pub chain: u32,
    /// The checksum of the header.
    pub header_crc: u32,
    /// The checksum of the list of events.
    pub body_crc: u32,
    /// Which opening for writing wrote it.
    pub epoch: u32,
    /// The flags that are set: `seal`, `clean`, `watermark`, `compressed`.
    pub flags: Vec<&'static str>,
    /// When it was written, in nanoseconds since the Unix epoch; 0 in a control frame.
    pub recorded_at_ns: u64,
}

impl FrameFacts {
    pub(super) fn new(file: &str, offset: u64, header: &FrameHeader) -> Self {
        let names = [(SEAL, "seal"), (CLEAN, "clean"), (WATERMARK, "watermark"), (COMPRESSED, "compressed")];
        FrameFacts {
            file: file.to_owned(),
            offset,
            len: header.frame_len(),
            first: header.first,
            events: header.events,
            durable: header.durable,
            chain: header.chain,
            header_crc: header.header_crc,
            body_crc: header.body_crc,
            epoch: header.epoch,
            flags: names.into_iter().filter(|(flag, _)| header.is(*flag)).map(|(_, name)| name).collect(),
            recorded_at_ns: header.recorded_at_ns,
        }
    }
}
