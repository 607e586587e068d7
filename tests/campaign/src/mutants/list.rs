//! The planted bugs.

/// A bug: what is put in place of what, the promise that it breaks, and the check that must notice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    pub(crate) breaks: &'static str,
    pub(crate) file: &'static str,
    /// Stands in the file exactly once.
    pub(crate) old: &'static str,
    pub(crate) new: &'static str,
    pub(crate) check: Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// `campaign simulate`, for so many crashes at the most.
    Simulate(u64),
    /// The tests of `tests/it` whose names have this in them.
    Test(&'static str),
    /// The tests beside the code whose names have this in them.
    Unit(&'static str),
}

/// What most are found with long before its end.
const SHORT: Check = Check::Simulate(40_000);

/// The rows of a view under losses of power.
const LEVELS: Check = Check::Unit("view::levels::tests");

pub(crate) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "group-not-synced",
        breaks: "what was acknowledged as durable survives a loss of power",
        file: "src/log/syncs.rs",
        old: "let result = file.sync();",
        new: "let result = file.len().map(drop);",
        check: SHORT,
    },
    Mutant {
        name: "acknowledged-before-sync",
        breaks: "a durable append returns after the sync",
        file: "src/log/committer.rs",
        old: "Durability::Durable => writer.sync(),",
        new: "Durability::Durable => writer.write(),",
        check: SHORT,
    },
    Mutant {
        name: "failed-sync-tried-again",
        breaks: "a sync that failed is never taken for one that succeeded",
        file: "src/log/syncs.rs",
        old: "let result = file.sync();",
        new: "let result = file.sync().or_else(|_| file.sync());",
        check: SHORT,
    },
    Mutant {
        name: "not-poisoned",
        breaks: "after a failed write or sync there are no more appends",
        file: "src/log/writer.rs",
        old: "        self.failure = Some(failure.clone());\n",
        new: "",
        check: SHORT,
    },
    Mutant {
        name: "watermark-early",
        breaks: "nothing is readable before it is durable",
        file: "src/log/writer.rs",
        old: "Reached { durable: self.durable, failure: self.failure.clone() }",
        new: "Reached { durable: self.place.next.previous(), failure: self.failure.clone() }",
        check: SHORT,
    },
    Mutant {
        name: "roll-folder-not-synced",
        breaks: "a segment's name is durable before a frame goes into it",
        file: "src/log/spare.rs",
        old: "        self.slot().taken = false;\n        self.storage.sync_folder(LOG_FOLDER)\n",
        new: "        self.slot().taken = false;\n        Ok(())\n",
        check: SHORT,
    },
    Mutant {
        name: "seal-not-synced",
        breaks: "a segment's seal is durable before the next segment says where it is",
        file: "src/log/writer.rs",
        old: "            self.push_control(SEAL);\n            self.sync()?;\n",
        new: "            self.push_control(SEAL);\n            self.write()?;\n",
        check: SHORT,
    },
    Mutant {
        name: "header-not-synced",
        breaks: "a segment's header is durable before it has its name",
        file: "src/log/writer.rs",
        old: "        file.sync().map_err(|e| fault(\"sync\", e))?;\n        self.spare.give_name",
        new: "        self.spare.give_name",
        check: SHORT,
    },
    Mutant {
        name: "mark-before-sync",
        breaks: "the mark is written after the sync of what it speaks of",
        file: "src/log/writer.rs",
        old: "            self.push_control(CLEAN);\n            self.sync()?;\n",
        new: "            self.push_control(CLEAN);\n            self.write()?;\n",
        check: SHORT,
    },
    Mutant {
        name: "store-before-its-folder",
        breaks: "all that a store needs is durable before it is said to be one",
        file: "src/log/create.rs",
        old: "    storage.sync_folder(\"\").map_err(|e| Error::io(\"sync the directory\", e))?;\n    let store = StoreFile {",
        new: "    let store = StoreFile {",
        check: SHORT,
    },
    Mutant {
        name: "chain-not-checked",
        breaks: "a frame that does not follow from the one before it is none of the log's",
        file: "src/log/walk.rs",
        old: "(header.chain != chain, \"its chain value is another\"),",
        new: "(header.chain != chain && false, \"its chain value is another\"),",
        check: Check::Test("a_frame_that_follows_from_another_one_is_left_over"),
    },
    Mutant {
        name: "half-a-batch",
        breaks: "a batch is recovered whole or not at all",
        file: "src/log/frame.rs",
        old: "            visit(record::decode(body, at, self.slot(index, salt)).map_err(fault)?);\n",
        new: "            match record::decode(body, at, self.slot(index, salt)) {\n                Ok(event) => visit(event),\n                Err(_) => break,\n            }\n",
        check: SHORT,
    },
    Mutant {
        name: "header-crc-without-length",
        breaks: "a frame's length is verified before anything trusts it",
        file: "src/log/frame.rs",
        old: "    hasher.update(header.get(8..).unwrap_or_default());\n",
        new: "    hasher.update(header.get(12..).unwrap_or_default());\n",
        check: Check::Simulate(200_000),
    },
    Mutant {
        name: "rule-3-off",
        breaks: "damage to what a later frame proves to have been durable is refused",
        file: "src/log/recovery.rs",
        old: "beyond.witness.filter(|(_, durable)| *durable >= place.next)",
        new: "beyond.witness.filter(|(_, durable)| *durable >= Position::END)",
        check: Check::Test("a_flipped_bit_in_an_acknowledged_frame_refuses_to_open_and_names_the_place"),
    },
    Mutant {
        name: "rule-4-off",
        breaks: "what the mark proves to have been durable is not taken for a torn write",
        file: "src/log/recovery.rs",
        old: "filter(|mark| mark.durable >= place.next || self.reaches_beyond(place))",
        new: "filter(|mark| mark.durable >= Position::END && self.reaches_beyond(place))",
        check: Check::Simulate(200_000),
    },
    Mutant {
        name: "rule-9-off",
        breaks: "what no mark proves is written once more before it is served",
        file: "src/log/recovery.rs",
        old: "    copy((file.as_ref(), from), (file.as_ref(), from), bytes).map_err",
        new: "    copy((file.as_ref(), from), (file.as_ref(), from), 0).map_err",
        check: SHORT,
    },
    Mutant {
        name: "removed-bytes-not-zeroed",
        breaks: "what recovery removed does not come back",
        file: "src/log/recovery.rs",
        old: "    let mut at = from;\n    while at < until {\n        let piece = zeros",
        new: "    let mut at = from.max(until);\n    while at < until {\n        let piece = zeros",
        check: SHORT,
    },
    Mutant {
        name: "quarantine-not-synced",
        breaks: "what recovery removes is kept durably before it is removed",
        file: "src/log/recovery.rs",
        old: "    file.sync().map_err(|e| fault(\"sync a file\", e))?;\n",
        new: "",
        check: SHORT,
    },
    Mutant {
        name: "retention-marks-one-slot",
        breaks: "one damaged slot of the mark does not bring back what was dropped",
        file: "src/log/writer.rs",
        old: "self.write_mark(false).and_then(|()| self.write_mark(false)).map_err(|e| self.poison(e))",
        new: "self.write_mark(false).map_err(|e| self.poison(e))",
        check: Check::Simulate(200_000),
    },
    Mutant {
        name: "base-not-durable",
        breaks: "the versions of dropped streams are durable before the log starts behind them",
        file: "src/log/retaining.rs",
        old: "        catalog\n            .storage\n            .sync_folder(LOG_FOLDER)\n            .map_err(|e| Error::io(format_args!(\"sync {LOG_FOLDER}\"), e))?;\n        return match",
        new: "        return match",
        check: SHORT,
    },
    Mutant {
        name: "index-trusted",
        breaks: "a page of an index is verified before it is used",
        file: "src/log/index/pages.rs",
        old: "                    check(page, self.tag, number).ok_or_else(damaged)?;\n                    word.fetch_or",
        new: "                    word.fetch_or",
        check: Check::Simulate(200_000),
    },
    Mutant {
        name: "guard-sees-no-newer-events",
        breaks: "guards see every event before the append, also those that came after it was submitted",
        file: "src/log/guarding.rs",
        old: "                let newer = last_match(self.catalog, query, after.max(*up_to), self.last)?;\n                Ok(newer.or(*last))",
        new: "                let newer = last_match(self.catalog, query, after.max(*up_to), *up_to)?;\n                Ok(newer.or(*last))",
        check: SHORT,
    },
    Mutant {
        name: "view-says-more-than-it-has",
        breaks: "a view's checkpoint is the last event applied to it",
        file: "src/projection/folding.rs",
        old: "let Applied { position: checkpoint, fingerprint, .. } = at;",
        new: "let (checkpoint, fingerprint) = (at.position.next(), at.fingerprint);",
        check: SHORT,
    },
    Mutant {
        name: "view-checkpoint-in-a-write-of-its-own",
        breaks: "rows and checkpoint of a view are changed in one step",
        file: "src/view/levels/blocks.rs",
        old: "        let mut writes: Vec<Change> = vec![(DRAINING_KEY.to_vec(), Some(mark))];",
        new: "        self.stored.write(&[(META_KEY.to_vec(), Some(meta.encode()))])?;\n        let mut writes: Vec<Change> = vec![(DRAINING_KEY.to_vec(), Some(mark))];",
        check: LEVELS,
    },
    Mutant {
        name: "drain-not-marked",
        breaks: "rows that were drained in part are not served without the record of all",
        file: "src/view/levels/blocks.rs",
        old: "vec![(DRAINING_KEY.to_vec(), Some(mark))]",
        new: "vec![(DRAINING_KEY.to_vec(), None); mark.len().min(1)]",
        check: LEVELS,
    },
    Mutant {
        name: "drain-not-durable",
        breaks: "redo records stay until the rows are durable in the key-value store",
        file: "src/view/levels/drain.rs",
        old: "            self.bottom.make_durable()?;\n",
        new: "",
        check: LEVELS,
    },
    Mutant {
        name: "retention-by-the-unsynced-checkpoint",
        breaks: "the log is dropped up to where its views durably are, and no further",
        file: "src/projection/projector.rs",
        old: "(true, _) => self.state.make_durable()",
        new: "(true, _) => Ok::<_, Error>(self.state.checkpoint.get())",
        check: Check::Test("what_a_retention_leaves_is_enough_for_the_views_as_they_are_on_disk"),
    },
];
