//! The fuzz targets, in a form that ends: the corpus, and mutations of it from a fixed seed.
//!
//! `tests/fuzz/run` goes on from there with libFuzzer, for as long as it is told to.

#[path = "../fuzz/query.rs"]
mod query;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use everfold::fuzzing::{TARGETS, Target};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus");
/// The largest input that is kept, and made.
const LARGEST: usize = 4096;
const SEED: u64 = 0x5EED_0F0A_11DE_C0DE;

fn targets() -> Vec<Target> {
    TARGETS.into_iter().chain([Target { name: "query_text", run: query::query_text }]).collect()
}

/// The inputs of a target, by the names of their files.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(CORPUS).join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect()
}

/// xorshift64*: the same numbers everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}

/// An input changed a little: bits, bytes, numbers at an edge, pieces left out, repeated, or taken from another one.
fn mutated(inputs: &[&Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = inputs[numbers.below(inputs.len())].clone();
    for _ in 0..=numbers.below(5) {
        let (at, len) = (numbers.below(bytes.len() + 1), numbers.below(12));
        let end = (at + len).min(bytes.len());
        match numbers.below(7) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (len % 8)),
            1 => bytes.iter_mut().skip(at).take(len).for_each(|byte| *byte = numbers.byte()),
            2 => {
                let edge = [0, 1, 0x7F, 0x80, 0xFF][numbers.below(5)];
                bytes.iter_mut().skip(at).take([1, 2, 4, 8][len % 4]).for_each(|byte| *byte = edge);
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let new: Vec<u8> = (0..len).map(|_| numbers.byte()).collect();
                bytes.splice(at..at, new);
            }
            _ => {
                let other = inputs[numbers.below(inputs.len())];
                let from = numbers.below(other.len() + 1);
                let piece = other[from..(from + 4 * len).min(other.len())].to_vec();
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes.truncate(LARGEST);
    bytes
}

/// Runs a target; says which input it panicked over.
#[track_caller]
fn run(target: &Target, input: &[u8], which: &str) {
    let whole = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
    assert!(whole, "{} panicked over {which}: {input:02x?}", target.name);
}

/// Runs a target over its corpus, and over so many mutations of it.
fn run_mutations(name: &str, mutations: usize) {
    let target = targets().into_iter().find(|target| target.name == name).unwrap();
    let inputs = inputs(name);
    let (all, mut numbers) = (inputs.values().collect::<Vec<_>>(), Numbers(SEED));
    inputs.iter().for_each(|(file, input)| run(&target, input, file));
    for n in 0..mutations {
        run(&target, &mutated(&all, &mut numbers), &format!("mutation {n}"));
    }
}

#[test]
fn every_target_has_a_small_corpus_and_a_program_and_nothing_else_has_one() {
    let mut names: Vec<_> = targets().iter().map(|target| target.name.to_owned()).collect();
    names.sort_unstable();
    for (folder, ending) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let folder = Path::new(CORPUS).parent().unwrap().join(folder);
        let mut there: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(ending, ""))
            .collect();
        there.sort_unstable();
        assert_eq!(there, names);
    }
    for name in &names {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name}");
        assert!(inputs.values().all(|input| input.len() <= LARGEST), "{name}");
        assert!(inputs.values().map(Vec::len).sum::<usize>() <= 128 << 10, "{name}: keep the corpus small");
    }
}

#[test]
fn headers_records_and_frames_take_any_bytes() {
    for name in ["store_file", "mark", "segment_header", "view_meta", "record", "frame"] {
        run_mutations(name, 30_000);
    }
}

#[test]
fn keys_payloads_and_query_texts_take_any_bytes() {
    for name in ["key", "payload", "query_text"] {
        run_mutations(name, 30_000);
    }
}

#[test]
fn a_scan_gets_through_any_segment() {
    run_mutations("segment", 10_000);
}

#[test]
fn pages_of_indexes_take_any_bytes() {
    for name in ["index", "directory", "base"] {
        run_mutations(name, 5_000);
    }
}

#[test]
fn no_files_of_a_store_keep_it_from_being_opened_or_refused() {
    run_mutations("store", 1_500);
}

#[test]
fn any_operations_have_the_same_effect_on_a_store_and_on_a_list() {
    run_mutations("operations", 1_000);
}
