//! What a view's handles ask of its projector, which alone writes the rows.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::event::Position;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Pause,
    Resume,
    /// Build the same generation anew.
    Rebuild,
    /// Apply an event that was set aside; all of them without a position.
    Redrive(Option<Position>),
}

/// How many events it was about, or why it was not done.
pub(crate) type Reply = Result<u64, Error>;

/// A request, and where its reply goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    reply: SyncSender<Reply>,
}

impl Asked {
    pub(crate) fn answer(self, reply: Reply) {
        // Who asked may have gone.
        drop(self.reply.try_send(reply));
    }
}

/// Requests that the projector has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    closed: bool,
    asked: VecDeque<Asked>,
}

impl Inbox {
    /// Asks for something. The receiver is disconnected when nobody will answer.
    pub(crate) fn ask(&self, request: Request) -> Receiver<Reply> {
        let (reply, answer) = sync_channel(1);
        let mut queue = self.queue();
        if !queue.closed {
            queue.asked.push_back(Asked { request, reply });
        }
        answer
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue().asked.is_empty()
    }

    pub(crate) fn take(&self) -> Option<Asked> {
        self.queue().asked.pop_front()
    }

    /// Nobody answers any more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.asked.clear();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_answered_or_known_not_to_be() {
        let inbox = Inbox::default();
        let (first, second) = (inbox.ask(Request::Pause), inbox.ask(Request::Resume));
        inbox.take().unwrap().answer(Ok(7));
        inbox.close();
        let late = inbox.ask(Request::Rebuild);
        assert_eq!(first.recv().unwrap().unwrap(), 7);
        assert!(second.recv().is_err() && late.recv().is_err() && inbox.take().is_none());
    }
}
