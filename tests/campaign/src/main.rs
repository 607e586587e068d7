//! Campaigns that try to make everfold lose what it acknowledged, or take damage for a crash.
//!
//! Each command is one campaign: `cargo run --release --manifest-path tests/campaign/Cargo.toml -- simulate`. It
//! prints a line `FIGURE name value goal` for each count, and ends with an error when something was lost.

mod chance;
mod check;
mod child;
mod claims;
mod damage;
mod figure;
mod fuse;
mod image;
mod kill;
mod lookups;
mod mutants;
mod power;
mod scratch;
mod simulate;
mod syscalls;
mod trace;
#[path = "../../it/view_cases.rs"]
mod view_cases;
mod views;
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
    /// Damages the files of a view, and looks that it is right in the end.
    Views(views::Views),
    /// Lives whole lives of a store in memory, with losses of power at any operation and disks that fail
    Simulate(simulate::Simulate),
    #[command(hide = true)]
    Worker(worker::Worker),
    Kill(kill::Kill),
    Power(power::Power),
    Fuse(fuse::Fuse),
    Syscalls(syscalls::Syscalls),
    Trace(trace::Trace),
    /// Plants bugs into a copy of the source, each of which a check must notice
    Mutants(mutants::Mutants),
    /// Every bit, length, sector, page and file of the golden stores damaged: nothing goes missing silently.
    Damage(damage::Arguments),
}

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let result = match Arguments::parse().campaign {
        Campaign::Views(options) => views::run(&options, &mut figures),
        Campaign::Simulate(args) => simulate::run(&args, &mut figures),
        Campaign::Worker(worker) => return worker.run(),
        Campaign::Kill(kill) => kill.run(&mut figures),
        Campaign::Power(power) => power.run(&mut figures),
        Campaign::Fuse(fuse) => fuse.run(&mut figures),
        Campaign::Trace(trace) => trace.run(&mut figures),
        Campaign::Syscalls(syscalls) => syscalls.run(&mut figures),
        Campaign::Mutants(args) => mutants::run(&args, &mut figures),
        Campaign::Damage(arguments) => damage::run(&arguments, &mut figures),
    };
    match result.and_then(|()| figures.end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("campaign: {message}");
            ExitCode::FAILURE
        }
    }
}
