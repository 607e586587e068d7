//! What the process under test said: one line for each acknowledgement.

use std::fmt;

use everfold::Durability;

use crate::workload::Did;

/// A batch that was acknowledged, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) first: u64,
    pub(crate) did: Did,
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Did { life, thread, n } = self.did;
        write!(f, "ack {} {life} {thread} {n}", self.first)
    }
}

/// All that one life of the process said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) acks: Vec<Ack>,
    /// The store was open, so it had been created durably.
    pub(crate) opened: bool,
    pub(crate) closed: bool,
    /// The log up to here is durable, as the store said.
    pub(crate) durable: u64,
    /// The store was asked to drop what is before here.
    pub(crate) retain: u64,
    /// The log starts here, as the store said.
    pub(crate) retained: u64,
    /// Errors that the store told.
    pub(crate) errors: Vec<String>,
}

impl Claims {
    /// Takes in a line. One that is not whole is an error of whoever wrote or cut it.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), String> {
        let broken = || format!("the process said something that has no meaning: {line:?}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let numbers: Vec<u64> = rest.split(' ').map_while(|number| number.parse().ok()).collect();
        match (word, numbers.as_slice()) {
            ("ack", &[first, life, thread, n]) => {
                let small = |number: u64| u32::try_from(number).map_err(|_| broken());
                self.acks.push(Ack { first, did: Did { life: small(life)?, thread: small(thread)?, n } });
            }
            ("durable", &[position]) => self.durable = self.durable.max(position),
            ("retain", &[before]) => self.retain = self.retain.max(before),
            ("retained", &[first]) => self.retained = self.retained.max(first),
            ("opened", &[]) => self.opened = true,
            ("closed", &[]) => self.closed = true,
            ("error", _) => self.errors.push(rest.to_owned()),
            _ => return Err(broken()),
        }
        Ok(())
    }

    /// The last position that is there after a fault that keeps batches of this durability and higher ones.
    pub(crate) fn kept(&self, durability: Durability) -> u64 {
        let acks = self.acks.iter().filter(|ack| ack.did.durability() >= durability);
        acks.map(|ack| ack.first + ack.did.len() - 1).fold(self.durable, u64::max)
    }
}
