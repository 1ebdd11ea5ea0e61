#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rpc_core::fuzzing::run("endpoint", bytes));
