//! Where partials are: `folds/<name>/<generation>-<first position, 20 digits>.part`, in the store's storage.
//!
//! They are derived and disposable, as indexes are. Only those of segments that retention has dropped cannot be made anew:
//! they are kept until their fold's files are removed by hand.

use std::io;

use super::partial::{Owner, Partial, Span};
use crate::event::Position;
use crate::storage::{Storage, whole};

const FOLDS_FOLDER: &str = "folds";

#[derive(Clone, Copy, Debug)]
pub(super) struct PartialFiles<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) owner: Owner<'a>,
}

impl PartialFiles<'_> {
    fn folder(&self) -> String {
        format!("{FOLDS_FOLDER}/{}", self.owner.name)
    }

    fn path(&self, first: Position) -> String {
        format!("{}/{}-{:020}.part", self.folder(), self.owner.generation, first.get())
    }

    /// The generations and first positions of all there are, of whatever generation. None where that cannot be told.
    fn all(&self) -> Vec<(u32, Position)> {
        let names = self.storage.list(&self.folder()).unwrap_or_default();
        names.iter().filter_map(|name| named(name)).collect()
    }

    /// The first positions of the partials there are, in order.
    pub(super) fn list(&self) -> Vec<Position> {
        let own = self.all().into_iter().filter(|(generation, _)| *generation == self.owner.generation);
        let mut firsts: Vec<_> = own.map(|(_, first)| first).collect();
        firsts.sort_unstable();
        firsts
    }

    /// The partial of the segment that starts here, if there is one that verifies. A file that is larger than that is
    /// none, and is not read.
    pub(super) fn load(&self, first: Position, largest: u64) -> Option<Partial> {
        let bytes = whole::read(self.storage, &self.path(first), largest).ok()??;
        let partial = Partial::decode(bytes, &self.owner)?;
        (partial.span.first == first).then_some(partial)
    }

    /// Keeps a partial. Its name is durable after [`settle`](Self::settle).
    pub(super) fn store(&self, span: &Span, bytes: &[u8]) -> io::Result<()> {
        self.storage.create_folder(FOLDS_FOLDER)?;
        self.storage.create_folder(&self.folder())?;
        whole::write(self.storage, &self.path(span.first), bytes)
    }

    /// Makes the names of new partials durable, and removes those of earlier generations that could be made anew.
    pub(super) fn settle(&self, log_start: Position) -> io::Result<()> {
        let generation = self.owner.generation;
        for (earlier, first) in self.all() {
            if earlier < generation && first >= log_start {
                let name = format!("{}/{earlier}-{:020}.part", self.folder(), first.get());
                self.storage.remove(&name)?;
            }
        }
        self.storage.sync_folder(&self.folder())?;
        self.storage.sync_folder(FOLDS_FOLDER)?;
        self.storage.sync_folder("")
    }
}

/// The generation and first position in the name of a partial.
fn named(name: &str) -> Option<(u32, Position)> {
    let (generation, digits) = name.strip_suffix(".part")?.split_once('-')?;
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let own = digits.len() == 20 && are_digits(digits) && are_digits(generation);
    own.then(|| Some((generation.parse().ok()?, Position::new(digits.parse().ok()?))))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_partials_are_read_as_such() {
        assert_eq!(named("3-00000000000000000017.part"), Some((3, Position::new(17))));
        for name in [
            "3-17.part",
            "3-00000000000000000017.part.tmp",
            "x-00000000000000000017.part",
            "-00000000000000000017.part",
            "3-0000000000000000001x.part",
            "",
        ] {
            assert_eq!(named(name), None, "{name}");
        }
    }
}
