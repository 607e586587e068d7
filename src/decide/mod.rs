//! Deciders: from a command and the events so far to the events that follow, guarded against what others append
//! meanwhile.

mod boundary;
mod cache;
mod fold;
mod handler;
mod outcome;
mod saved;
mod saving;

pub use boundary::Boundary;
pub use cache::StateCache;
pub use fold::Loaded;
pub use handler::{CommandHandler, Handling};
pub use outcome::{HandleError, Handled};

use crate::typed::TypedEvent;

/// Decides: what follows from a command, in a state that is folded from events.
///
/// This is the Decider pattern (Jérémie Chassaing,
/// [*Functional Event Sourcing Decider*](https://thinkbeforecoding.com/post/2021/12/17/functional-event-sourcing-decider)):
/// an initial state, `evolve` and `decide`, all three without side effects. [`Store::decider`](crate::Store::decider) does
/// the rest: it loads the state, appends what is decided with a guard, and decides again when the guard does not hold.
///
/// ```
/// use everfold::{Decider, TypedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum Account {
///     Deposited(u64),
///     Withdrawn(u64),
/// }
/// impl TypedEvent for Account {}
///
/// enum Command {
///     Deposit(u64),
///     Withdraw(u64),
/// }
///
/// #[derive(Debug, PartialEq)]
/// struct NotEnough { balance: u64 }
///
/// struct Bank;
///
/// impl Decider for Bank {
///     type State = u64;
///     type Event = Account;
///     type Command = Command;
///     type Rejection = NotEnough;
///
///     fn evolve(&self, balance: &mut u64, event: &Account) {
///         match event {
///             Account::Deposited(amount) => *balance += amount,
///             Account::Withdrawn(amount) => *balance -= amount,
///         }
///     }
///
///     fn decide(&self, balance: &u64, command: &Command) -> Result<Vec<Account>, NotEnough> {
///         match command {
///             Command::Deposit(amount) => Ok(vec![Account::Deposited(*amount)]),
///             Command::Withdraw(amount) if amount <= balance => Ok(vec![Account::Withdrawn(*amount)]),
///             Command::Withdraw(_) => Err(NotEnough { balance: *balance }),
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = everfold::Options::new().open_memory(&everfold::MemoryStorage::new())?;
/// let bank = store.decider(Bank)?;
/// bank.handle("account-1", &Command::Deposit(100)).unwrap();
/// let done = bank.handle("account-1", &Command::Withdraw(30)).unwrap();
/// assert_eq!((done.state, done.version.get()), (70, 2));
///
/// let refused = bank.handle("account-1", &Command::Withdraw(80)).unwrap_err();
/// assert_eq!(refused.rejection(), Some(&NotEnough { balance: 70 }));
/// # Ok(()) }
/// ```
pub trait Decider: Send + Sync + 'static {
    /// What is known from the events. The initial state is its default.
    type State: Default + Clone + Send + Sync + 'static;
    /// The events that there are, and that are decided on.
    type Event: TypedEvent;
    /// What somebody wants to happen.
    type Command;
    /// Why it does not.
    type Rejection;

    /// Whether the state may be folded from what is left, where [`retain`](crate::Store::retain) has dropped events. If
    /// not, loading it fails with [`Truncated`](crate::ErrorKind::Truncated).
    const FROM_LOG_START: bool = false;

    /// Takes one event into the state. It must be deterministic, and take every event that was ever decided on.
    fn evolve(&self, state: &mut Self::State, event: &Self::Event);

    /// What happens because of a command, in a state: any number of events, also none. It may be called again, in another
    /// state, when somebody else was faster.
    ///
    /// # Errors
    /// A rejection: nothing is appended.
    fn decide(
        &self,
        state: &Self::State,
        command: &Self::Command,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// The stream that an event is recorded in when the [`Boundary`] is a query; `None` for the one that the boundary
    /// names.
    fn stream(&self, _event: &Self::Event) -> Option<String> {
        None
    }

    /// The fold's own number: raised whenever `evolve` or the state change. States cached under another number are not
    /// used.
    fn generation(&self) -> u32 {
        1
    }

    /// About how many bytes a state takes, for the bound of the [`StateCache`]. What it holds on the heap is not known
    /// unless this says so.
    fn state_bytes(&self, _state: &Self::State) -> usize {
        size_of::<Self::State>()
    }
}
