//! Damage on top of a crash: it is told, or changes nothing.

use everfold::{MemoryStorage, Store};

use super::image::Examiner;
use super::oracle::{Found, Promise};
use super::setting::Setting;
use super::{Held, ensure};

impl Examiner<'_> {
    /// Flips a bit in what a loss of power left, before anybody has recovered it.
    pub(crate) fn damage_before(&mut self, storage: &MemoryStorage, promise: &Promise) -> Held {
        // A sector of zeros inside a frame looks as if it had not been written: then damage to the last group cannot be
        // told from a crash.
        if self
            .oracle
            .facts
            .iter()
            .any(|fact| fact.payload.len() > 400 && fact.payload.iter().all(|byte| *byte == 0))
        {
            return Ok(());
        }
        let damaged = storage.crash(u64::MAX);
        let Some(place) = self.flip(&damaged, ".seg") else { return Ok(()) };
        self.told_or_there(&damaged, promise).map_err(|message| format!("{place}: {message}"))
    }

    /// Damages what was recovered, all of which the mark proves.
    pub(crate) fn damage_after(&mut self, store: &Store, storage: &MemoryStorage, found: Found) -> Held {
        let damaged = storage.crash(u64::MAX);
        let (kind, exact) = (self.dice.below(5), Promise::exactly(found));
        let place = match kind {
            0 => self.flip(&damaged, ".seg"),
            1 => self.wipe(&damaged),
            2 if store.recovery().notes.is_empty() => {
                let slot = self.dice.below(2) * 4096;
                damaged.overwrite("MARK", slot, &[9; 512]).ok().map(|()| format!("the mark's slot at {slot}"))
            }
            2 => None,
            _ => self.harm_indexes(&damaged),
        };
        let Some(place) = place else { return Ok(()) };
        let outcome = match kind {
            0 | 1 => self.told_or_there(&damaged, &exact),
            _ => {
                let again =
                    self.found_again(&damaged, found, "opening").map_err(|m| format!("{place}: {m}"))?;
                self.oracle.check_answers(&again, found, self.dice.next())
            }
        };
        outcome.map_err(|message| format!("damage to {place}: {message}"))
    }

    /// Opens damaged files: an error tells of the damage, or everything is there.
    fn told_or_there(&mut self, damaged: &MemoryStorage, promise: &Promise) -> Held {
        let options = self.setting.options(Setting::opening(self.dice));
        let Ok(store) = options.open_memory(damaged) else { return Ok(()) };
        let mut told = false;
        for event in store.read(store.log_start().previous()) {
            match event {
                Ok(event) => self.oracle.knows(&event)?,
                Err(_) => told = true,
            }
        }
        if !told {
            self.oracle.check(&store, promise).map_err(|message| format!("without a word, {message}"))?;
        }
        Ok(())
    }

    fn file(&mut self, storage: &MemoryStorage, wanted: impl Fn(&str) -> bool) -> Option<(String, u64)> {
        let files: Vec<String> = storage.files().into_iter().filter(|name| wanted(name)).collect();
        let name = files.get(self.dice.size(files.len()))?.clone();
        let len = u64::try_from(storage.file(&name)?.len()).ok()?;
        (len > 0).then_some((name, len))
    }

    fn flip(&mut self, storage: &MemoryStorage, suffix: &str) -> Option<String> {
        let (name, len) = self.file(storage, |name| name.ends_with(suffix))?;
        let content = storage.file(&name)?;
        let end = content.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        // Where something is, as a rule.
        let offset = self.dice.below(if self.dice.clone().one_in(8) { len } else { end });
        let offset = if self.dice.one_in(2) && end > 4096 { 4096 + offset % (end - 4096) } else { offset };
        storage.flip_bit(&name, offset, 3).ok()?;
        Some(format!("a flipped bit of {name} at {offset}"))
    }

    /// A sector of zeros.
    fn wipe(&mut self, storage: &MemoryStorage) -> Option<String> {
        let (name, len) = self.file(storage, |name| name.ends_with(".seg"))?;
        let offset = self.dice.below(len / 512) * 512;
        storage.overwrite(&name, offset, &[0; 512]).ok()?;
        Some(format!("a wiped sector of {name} at {offset}"))
    }

    fn harm_indexes(&mut self, storage: &MemoryStorage) -> Option<String> {
        let is_index = |name: &str| name.ends_with(".idx") || name.ends_with(".keys");
        let mut harmed = Vec::new();
        for _ in 0..3 {
            let (name, len) = self.file(storage, is_index)?;
            let offset = self.dice.below(len);
            match self.dice.below(4) {
                0 => storage.delete(&name).ok()?,
                1 => storage.truncate(&name, offset).ok()?,
                // Most of a page is room that nothing uses.
                _ => storage.flip_bit(&name, offset / 4096 * 4096 + offset % 160, 0).ok()?,
            }
            harmed.push(format!("{name} at {offset}"));
            if !storage.files().iter().any(|name| is_index(name)) {
                break;
            }
        }
        Some(harmed.join(", "))
    }
}
