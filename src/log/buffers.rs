//! Memory for requests, used again: fresh memory costs more than what is encoded into it. Nobody waits for it: whoever
//! finds it locked does without.

use std::sync::Mutex;

use super::request::RequestBuffers;

/// So many bytes are kept, and so many buffers.
const MOST_BYTES: usize = 8 << 20;
const MOST: usize = 2048;

/// Empty buffers with some capacity.
#[derive(Debug, Default)]
pub(crate) struct Buffers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<RequestBuffers>,
    bytes: usize,
}

impl Buffers {
    /// The buffer that was given back last; a new one when there is none.
    pub(crate) fn take(&self) -> RequestBuffers {
        let Ok(mut kept) = self.0.try_lock() else { return RequestBuffers::default() };
        let buffer = kept.buffers.pop().unwrap_or_default();
        kept.bytes -= buffer.size();
        buffer
    }

    pub(crate) fn give_back(&self, buffers: impl Iterator<Item = RequestBuffers>) {
        let Ok(mut kept) = self.0.try_lock() else { return };
        for mut buffer in buffers {
            let bytes = kept.bytes + buffer.size();
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
        buffers.give_back([RequestBuffers::of(100), RequestBuffers::of(MOST_BYTES + 1)].into_iter());
        assert_eq!((buffers.take().size(), buffers.take().size()), (100, 0));
        buffers.give_back((0..2 * MOST).map(|_| RequestBuffers::of(1)));
        assert_eq!(buffers.0.lock().unwrap().buffers.len(), MOST);
    }
}
