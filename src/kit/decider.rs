//! Given events, when a command, then events or a rejection.

use std::fmt::Debug;

use super::{fail, lines, sound};
use crate::batch::Batch;
use crate::decide::{Boundary, Decider, HandleError, Handled};
use crate::event::Event;
use crate::options::Options;
use crate::storage::memory::MemoryStorage;
use crate::typed::TypedEvent as _;

/// Begins a test of a decider.
///
/// ```
/// use everfold::kit;
/// # use everfold::{Decider, TypedEvent};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// # enum Account { Deposited(u64), Withdrawn(u64) }
/// # use Account::{Deposited, Withdrawn};
/// # impl TypedEvent for Account {}
/// # #[derive(Debug)]
/// # struct Withdraw(u64);
/// # #[derive(Debug, PartialEq)]
/// # struct NotEnough { balance: u64 }
/// # struct Bank;
/// # impl Decider for Bank {
/// #     type State = u64;
/// #     type Event = Account;
/// #     type Command = Withdraw;
/// #     type Rejection = NotEnough;
/// #     fn evolve(&self, balance: &mut u64, event: &Account) {
/// #         match event { Deposited(n) => *balance += n, Withdrawn(n) => *balance -= n }
/// #     }
/// #     fn decide(&self, balance: &u64, Withdraw(n): &Withdraw) -> Result<Vec<Account>, NotEnough> {
/// #         if n <= balance { Ok(vec![Withdrawn(*n)]) } else { Err(NotEnough { balance: *balance }) }
/// #     }
/// # }
/// kit::decider(Bank)
///     .given([Deposited(100), Withdrawn(30)])
///     .when(Withdraw(60))
///     .then([Withdrawn(60)])
///     .then_state(10);
///
/// kit::decider(Bank).given([Deposited(100)]).when(Withdraw(101)).then_rejected(NotEnough { balance: 100 });
/// ```
pub fn decider<D: Decider>(decider: D) -> Given<D> {
    Given { decider, boundary: Boundary::stream("given"), given: Batch::new(), said: Vec::new() }
}

/// What there is before the command.
#[derive(Debug)]
#[must_use = "nothing is tested until there is a command, and what is to come of it"]
pub struct Given<D> {
    decider: D,
    boundary: Boundary,
    given: Batch,
    said: Vec<String>,
}

impl<D: Decider> Given<D>
where
    D::Event: Debug,
{
    /// What the command is handled in, if that is not a stream: say so before the events are given.
    pub fn within(mut self, boundary: impl Into<Boundary>) -> Self {
        self.boundary = boundary.into();
        self
    }

    /// These events, in the boundary's stream, or where the decider [puts](Decider::stream) them.
    #[track_caller]
    pub fn given(mut self, events: impl IntoIterator<Item = D::Event>) -> Self {
        for event in events {
            let stream = self.boundary.stream_of(&self.decider, &event);
            self.said.push(format!("{event:?}"));
            self.given = self.given.event(stream, sound(event.to_event(), "make a given event"));
        }
        self
    }

    /// These events, as they are: of an earlier schema version, say.
    pub fn given_events(mut self, stream: &str, events: impl IntoIterator<Item = Event>) -> Self {
        for event in events {
            self.said.push(format!("{} in {stream}", event.event_type()));
            self.given = self.given.event(stream, event);
        }
        self
    }

    /// The command, which is handled at once.
    #[track_caller]
    pub fn when(self, command: D::Command) -> Then<D>
    where
        D::Command: Debug,
    {
        let store = sound(Options::new().open_memory(&MemoryStorage::new()), "open a store in memory");
        let given: String = self.said.iter().map(|said| format!("\n    {said}")).collect();
        if !self.said.is_empty() {
            sound(store.append_batch(self.given), "append the given events");
        }
        let handler = sound(store.decider(self.decider), "use the decider");
        let given = if given.is_empty() { "\n    nothing".to_owned() } else { given };
        let said = format!("given{given}\nwhen\n    {command:?}");
        let outcome = match handler.handle(self.boundary, &command) {
            Ok(handled) => Ok(handled),
            Err(HandleError::Rejected(rejection)) => Err(rejection),
            Err(HandleError::Conflict { conflict, .. }) => {
                fail(format_args!("{said}\nconflicts: {conflict}"))
            }
            Err(HandleError::Indeterminate { error, .. } | HandleError::Failed(error)) => {
                fail(format_args!("{said}\nfails: {error}"))
            }
        };
        Then { said, outcome }
    }
}

/// What came of the command.
#[derive(Debug)]
#[must_use = "nothing is tested until it is said what is to come of the command"]
pub struct Then<D: Decider> {
    said: String,
    outcome: Result<Handled<D::State, D::Event>, D::Rejection>,
}

impl<D: Decider> Then<D>
where
    D::Event: Debug,
    D::Rejection: Debug,
{
    /// These events were decided on, and recorded. None is no rejection either.
    ///
    /// # Panics
    /// When it was others, or a rejection: the test fails.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = D::Event>) -> Decided<D>
    where
        D::Event: PartialEq,
    {
        let expected: Vec<D::Event> = events.into_iter().collect();
        let (said, wanted) = (self.said, lines(&expected));
        match self.outcome {
            Ok(handled) if handled.events == expected => Decided { said, handled },
            Ok(handled) => {
                let events = lines(&handled.events);
                fail(format_args!("{said}\nthen{wanted}\nwas expected, but it was{events}"))
            }
            Err(rejection) => fail(format_args!(
                "{said}\nthen{wanted}\nwas expected, but it was rejected:\n    {rejection:?}"
            )),
        }
    }

    /// The command was rejected, for this reason.
    ///
    /// # Panics
    /// When it was not, or for another: the test fails.
    #[track_caller]
    pub fn then_rejected(self, rejection: D::Rejection)
    where
        D::Rejection: PartialEq,
    {
        let said = self.said;
        match self.outcome {
            Err(found) if found == rejection => {}
            Err(found) => fail(format_args!(
                "{said}\nthen rejected\n    {rejection:?}\nwas expected, but it was rejected:\n    {found:?}"
            )),
            Ok(handled) => {
                let events = lines(&handled.events);
                fail(format_args!(
                    "{said}\nthen rejected\n    {rejection:?}\nwas expected, but it was{events}"
                ))
            }
        }
    }
}

/// What was decided, as expected.
#[derive(Debug)]
pub struct Decided<D: Decider> {
    said: String,
    handled: Handled<D::State, D::Event>,
}

impl<D: Decider> Decided<D>
where
    D::State: Debug + PartialEq,
{
    /// The state after is this.
    ///
    /// # Panics
    /// When it is another: the test fails.
    #[track_caller]
    pub fn then_state(self, state: D::State) -> Self {
        if self.handled.state != state {
            fail(format_args!(
                "{}\nthen the state\n    {state:?}\nwas expected, but it is\n    {:?}",
                self.said, self.handled.state
            ));
        }
        self
    }
}
