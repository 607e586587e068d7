//! Bytes taken from the front of an input, and changes to a file as they say.

/// What is left of an input. Beyond its end there are zeros.
#[derive(Clone, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

/// The most edits that one input makes.
const MOST_EDITS: usize = 64;
/// No file becomes longer than this.
const LONGEST_FILE: usize = 1 << 16;
/// Numbers that stand at an edge.
const EDGES: [u64; 8] = [0, 1, 7, 8, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, u64::MAX];

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        taken.iter_mut().zip(self.bytes(N)).for_each(|(to, from)| *to = *from);
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn short(&mut self) -> usize {
        u16::from_le_bytes(self.array()).into()
    }

    pub(super) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.short() % end.max(1)
    }

    /// Up to so many bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Changes a file as the rest of the input says. Returns whether anything is changed.
pub(super) fn edit_all(file: &mut Vec<u8>, input: &mut Input<'_>) -> bool {
    let before = file.clone();
    for _ in 0..MOST_EDITS {
        if input.is_empty() {
            break;
        }
        edit(file, input);
    }
    *file != before
}

/// Changes a file once.
pub(super) fn edit(file: &mut Vec<u8>, input: &mut Input<'_>) {
    let kind = input.byte();
    let at = input.short();
    match kind % 8 {
        0 => put(file, at, &[input.byte()]),
        1 => {
            let len = input.byte() % 24;
            put(file, at, input.bytes(len.into()));
        }
        2 => {
            let edge = EDGES.get(usize::from(input.byte() % 8)).copied().unwrap_or_default().to_le_bytes();
            let width = [1, 2, 4, 8].get(usize::from(kind / 8 % 4)).copied().unwrap_or(8);
            put(file, at, edge.get(..width).unwrap_or_default());
        }
        3 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (kind / 8 % 8);
            }
        }
        4 => file.truncate(at),
        5 => {
            let (from, len) = (input.short(), input.short() % 1024);
            let copied: Vec<u8> = file.iter().skip(from).take(len).copied().collect();
            put(file, at, &copied);
        }
        6 => put(file, at / 512 * 512, &[0; 512]),
        _ => {
            let len = file.len().saturating_add(at % 5000).min(LONGEST_FILE);
            file.resize(len, kind / 8);
        }
    }
}

/// Replaces bytes as far as the file goes.
pub(super) fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}
