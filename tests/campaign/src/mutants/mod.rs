//! Bugs planted one at a time into a copy of the source, each of which a named check must notice. What notices nothing
//! proves nothing.

mod copy;
mod list;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::figure::Figures;
use copy::Tree;
use list::{Check, MUTANTS, Mutant};

#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Only those whose names have this in them
    #[arg(long, default_value = "")]
    only: String,
    /// Names them, and what each of them breaks
    #[arg(long)]
    list: bool,
    /// Trusts that the source passes the checks as it is
    #[arg(long)]
    skip_unchanged: bool,
}

/// How a check ended.
enum Ended {
    Passed,
    /// What it said.
    Failed(String),
}

pub(crate) fn run(args: &Mutants, figures: &mut Figures) -> Result<(), String> {
    let chosen: Vec<&Mutant> = MUTANTS.iter().filter(|mutant| mutant.name.contains(&args.only)).collect();
    if args.list {
        chosen.iter().for_each(|mutant| println!("{}: {} ({:?})", mutant.name, mutant.breaks, mutant.check));
        return Ok(());
    }
    let tree = Tree::copy(&source(), &target()?)?;
    if !args.skip_unchanged {
        pass_unchanged(&tree, &chosen)?;
    }
    let mut caught = 0;
    for mutant in &chosen {
        let started = Instant::now();
        let ended = tree.with(mutant, || check(&tree, mutant.check))?;
        let took = started.elapsed().as_secs();
        match ended {
            Ended::Passed => println!("MISSED {} ({took} s): {}", mutant.name, mutant.breaks),
            Ended::Failed(what) => {
                caught += 1;
                println!("caught {} ({took} s) by {:?}: {what}", mutant.name, mutant.check);
            }
        }
    }
    figures.all("mutants_caught", caught, chosen.len() as u64);
    Ok(())
}

/// Where everfold's source is.
fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// The folder that this program was built in.
fn target() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("where this program is: {e}"))?;
    own.ancestors().nth(2).map(Path::to_owned).ok_or_else(|| "this program is nowhere".to_owned())
}

/// Each check passes where nothing is planted.
fn pass_unchanged(tree: &Tree, chosen: &[&Mutant]) -> Result<(), String> {
    let mut checks: Vec<Check> = Vec::new();
    for check in chosen.iter().map(|mutant| mutant.check) {
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    for one in checks {
        if let Ended::Failed(what) = check(tree, one)? {
            return Err(format!("{one:?} fails without a planted bug: {what}"));
        }
        println!("passes unchanged: {one:?}");
    }
    Ok(())
}

/// Builds the tree and runs a check. An error when it does not compile, or does not end.
fn check(tree: &Tree, check: Check) -> Result<Ended, String> {
    match check {
        Check::Simulate(crashes) => {
            tree.build_campaign()?;
            let said = tree.simulate(crashes)?;
            let violation = said.text.lines().find(|line| line.starts_with("VIOLATION"));
            ended(said.success, violation.map(|line| line.chars().take(400).collect()))
        }
        Check::Test(name) => run_tests(tree, &["--test", "it"], name),
        Check::Unit(name) => run_tests(tree, &["--lib"], name),
    }
}

fn run_tests(tree: &Tree, place: &[&str], name: &str) -> Result<Ended, String> {
    tree.build_tests(place)?;
    let said = tree.test(place, name)?;
    if said.text.contains("running 0 tests") {
        return Err(format!("no test has {name:?} in its name"));
    }
    let failed = said.text.lines().find(|line| line.starts_with("test ") && line.ends_with("FAILED"));
    ended(said.success, failed.map(str::to_owned))
}

fn ended(success: bool, what: Option<String>) -> Result<Ended, String> {
    match (success, what) {
        (true, None) => Ok(Ended::Passed),
        (false, Some(what)) => Ok(Ended::Failed(what)),
        (success, what) => Err(format!("a check ended with success {success}, and said {what:?}")),
    }
}
