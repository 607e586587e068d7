//! Campaigns that try to make everfold lose what it acknowledged, or take damage for a crash.
//!
//! Each command is one campaign: `cargo run --release --manifest-path tests/campaign/Cargo.toml -- simulate`. It
//! prints a line `FIGURE name value goal` for each count, and ends with an error when something was lost.

mod damage;
mod figure;

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
    /// Every bit, length, sector, page and file of the golden stores damaged: nothing goes missing silently.
    Damage(damage::Arguments),
}

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let result: Result<(), String> = match Arguments::parse().campaign {
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
