//! Campaigns that try to make everfold lose what it acknowledged, or take damage for a crash.
//!
//! Each command is one campaign: `cargo run --release --manifest-path tests/campaign/Cargo.toml -- simulate`. It
//! prints a line `FIGURE name value goal` for each count, and ends with an error when something was lost.

mod figure;
mod mutants;
mod simulate;

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
    /// Lives whole lives of a store in memory, with losses of power at any operation and disks that fail
    Simulate(simulate::Simulate),
    /// Plants bugs into a copy of the source, each of which a check must notice
    Mutants(mutants::Mutants),
}

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let result = match Arguments::parse().campaign {
        Campaign::Simulate(args) => simulate::run(&args, &mut figures),
        Campaign::Mutants(args) => mutants::run(&args, &mut figures),
    };
    match result.and_then(|()| figures.end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("campaign: {message}");
            ExitCode::FAILURE
        }
    }
}
