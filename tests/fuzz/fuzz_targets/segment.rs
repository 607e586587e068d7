#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| assert!(everfold::fuzzing::run("segment", input)));
