//! The kit for tests of deciders and projections: what it says when a test fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use everfold::{ApplyError, Event, Projection, RecordedEvent, Schema, ViewBatch, kit};

use crate::bank::{
    Balances, Bank, Deposited, Moved, NotEnough, Nothing, Transfer, Withdraw, Withdrawn, both,
};

fn told(test: impl FnOnce()) -> String {
    let caught = catch_unwind(AssertUnwindSafe(test)).unwrap_err();
    caught.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_failing_test_of_a_decider_says_what_was_given_and_what_came_of_it() {
    let given = || {
        kit::decider(Bank::default())
            .given([Deposited { account: 1, amount: 9 }])
            .given_events("given", [Event::json("noted", "x").unwrap()])
    };
    let ok = given().when(Transfer { from: 1, to: 2, amount: 9 });
    ok.then([Withdrawn { account: 1, amount: 9 }, Deposited { account: 2, amount: 9 }])
        .then_state(Balances::from([(1, 0), (2, 9)]));
    given().when(Withdraw { from: 1, amount: 10 }).then_rejected(NotEnough { balance: 9 });
    given().when(Nothing).then([]);
    kit::decider(Bank::default())
        .within(both(1, 2))
        .given([Deposited { account: 2, amount: 4 }, Deposited { account: 3, amount: 4 }])
        .when(Withdraw { from: 3, amount: 1 })
        .then_rejected(NotEnough { balance: 0 });

    let begin = "given\n    Deposited { account: 1, amount: 9 }\n    noted in given\nwhen\n    ";
    let text = told(|| {
        given().when(Withdraw { from: 1, amount: 10 }).then([Withdrawn { account: 1, amount: 10 }]);
    });
    assert_eq!(
        text,
        format!(
            "{begin}Withdraw {{ from: 1, amount: 10 }}\nthen\n    Withdrawn {{ account: 1, amount: 10 }}\nwas expected, but it was rejected:\n    NotEnough {{ balance: 9 }}"
        )
    );
    let text = told(|| given().when(Nothing).then_rejected(NotEnough { balance: 1 }));
    assert!(text.ends_with("NotEnough { balance: 1 }\nwas expected, but it was\n    nothing"), "{text}");
    let text = told(|| drop(given().when(Nothing).then([Deposited { account: 1, amount: 1 }])));
    assert!(text.ends_with("was expected, but it was\n    nothing"), "{text}");
    let text = told(|| drop(given().when(Nothing).then([]).then_state(Balances::new())));
    assert!(text.ends_with("then the state\n    {}\nwas expected, but it is\n    {1: 9}"), "{text}");
    let unknown = || drop(given().given_events("given", [Event::raw("x", *b"")]).when(Nothing));
    assert!(told(unknown).contains("\nfails: the event at position 3 is a \"x\""));
}

/// The balance of each account, as rows.
struct AccountBalances(Schema<Moved>);

impl Projection for AccountBalances {
    const NAME: &'static str = "balances";
    const GENERATION: u32 = 1;
    type Key = u32;
    type Value = u64;

    fn apply(&self, event: &RecordedEvent, view: &mut ViewBatch<u32, u64>) -> Result<(), ApplyError> {
        match self.0.read(event)? {
            Some(Deposited { account, amount }) => view.update(account, |b| Some(b.unwrap_or(0) + amount)),
            Some(Withdrawn { account, amount }) => view.update(account, |b| Some(b.unwrap_or(0) - amount)),
            None => Ok(()),
        }
    }
}

#[test]
fn a_failing_test_of_a_projection_says_what_was_given_and_which_rows_there_are() {
    let given = || {
        kit::projection(AccountBalances(Schema::new().unwrap()))
            .given("a", [Deposited { account: 2, amount: 9 }, Deposited { account: 1, amount: 9 }])
            .given("b", [Withdrawn { account: 2, amount: 4 }])
            .given_events("b", [Event::json("noted", "x").unwrap()])
    };
    given().then_rows([(1, 9), (2, 5)]);
    kit::projection(AccountBalances(Schema::new().unwrap())).then_rows([]);
    let text = told(|| given().then_rows([(1, 9)]));
    assert!(text.starts_with("given\n    Deposited { account: 2, amount: 9 } in a\n"), "{text}");
    assert!(
        text.ends_with("then the rows\n    (1, 9)\nwere expected, but there are\n    (1, 9)\n    (2, 5)"),
        "{text}"
    );
    let text = told(|| given().given_events("b", [Event::raw("x", *b"")]).then_rows([]));
    assert!(text.contains("noted in b\n    x in b\nthe view does not come: "), "{text}");
}
