//! Those who wait for an entry to be applied.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

/// Waiters by the index they wait for.
#[derive(Default)]
pub(super) struct Waiters {
    next_id: u64,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

impl Waiters {
    /// Adds one; `None` if `count_max` wait already.
    pub(super) fn add(&mut self, index: u64, count_max: usize) -> Option<oneshot::Receiver<()>> {
        if self.waiting.len() >= count_max {
            self.waiting.retain(|_, sender| !sender.is_closed());
        }
        if self.waiting.len() >= count_max {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.next_id += 1;
        self.waiting.insert((index, self.next_id), sender);
        Some(receiver)
    }

    /// Wakes those that wait for entries up to `index`, in the order of indexes.
    pub(super) fn wake(&mut self, index: u64) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > index {
                return;
            }
            // Whoever stopped waiting is gone.
            let _ = entry.remove().send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Waiters;

    #[test]
    fn those_at_or_below_the_index_wake_and_no_others() {
        let mut waiters = Waiters::default();
        let mut receivers: Vec<_> = [5, 3, 9, 3].map(|index| waiters.add(index, 4).unwrap()).into();
        assert!(waiters.add(1, 4).is_none(), "the list is bounded");
        waiters.wake(5);
        let woken: Vec<bool> = receivers.iter_mut().map(|receiver| receiver.try_recv().is_ok()).collect();
        assert_eq!(woken, [true, true, false, true]);
    }

    #[test]
    fn those_who_gave_up_make_room() {
        let mut waiters = Waiters::default();
        drop(waiters.add(5, 1));
        assert!(waiters.add(5, 1).is_some());
    }
}
