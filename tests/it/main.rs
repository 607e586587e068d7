//! Behaviour through the public API. Test names are sentences.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that meets the unexpected should stop there"
)]

mod append;
mod ask;
mod backup;
mod bank;
mod beside;
mod block_on;
mod changes;
mod changes_redriven;
#[cfg(feature = "cli")]
mod cli;
#[cfg(all(feature = "cli", unix))]
mod cli_hostile;
#[cfg(feature = "cli")]
mod cli_query;
#[cfg(all(feature = "cli", unix))]
mod cli_views;
mod crash;
mod damage;
mod decide;
mod decide_cached;
mod decide_saved;
mod durability;
mod event_types;
#[cfg(unix)]
mod faults;
mod fold_declared;
mod fold_views;
mod folds;
#[cfg(unix)]
mod fork;
#[cfg(feature = "fuzzing")]
mod fuzz_corpus;
mod golden;
mod guards;
mod indexes;
#[cfg(unix)]
mod kill;
mod kit;
mod layers;
mod ledger;
mod life;
mod model;
mod opening;
mod policies;
mod project;
mod proof;
mod purchases;
mod query;
mod read;
mod repair;
mod restart;
mod retain;
mod retain_crash;
mod retain_holds;
mod sealed;
mod source;
mod subscribe;
mod tickets;
mod torn;
mod typed;
mod verdicts;
mod view_cases;
mod view_damage;
mod view_merge;
mod view_merge_many;
mod view_model;
mod view_reads;
mod views;
#[cfg(unix)]
mod views_refused;
