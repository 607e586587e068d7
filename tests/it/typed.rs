//! Typed events: names, schema versions, upcasters, and what a schema refuses.

use everfold::{
    Encoding, ErrorKind, Event, Expected, MemoryStorage, Options, Position, Schema, Store, TypedEvent,
    Upcasters,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

fn memory() -> Store {
    Options::new().open_memory(&MemoryStorage::new()).unwrap()
}

fn append(store: &Store, events: impl IntoIterator<Item = Event>) {
    store.append("s", Expected::Any, events).unwrap();
}

fn read_all<E: TypedEvent>(store: &Store) -> Vec<Option<E>> {
    let schema = Schema::<E>::new().unwrap();
    store.read(Position::START).map(|event| schema.read(&event.unwrap()).unwrap()).collect()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Money {
    cents: u64,
    currency: String,
}

/// Every form that a case can have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Forms {
    UnitCase,
    NewType(Money),
    Optional(Option<u8>),
    Pair(u8, String),
    #[serde(rename = "fields@3")]
    Fields {
        a: Vec<u64>,
        #[serde(default)]
        b: Option<String>,
    },
}

impl TypedEvent for Forms {}

/// The same with other payloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Packed(Forms);

impl TypedEvent for Packed {
    const ENCODING: Encoding = Encoding::Bincode;
}

fn forms() -> Vec<Forms> {
    vec![
        Forms::UnitCase,
        Forms::NewType(Money { cents: 7, currency: "EUR".into() }),
        Forms::Optional(None),
        Forms::Optional(Some(3)),
        Forms::Pair(9, "nine".into()),
        Forms::Fields { a: vec![1, u64::MAX], b: None },
        Forms::Fields { a: vec![], b: Some("b".into()) },
    ]
}

#[test]
fn every_form_of_a_case_is_an_event_type_with_its_fields_as_the_payload() {
    let events: Vec<Event> = forms().iter().map(|form| form.to_event().unwrap()).collect();
    let text = |event: &Event| String::from_utf8(event.payload().to_vec()).unwrap();
    let found: Vec<_> = events.iter().map(|event| (event.event_type(), text(event))).collect();
    let expected = [
        ("unit-case", "null"),
        ("new-type", r#"{"cents":7,"currency":"EUR"}"#),
        ("optional", "null"),
        ("optional", "3"),
        ("pair", r#"[9,"nine"]"#),
        ("fields@3", r#"{"a":[1,18446744073709551615],"b":null}"#),
        ("fields@3", r#"{"a":[],"b":"b"}"#),
    ];
    assert_eq!(found, expected.map(|(name, payload)| (name, payload.to_owned())));
    let store = memory();
    append(&store, events);
    assert_eq!(read_all::<Forms>(&store), forms().into_iter().map(Some).collect::<Vec<_>>());
}

#[test]
fn payloads_of_bincode_are_those_of_the_fields_too_and_each_event_is_read_as_it_was_encoded() {
    let pair = Packed(Forms::Pair(9, "n".into())).to_event().unwrap();
    assert_eq!((pair.event_type(), pair.payload()), ("pair", &b"\x09\x01\0\0\0\0\0\0\0n"[..]));
    assert_eq!(Packed(Forms::UnitCase).to_event().unwrap().payload(), b"");
    let store = memory();
    append(&store, forms().iter().map(|form| Packed(form.clone()).to_event().unwrap()));
    append(&store, forms().iter().map(|form| form.to_event().unwrap()));
    let twice: Vec<_> = forms().into_iter().chain(forms()).collect();
    assert_eq!(read_all::<Forms>(&store), twice.iter().cloned().map(Some).collect::<Vec<_>>());
    assert_eq!(read_all::<Packed>(&store), twice.into_iter().map(Packed).map(Some).collect::<Vec<_>>());
}

#[derive(Serialize, Deserialize)]
struct First {
    euros: u64,
}

#[derive(Serialize, Deserialize)]
struct Second {
    cents: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Account {
    #[serde(rename = "deposited@3")]
    Deposited(Money),
    #[serde(rename = "closed", alias = "terminated")]
    Closed {},
}

impl TypedEvent for Account {
    fn upcasters() -> Upcasters {
        Upcasters::new()
            .upcast("deposited@2", "deposited@3", |old: Second| {
                Ok(Money { cents: old.cents, currency: "EUR".into() })
            })
            .rename("paid-in", "deposited")
            .upcast("deposited", "deposited@2", |old: First| {
                let cents = old.euros.checked_mul(100).ok_or("too many euros")?;
                Ok(Second { cents })
            })
            .ignore("greeted")
    }
}

#[test]
fn upcasters_are_chained_whatever_the_payload_is_encoded_as() {
    let store = memory();
    append(
        &store,
        [
            Event::json("paid-in", &First { euros: 1 }).unwrap(),
            Event::bincode("deposited", &First { euros: 2 }).unwrap(),
            Event::json("greeted", "hello").unwrap(),
            Event::json("deposited@2", &Second { cents: 300 }).unwrap(),
            Event::bincode("deposited@3", &Money { cents: 400, currency: "USD".into() }).unwrap(),
            Event::json("terminated", &json!({})).unwrap(),
        ],
    );
    let deposited =
        |cents, currency: &str| Some(Account::Deposited(Money { cents, currency: currency.into() }));
    assert_eq!(
        read_all::<Account>(&store),
        [
            deposited(100, "EUR"),
            deposited(200, "EUR"),
            None,
            deposited(300, "EUR"),
            deposited(400, "USD"),
            Some(Account::Closed {}),
        ]
    );
    let schema = Schema::<Account>::new().unwrap();
    assert!(schema.check(&store).unwrap().is_empty());
    assert_eq!(
        schema.types_of(["deposited", "closed"]),
        ["closed", "deposited", "deposited@2", "deposited@3", "paid-in"],
        "and an alias is known to serde alone"
    );
}

#[track_caller]
fn refused(event: Event) -> (ErrorKind, String) {
    let store = memory();
    append(&store, [event]);
    let event = store.read(Position::START).next().unwrap().unwrap();
    let error = Schema::<Account>::new().unwrap().read(&event).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_what_is_missing() {
    let position = Position::new(1);
    let unknown = |event_type: &str| ErrorKind::UnknownEventType { event_type: event_type.into(), position };
    for (event_type, says) in [
        ("opened", "Account has no case \"opened\""),
        ("deposited@4", "up to schema version 3: this program is too old"),
        ("closed@2", "up to schema version 1: this program is too old"),
        ("opened@2", "Account has no case \"opened\""),
    ] {
        let (kind, text) = refused(Event::json(event_type, &1).unwrap());
        assert_eq!(kind, unknown(event_type));
        assert!(text.contains(says) && text.contains("position 1"), "{text}");
    }
    for (event, says) in [
        (Event::json("deposited", &First { euros: u64::MAX }).unwrap(), "\"deposited\" to \"deposited@2\""),
        (Event::json("deposited@2", "text").unwrap(), "\"deposited@2\" to \"deposited@3\""),
        (
            Event::json("deposited@3", "text").unwrap(),
            "\"deposited@3\" at position 1 is not that of Account's",
        ),
        (
            Event::bincode("deposited@3", &1u8).unwrap(),
            "\"deposited@3\" at position 1 is not that of Account's",
        ),
        (Event::raw("deposited@3", *b"{}"), "\"deposited@3\" at position 1 is not that of Account's"),
        (Event::raw("deposited", *b"{}"), "raw bytes"),
    ] {
        let (kind, text) = refused(event);
        assert_eq!(kind, ErrorKind::Codec);
        assert!(text.contains(says), "{text}");
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Gap {
    #[serde(rename = "moved@3")]
    Moved,
}

impl TypedEvent for Gap {
    fn upcasters() -> Upcasters {
        Upcasters::new().rename("moved@2", "moved@3")
    }
}

#[test]
fn a_missing_upcaster_is_named_by_the_reader_and_found_before_anything_is_read() {
    let store = memory();
    append(&store, [1, 2, 3].map(|_| Event::json("moved", &()).unwrap()));
    append(&store, [Event::json("moved@2", &()).unwrap(), Event::json("left", &()).unwrap()]);
    let schema = Schema::<Gap>::new().unwrap();
    let missing = schema.check(&store).unwrap();
    let told: Vec<_> = missing.iter().map(|m| (m.event_type.as_str(), m.count, m.first, m.last)).collect();
    let at = Position::new;
    assert_eq!(told, [("left", 1, at(5), at(5)), ("moved", 3, at(1), at(3))]);
    let error = schema.read(&store.read(at(0)).next().unwrap().unwrap()).unwrap_err();
    assert!(error.to_string().contains("Gap has no upcaster from \"moved\""), "{error}");
}

/// An enum with one case, and upcasters that do not fit.
macro_rules! unfit {
    ($name:ident, $case:literal, $upcasters:expr) => {{
        #[derive(Debug, Serialize, Deserialize)]
        enum $name {
            #[serde(rename = $case)]
            Case,
        }
        impl TypedEvent for $name {
            fn upcasters() -> Upcasters {
                $upcasters
            }
        }
        let _used = $name::Case;
        let error = Schema::<$name>::new().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    }};
}

#[test]
fn a_schema_that_does_not_fit_together_is_refused() {
    fn new() -> Upcasters {
        Upcasters::new()
    }
    let nowhere = unfit!(Nowhere, "a@3", new().rename("a", "a@2"));
    assert!(nowhere.contains("from \"a\" to \"a@2\", which is no case of Nowhere"), "{nowhere}");
    let circle = unfit!(Circle, "a", new().rename("b", "c").rename("c", "b"));
    assert!(circle.contains("circle"), "{circle}");
    let twice = unfit!(Twice, "a", new().rename("b", "a").rename("b", "a"));
    assert!(twice.contains("two upcasters for \"b\""), "{twice}");
    let ignored = unfit!(Ignored, "a", new().ignore("a"));
    assert!(ignored.contains("\"a\" is a case"), "{ignored}");
    let from_case = unfit!(FromCase, "a", new().rename("a", "a"));
    assert!(from_case.contains("\"a\" is a case"), "{from_case}");
    let misspelt = unfit!(Misspelt, "a@1", new());
    assert!(misspelt.contains("name@2"), "{misspelt}");
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    A { a: u8 },
}

impl TypedEvent for Tagged {}

impl TypedEvent for Money {}

#[test]
fn what_is_no_enum_in_serdes_default_form_is_refused() {
    let money = Money { cents: 1, currency: "EUR".into() };
    assert_eq!(Schema::<Tagged>::new().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Schema::<Money>::new().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Tagged::A { a: 1 }.to_event().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(money.to_event().unwrap_err().kind(), ErrorKind::Codec);
}

#[test]
fn json_values_can_be_upcast_too() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Named {
        #[serde(rename = "named@2")]
        Named { first: String, last: String },
    }
    impl TypedEvent for Named {
        fn upcasters() -> Upcasters {
            Upcasters::new().upcast("named", "named@2", |old: Value| {
                let (first, last) =
                    old.as_str().and_then(|name| name.split_once(' ')).ok_or("no two names")?;
                Ok(json!({ "first": first, "last": last }))
            })
        }
    }
    let store = memory();
    append(&store, [Event::json("named", "Ada Lovelace").unwrap()]);
    assert_eq!(
        read_all::<Named>(&store),
        [Some(Named::Named { first: "Ada".into(), last: "Lovelace".into() })]
    );
}
