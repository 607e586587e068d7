//! A bank on everfold: commands are decided on, guarded, and decided again when somebody else was faster.
//!
//! ```sh
//! cargo run --release --example bank              # in target/bank-store, made anew
//! cargo run --release --example bank -- my-store  # in a directory that is not there yet, or is empty
//! ```
//!
//! Four threads transfer money between eight accounts. A transfer is decided from the events of both accounts and of no
//! others (a query over two tags), so no account is ever overdrawn, and no two transfers between other accounts are in
//! each other's way. The bank's first deposits were recorded by an older program, in euros; an upcaster reads them as
//! cents.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Instant;

use everfold::{
    Boundary, CommandHandler, Decider, Event, Expected, HandleError, Position, Query, Schema, Store,
    TypedEvent, Upcasters, kit,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

const DEFAULT_STORE: &str = "target/bank-store";
const ACCOUNTS: u32 = 8;
const OPENED_WITH_EUROS: u64 = 100;
const THREADS: u32 = 4;
const TRANSFERS: u32 = 150;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            if Path::new(DEFAULT_STORE).join("STORE").exists() {
                fs::remove_dir_all(DEFAULT_STORE)?;
            }
            bank(Path::new(DEFAULT_STORE))
        }
        [directory] if !directory.starts_with('-') => bank(Path::new(directory)),
        _ => Err("give no argument, or the directory to make the store in".into()),
    }
}

// ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What happens to accounts. Each case is an event type; the enum has the newest schema version of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Account {
    #[serde(rename = "deposited@2")]
    Deposited {
        account: u32,
        cents: u64,
    },
    TransferredOut {
        account: u32,
        cents: u64,
        to: u32,
    },
    TransferredIn {
        account: u32,
        cents: u64,
        from: u32,
    },
}

use Account::{Deposited, TransferredIn, TransferredOut};

impl Account {
    fn account(&self) -> u32 {
        match self {
            Deposited { account, .. } | TransferredOut { account, .. } | TransferredIn { account, .. } => {
                *account
            }
        }
    }
}

impl TypedEvent for Account {
    fn tags(&self) -> Vec<String> {
        vec![tag(self.account())]
    }

    /// Version 1 of `deposited` had whole euros.
    fn upcasters() -> Upcasters {
        Upcasters::new().upcast("deposited", "deposited@2", |old: DepositedEuros| {
            let cents = old.euros.checked_mul(100).ok_or("more euros than there are")?;
            Ok(json!({ "account": old.account, "cents": cents }))
        })
    }
}

/// `deposited` as it was in version 1.
#[derive(Serialize, Deserialize)]
struct DepositedEuros {
    account: u32,
    euros: u64,
}

fn tag(account: u32) -> String {
    format!("account:{account}")
}

// ── Decisions ────────────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Debug)]
struct Transfer {
    from: u32,
    to: u32,
    cents: u64,
}

#[derive(Debug, PartialEq)]
struct NotEnough {
    account: u32,
    balance: u64,
}

impl fmt::Display for NotEnough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are {} in account {}", euros(self.balance), self.account)
    }
}

struct Bank;

impl Decider for Bank {
    /// The balances of the accounts that matter, in cents.
    type State = BTreeMap<u32, u64>;
    type Event = Account;
    type Command = Transfer;
    type Rejection = NotEnough;

    fn evolve(&self, balances: &mut Self::State, event: &Account) {
        let balance = balances.entry(event.account()).or_default();
        match event {
            Deposited { cents, .. } | TransferredIn { cents, .. } => *balance += cents,
            TransferredOut { cents, .. } => *balance -= cents,
        }
    }

    fn decide(&self, balances: &Self::State, command: &Transfer) -> Result<Vec<Account>, NotEnough> {
        let Transfer { from, to, cents } = *command;
        let balance = balances.get(&from).copied().unwrap_or_default();
        match cents <= balance {
            true => Ok(vec![
                TransferredOut { account: from, cents, to },
                TransferredIn { account: to, cents, from },
            ]),
            false => Err(NotEnough { account: from, balance }),
        }
    }

    fn stream(&self, event: &Account) -> Option<String> {
        Some(format!("account-{}", event.account()))
    }
}

/// The events of both accounts are all that a transfer between them depends on.
fn between(one: u32, other: u32) -> Boundary {
    let both = Query::all().tags([tag(one)]).or(Query::all().tags([tag(other)]));
    Boundary::query(both, "transfers")
}

