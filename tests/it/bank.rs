//! A bank that decides: accounts that are never overdrawn, and transfers between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use everfold::{
    Boundary, CommandHandler, Decider, Durability, MemoryStorage, Options, Position, Query, Schema, Store,
    TypedEvent, Upcasters,
};
use serde::{Deserialize, Serialize};

pub(crate) fn memory() -> Store {
    Options::new().open_memory(&MemoryStorage::new()).unwrap()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Moved {
    Deposited { account: u32, amount: u64 },
    Withdrawn { account: u32, amount: u64 },
}

pub(crate) use Moved::{Deposited, Withdrawn};

impl TypedEvent for Moved {
    fn tags(&self) -> Vec<String> {
        let (Deposited { account, .. } | Withdrawn { account, .. }) = self;
        vec![format!("account:{account}")]
    }

    fn upcasters() -> Upcasters {
        Upcasters::new().rename("paid-in", "deposited").ignore("noted")
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Deposit { to: u32, amount: u64 },
    Withdraw { from: u32, amount: u64 },
    Transfer { from: u32, to: u32, amount: u64 },
    Nothing,
}

pub(crate) use Command::{Deposit, Nothing, Transfer, Withdraw};

#[derive(Debug, PartialEq)]
pub(crate) struct NotEnough {
    pub(crate) balance: u64,
}

/// Balances of accounts. It counts the events that it folds.
#[derive(Debug, Default)]
pub(crate) struct Bank {
    pub(crate) folded: Arc<AtomicU64>,
    pub(crate) generation: u32,
}

pub(crate) type Balances = BTreeMap<u32, u64>;

impl Decider for Bank {
    type State = Balances;
    type Event = Moved;
    type Command = Command;
    type Rejection = NotEnough;

    fn evolve(&self, balances: &mut Balances, event: &Moved) {
        self.folded.fetch_add(1, Ordering::Relaxed);
        match event {
            Deposited { account, amount } => *balances.entry(*account).or_default() += amount,
            Withdrawn { account, amount } => {
                let balance = balances.entry(*account).or_default();
                *balance = balance.checked_sub(*amount).unwrap();
            }
        }
    }

    fn decide(&self, balances: &Balances, command: &Command) -> Result<Vec<Moved>, NotEnough> {
        let withdraw = |account: u32, amount: u64| {
            let balance = balances.get(&account).copied().unwrap_or_default();
            (amount <= balance).then_some(Withdrawn { account, amount }).ok_or(NotEnough { balance })
        };
        Ok(match *command {
            Deposit { to, amount } => vec![Deposited { account: to, amount }],
            Withdraw { from, amount } => vec![withdraw(from, amount)?],
            Transfer { from, to, amount } => vec![withdraw(from, amount)?, Deposited { account: to, amount }],
            Nothing => Vec::new(),
        })
    }

    fn stream(&self, event: &Moved) -> Option<String> {
        let (Deposited { account, .. } | Withdrawn { account, .. }) = event;
        Some(format!("account-{account}"))
    }

    fn generation(&self) -> u32 {
        self.generation
    }
}

pub(crate) fn bank(store: &Store) -> CommandHandler<Bank> {
    store.decider(Bank::default()).unwrap()
}

/// What a transfer between two accounts is decided from.
pub(crate) fn both(one: u32, other: u32) -> Boundary {
    let of = |account: u32| Query::all().tags([format!("account:{account}")]);
    Boundary::query(of(one).or(of(other)), "transfers")
}

/// Balances as everything that was recorded says, which is never overdrawn.
pub(crate) fn balances(store: &Store) -> Balances {
    let (schema, mut balances) = (Schema::<Moved>::new().unwrap(), Balances::new());
    let bank = Bank::default();
    for event in store.read(Position::START) {
        let event = schema.read(&event.unwrap()).unwrap();
        event.iter().for_each(|event| bank.evolve(&mut balances, event));
    }
    balances
}

/// Makes a stream so long that a cached state is worth it.
pub(crate) fn long(bank: &CommandHandler<Bank>, boundary: &Boundary, events: u64) {
    for _ in 0..events {
        let deposit = Deposit { to: 1, amount: 1 };
        bank.at(boundary.clone()).durability(Durability::Deferred).handle(&deposit).unwrap();
    }
}
