//! What lies in blocks of fixed size: `STORE`, `MARK`, the header of a segment; and the row a view keeps about itself.

use uuid::Uuid;

use super::edits::{Input, put};
use crate::log::layout::{SECTOR, bytes_at, memory_len, seal_block};
use crate::log::mark::{MARK_LEN, Mark};
use crate::log::segment_header::{SEGMENT_HEADER, SegmentHeader};
use crate::log::store_file::{STORE_LEN, StoreFile};
use crate::view::meta::ViewMeta;

/// The input's first block, and its second, with right checksums.
fn sealed_blocks(input: &[u8]) -> [[u8; SECTOR]; 2] {
    let mut input = Input::new(input);
    [(); 2].map(|()| {
        let mut block = input.array();
        seal_block(&mut block);
        block
    })
}

/// A file of so many bytes with a block at 0 and another one at an offset.
fn with_blocks(len: usize, second_at: usize, [first, second]: &[[u8; SECTOR]; 2]) -> Vec<u8> {
    let mut file = vec![0; len];
    put(&mut file, 0, first);
    put(&mut file, second_at, second);
    file
}

pub(super) fn store_file(input: &[u8]) {
    check_store_file(input);
    check_store_file(&with_blocks(STORE_LEN, SECTOR, &sealed_blocks(input)));
}

fn check_store_file(bytes: &[u8]) {
    let Ok(file) = StoreFile::decode(bytes) else { return };
    assert!(crate::options::is_segment_size(file.segment_size), "a store of a size that no options take");
    let encoded = file.encode();
    assert_eq!(encoded.len(), STORE_LEN);
    assert_eq!(StoreFile::decode(&encoded), Ok(StoreFile { minor: 0, ..file }));
    assert_eq!(file.is_intact(bytes), encoded == bytes);
}

pub(super) fn mark(input: &[u8]) {
    check_mark(input);
    check_mark(&with_blocks(MARK_LEN, MARK_LEN / 2, &sealed_blocks(input)));
}

fn check_mark(bytes: &[u8]) {
    let ids = [16, MARK_LEN / 2 + 16].map(|at| bytes_at(bytes, at).map_or(Uuid::nil(), Uuid::from_bytes));
    for id in ids {
        let (mark, damaged) = Mark::decode(bytes, id);
        assert!(damaged + usize::from(mark.is_some()) <= 2, "there are two slots");
        let Some(mark) = mark else { continue };
        assert_eq!(mark.store_id, id);
        let (offset, slot) = mark.encode();
        let mut file = vec![0; MARK_LEN];
        put(&mut file, memory_len(offset), &slot);
        assert_eq!(Mark::decode(&file, id), (Some(mark), 0));
    }
}

pub(super) fn segment_header(input: &[u8]) {
    check_segment_header(input);
    check_segment_header(&with_blocks(SEGMENT_HEADER, SEGMENT_HEADER / 2, &sealed_blocks(input)));
}

fn check_segment_header(page: &[u8]) {
    let Ok(header) = SegmentHeader::decode(page) else { return };
    let mut again = header;
    let encoded = again.encode();
    assert_eq!(encoded.len(), SEGMENT_HEADER);
    assert_eq!(SegmentHeader::decode(&encoded), Ok(again));
    assert_eq!(SegmentHeader { chain: header.chain, ..again }, header);
    assert_eq!(header.is_intact(page), encoded == page);
}

pub(super) fn view_meta(input: &[u8]) {
    check_view_meta(input);
    let crc = crc32fast::hash(input).to_le_bytes();
    check_view_meta(&[input, &crc].concat());
}

fn check_view_meta(row: &[u8]) {
    let Some(meta) = ViewMeta::decode(row) else { return };
    let encoded = meta.encode();
    assert_eq!(encoded.len(), row.len());
    assert_eq!(ViewMeta::decode(&encoded), Some(meta));
}
