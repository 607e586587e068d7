//! Memory for frames, used again: fresh memory costs more than what is encoded into it. Nobody waits for it: whoever
//! finds it locked does without.

use std::sync::Mutex;

/// So many bytes are kept, and so many buffers.
const MOST_BYTES: usize = 8 << 20;
const MOST: usize = 2048;

/// Empty buffers with some capacity.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// The buffer that was given back last; a new one when there is none.
    pub(crate) fn take(&self) -> Vec<u8> {
        let Ok(mut kept) = self.0.try_lock() else { return Vec::new() };
        let buffer = kept.buffers.pop().unwrap_or_default();
        kept.bytes -= buffer.capacity();
        buffer
    }

    pub(crate) fn give_back(&self, buffers: impl Iterator<Item = Vec<u8>>) {
        let Ok(mut kept) = self.0.try_lock() else { return };
        for mut buffer in buffers {
            let bytes = kept.bytes + buffer.capacity();
            if bytes <= MOST_BYTES && kept.buffers.len() < MOST {
                buffer.clear();
                kept.bytes = bytes;
                kept.buffers.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_bounded() {
        let buffers = Buffers::default();
        buffers.give_back([Vec::with_capacity(100), vec![1; MOST_BYTES]].into_iter());
        let buffer = buffers.take();
        assert!(buffer.is_empty() && buffer.capacity() >= 100);
        assert_eq!(buffers.take().capacity(), 0);
        buffers.give_back((0..2 * MOST).map(|_| vec![1]));
        assert_eq!(buffers.0.lock().unwrap().buffers.len(), MOST);
    }
}
