//! How the log is cut into pieces that are folded apart.

use super::partial::Span;
use super::partial_files::PartialFiles;
use crate::error::Error;
use crate::event::Position;
use crate::log::catalog::Catalog;
use crate::log::holds::truncated;
use crate::options::MAX_SEGMENT_BYTES;

/// Events that follow each other, of which one thread makes a partial result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) after: Position,
    pub(super) to: Position,
    /// The sealed segment that it is, when what it came to is kept or to be kept.
    pub(super) segment: Option<Whole>,
}

/// A whole sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) span: Span,
    /// A larger partial saves nothing.
    pub(super) largest: u64,
    /// Retention has dropped the segment: its partial is all there is.
    pub(super) is_gone: bool,
}

/// How to cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Whether every sealed segment is a piece, or only those with a partial.
    pub(super) by_segment: bool,
    /// What is folded from a log that does not start with the first event.
    pub(super) from_log_start: bool,
    /// Into so many pieces, where they may be of any size.
    pub(super) pieces: u64,
    /// No smaller than this, unless there is no more.
    pub(super) least: u64,
}

impl Cut {
    /// The pieces of the events after a position and up to another one, which the caller holds; the log starts at
    /// `log_start`.
    pub(super) fn pieces(
        &self,
        catalog: &Catalog,
        files: &PartialFiles<'_>,
        log_start: Position,
        (after, to): (Position, Position),
    ) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        let mut done = after;
        let kept = files.list();
        if done.next() < log_start && done < to {
            if self.from_log_start && to >= log_start.previous() {
                done = log_start.previous();
            } else {
                let gone = (after, to.min(log_start.previous()));
                let chain = dropped(files, &kept, gone, &mut pieces).ok_or_else(|| truncated(log_start))?;
                done = gone.1;
                if done.next() == log_start && chain_at(catalog, log_start) != Some(chain) {
                    return Err(truncated(log_start));
                }
            }
        }
        let mut run = done;
        let (first, active) = catalog.numbers();
        for number in first..=active {
            let Some(whole) = whole(catalog, number) else { continue };
            let span = whole.span;
            let inside = done.next() <= span.first && span.last <= to;
            if inside && (self.by_segment || kept.binary_search(&span.first).is_ok()) {
                self.runs(run, span.first.previous(), &mut pieces);
                pieces.push(Piece { after: span.first.previous(), to: span.last, segment: Some(whole) });
                run = span.last;
            }
        }
        self.runs(run, to, &mut pieces);
        Ok(pieces)
    }

    /// Cuts evenly.
    fn runs(&self, mut after: Position, to: Position, pieces: &mut Vec<Piece>) {
        let events = to.get().saturating_sub(after.get());
        let size = events.div_ceil(self.pieces.max(1)).max(self.least).max(1);
        while after < to {
            let end = after.plus(size).min(to);
            pieces.push(Piece { after, to: end, segment: None });
            after = end;
        }
    }
}

/// A segment as a whole; `None` for the active one.
fn whole(catalog: &Catalog, number: u64) -> Option<Whole> {
    let (segment, next) = (catalog.segment(number)?, catalog.segment(number.checked_add(1)?)?);
    let span = Span {
        first: segment.header.first,
        last: next.header.first.previous(),
        salt: segment.header.salt,
        chain_before: segment.header.prev_chain,
        chain_after: next.header.prev_chain,
    };
    Some(Whole { span, largest: segment.header.segment_size, is_gone: false })
}

/// The chain value at the log's start.
fn chain_at(catalog: &Catalog, log_start: Position) -> Option<u32> {
    let first = catalog.segment_with(log_start)?;
    (first.header.first == log_start).then_some(first.header.prev_chain)
}

/// Adds pieces of segments that retention has dropped, when partials of all of them are left and each fits to the one
/// before. Returns the chain value at their end.
fn dropped(
    files: &PartialFiles<'_>,
    kept: &[Position],
    (after, to): (Position, Position),
    pieces: &mut Vec<Piece>,
) -> Option<u32> {
    let (mut done, mut chain) = (after, None);
    while done < to {
        kept.binary_search(&done.next()).ok()?;
        let span = files.load(done.next(), MAX_SEGMENT_BYTES)?.span;
        let follows = chain.is_none_or(|chain| chain == span.chain_before);
        if !follows || span.last <= done || span.last > to {
            return None;
        }
        let segment = Some(Whole { span, largest: MAX_SEGMENT_BYTES, is_gone: true });
        pieces.push(Piece { after: done, to: span.last, segment });
        (done, chain) = (span.last, Some(span.chain_after));
    }
    chain
}