// ── The run ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn bank(directory: &Path) -> Outcome<()> {
    show_a_test();
    let store = Store::open(directory)?;
    open_accounts_as_long_ago(&store)?;
    let schema = Schema::<Account>::new()?;
    println!("event types before, from the indexes:");
    for found in store.event_types()?.iter() {
        println!("  {:<16} {:>5}", found.event_type, found.count);
    }
    let unknown = schema.check(&store)?;
    println!("  of these this program cannot read {}", unknown.len());

    let before = balances(&store, &schema)?;
    let bank = store.decider(Bank)?;
    let began = Instant::now();
    let totals = transfer(&bank)?;
    let after = balances(&store, &schema)?;
    println!(
        "{THREADS} threads: {} transfers, {} rejected, {} decided again after a conflict, {} ms",
        totals.done,
        totals.rejected,
        totals.conflicts,
        began.elapsed().as_millis()
    );
    for (account, balance) in &after {
        println!("  account {account}: {:>10}", euros(*balance));
    }
    let (sum_before, sum_after) = (before.values().sum(), after.values().sum());
    println!("sum: {} (before: {})", euros(sum_after), euros(sum_before));
    store.close()?;
    match sum_before == sum_after && sum_after == u64::from(ACCOUNTS) * OPENED_WITH_EUROS * 100 {
        true => Ok(()),
        false => Err("money was made or lost".into()),
    }
}

/// What a decider does is tested without a store of one's own.
fn show_a_test() {
    let opened = || [Deposited { account: 1, cents: 500 }];
    kit::decider(Bank)
        .within(between(1, 2))
        .given(opened())
        .when(Transfer { from: 1, to: 2, cents: 200 })
        .then([
            TransferredOut { account: 1, cents: 200, to: 2 },
            TransferredIn { account: 2, cents: 200, from: 1 },
        ])
        .then_state(BTreeMap::from([(1, 300), (2, 200)]));
    kit::decider(Bank)
        .within(between(1, 2))
        .given(opened())
        .when(Transfer { from: 1, to: 2, cents: 501 })
        .then_rejected(NotEnough { account: 1, balance: 500 });
}

/// Deposits as the first version of this program recorded them.
fn open_accounts_as_long_ago(store: &Store) -> Outcome<()> {
    for account in 0..ACCOUNTS {
        let payload = DepositedEuros { account, euros: OPENED_WITH_EUROS };
        let deposited = Event::json("deposited", &payload)?.tag(tag(account));
        store.append(&format!("account-{account}"), Expected::NoStream, [deposited])?;
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    done: u32,
    rejected: u32,
    conflicts: u32,
}

fn transfer(bank: &CommandHandler<Bank>) -> Outcome<Totals> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|number| scope.spawn(move || transfer_in_one_thread(bank, number))).collect();
        let mut totals = Totals::default();
        for thread in threads {
            let of_thread = thread.join().map_err(|_| "a thread panicked")??;
            totals.done += of_thread.done;
            totals.rejected += of_thread.rejected;
            totals.conflicts += of_thread.conflicts;
        }
        Ok(totals)
    })
}

fn transfer_in_one_thread(bank: &CommandHandler<Bank>, number: u32) -> Result<Totals, String> {
    let mut totals = Totals::default();
    for step in 0..TRANSFERS {
        let from = (number * 5 + step) % ACCOUNTS;
        let to = (from + 1 + step % (ACCOUNTS - 1)) % ACCOUNTS;
        let cents = u64::from(step * step % 6_000);
        match bank.at(between(from, to)).retries(1_000).handle(&Transfer { from, to, cents }) {
            Ok(done) => {
                totals.done += 1;
                totals.conflicts += done.conflicts;
            }
            Err(HandleError::Rejected(_)) => totals.rejected += 1,
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(totals)
}

/// All balances, from all events.
fn balances(store: &Store, schema: &Schema<Account>) -> Outcome<BTreeMap<u32, u64>> {
    let mut balances = BTreeMap::new();
    for event in store.read(Position::START) {
        if let Some(event) = schema.read(&event?)? {
            Bank.evolve(&mut balances, &event);
        }
    }
    Ok(balances)
}

fn euros(cents: u64) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}
