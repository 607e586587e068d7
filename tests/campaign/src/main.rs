//! Campaigns that try to make everfold lose what it acknowledged, or take damage for a crash.
//!
//! Each command is one campaign: `cargo run --release --manifest-path tests/campaign/Cargo.toml -- simulate`. It
//! prints a line `FIGURE name value goal` for each count, and ends with an error when something was lost.

mod chance;
mod check;
mod child;
mod claims;
mod figure;
mod fuse;
mod image;
mod kill;
mod lookups;
mod power;
mod scratch;
mod syscalls;
mod trace;
mod worker;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use figure::Figures;

#[derive(Debug, Parser)]
#[command(name = "campaign", about = "Tries to make everfold lose what it acknowledged", version)]
struct Arguments {
    #[command(subcommand)]
    campaign: Campaign,
}

#[derive(Debug, Subcommand)]
enum Campaign {
    #[command(hide = true)]
    Worker(worker::Worker),
    Kill(kill::Kill),
    Power(power::Power),
    Fuse(fuse::Fuse),
    Syscalls(syscalls::Syscalls),
    Trace(trace::Trace),
}

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let result: Result<(), String> = match Arguments::parse().campaign {
        Campaign::Worker(worker) => return worker.run(),
        Campaign::Kill(kill) => kill.run(&mut figures),
        Campaign::Power(power) => power.run(&mut figures),
        Campaign::Fuse(fuse) => fuse.run(&mut figures),
        Campaign::Trace(trace) => trace.run(&mut figures),
        Campaign::Syscalls(syscalls) => syscalls.run(&mut figures),
    };
    match result.and_then(|()| figures.end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("campaign: {message}");
            ExitCode::FAILURE
        }
    }
}
