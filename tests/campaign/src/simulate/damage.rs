//! Damage on top of a crash: it is told, or changes nothing.

use everfold::MemoryStorage;

use super::Held;
use super::image::Examiner;
use super::oracle::{Found, Promise};
use super::setting::Setting;

impl Examiner<'_> {
    /// Flips a bit in what a loss of power left, before anybody has recovered it.
    pub(crate) fn damage_before(&mut self, storage: &MemoryStorage, promise: &Promise) -> Held {
        // A sector of zeros inside a frame looks as if it had not been written: then damage to the last group cannot be
        // told from a crash.
        let end = usize::try_from(promise.durable).unwrap();
        let last = &self.oracle.facts[end.saturating_sub(24)..end];
        if last.iter().any(|fact| fact.payload.len() > 400 && fact.payload.iter().all(|byte| *byte == 0)) {
            return Ok(());
        }
        let damaged = storage.crash(u64::MAX);
        let Some(place) = self.flip(&damaged, ".seg") else { return Ok(()) };
        self.told_or_there(&damaged, promise).map_err(|message| format!("{place}: {message}"))
    }

    /// Damages a slot of the mark in what a loss of power left: nothing is lost by that, and nothing comes back.
    pub(crate) fn damage_mark(&mut self, before: &MemoryStorage, promise: &Promise, found: Found) -> Held {
        let slot = self.dice.below(2) * 4096;
        if before.overwrite("MARK", slot, &[9; 512]).is_err() {
            return Ok(());
        }
        // In the middle of a retention one slot has the old start.
        let same = Promise { starts: promise.starts.clone(), ..Promise::exactly(found) };
        let checked = self.open(before).and_then(|store| self.oracle.check(&store, &same));
        checked.map(drop).map_err(|message| {
            format!("found {found:?}, and with a damaged slot of the mark at {slot}: {message}")
        })
    }

    /// Damages what was recovered, all of which the mark proves.
    pub(crate) fn damage_after(&mut self, storage: &MemoryStorage, found: Found) -> Held {
        let damaged = storage.crash(u64::MAX);
        let (kind, exact) = (self.dice.below(4), Promise::exactly(found));
        let place = match kind {
            0 => self.flip(&damaged, ".seg"),
            1 => self.wipe(&damaged),
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

    /// Flips a bit, half of the time of a frame's header.
    fn flip(&mut self, storage: &MemoryStorage, suffix: &str) -> Option<String> {
        let (name, len) = self.file(storage, |name| name.ends_with(suffix))?;
        let content = storage.file(&name)?;
        let end = content.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let headers: Vec<u64> = (4096..end)
            .step_by(8)
            .filter(|at| content[usize::try_from(*at).unwrap()..].starts_with(b"FRM1"))
            .collect();
        let offset = match (self.dice.below(8), headers.last()) {
            (0..2, Some(last)) => last + self.dice.below(64),
            (2..4, Some(_)) => self.dice.pick(&headers) + self.dice.below(64),
            (4, _) => self.dice.below(len),
            _ => self.dice.below(end),
        };
        let bit = u8::try_from(self.dice.below(8)).unwrap();
        storage.flip_bit(&name, offset, bit).ok()?;
        Some(format!("bit {bit} of {name} at {offset} flipped"))
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
