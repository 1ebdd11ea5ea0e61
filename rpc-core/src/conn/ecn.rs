//! Congestion that is told instead of shown by loss (RFC 3168, RFC 9000 section 13.4).
//!
//! A sender marks its packets ECT(0), a router whose queue grows turns that into CE, the receiver says so in ACK_ECN, and
//! the sender goes slower before anything is lost. Some paths erase the marks or make them up: [`Marking`] believes them
//! only after a test, and stops marking where they cannot be true. What a receiver tells is not the count of all marks,
//! as in RFC 9000, but of packets that did *not* come ECT(0), and only while that is news: a path on which nothing
//! is marked costs three bytes in the first acknowledgements.
//!
//! | state | marks | until |
//! | --- | --- | --- |
//! | testing | yes | ten marked packets were acknowledged: capable; all of them CE: failed |
//! | capable | yes | the probe timeout expired three times in a row, so that marked packets may be what is dropped: testing |
//! | suspended | no | an acknowledgement comes: testing, which fails with the next three expiries |
//! | failed, off | no | the peer moves |

use crate::wire::{Ecn, Marks};

/// The sender's side: whether to mark, and how many of its packets a router marked.
#[derive(Debug, Default)]
pub(super) struct Marking {
    state: State,
    /// Packets sent without a mark, and with one.
    unmarked_sent: u64,
    marked_sent: u64,
    /// The last that the peer said.
    reported: Option<Marks>,
    /// CE marks that the congestion controller knows of.
    answered: u64,
    /// Bleached packets, and those made ECT(1), of paths before this one.
    not_ect_before: u64,
    ect1_before: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The peer would not tell.
    #[default]
    Off,
    /// So many marked packets arrived, and so many CE marks had been told before.
    Testing {
        acked: u64,
        ce_before: u64,
    },
    Capable,
    Suspended,
    Failed,
}

impl Marking {
    /// The peer tells how packets come.
    pub(super) const fn start(&mut self) {
        self.state = self.testing();
    }

    const fn testing(&self) -> State {
        let ce_before = match self.reported {
            Some(marks) => marks.ce,
            None => 0,
        };
        State::Testing { acked: 0, ce_before }
    }

    /// How packets go out now. Changes only when something arrives or a timer fires.
    pub(super) const fn mark(&self) -> Ecn {
        match self.state {
            State::Testing { .. } | State::Capable => Ecn::Ect0,
            State::Off | State::Suspended | State::Failed => Ecn::NotEct,
        }
    }

    /// A packet went out with that mark.
    pub(super) const fn on_sent(&mut self, mark: Ecn) {
        match mark {
            Ecn::NotEct => self.unmarked_sent += 1,
            _ => self.marked_sent += 1,
        }
    }

    /// An acknowledgement came; `newest`: no later one did before. `marked` packets of this path that were sent
    /// with a mark are acknowledged by it for the first time.
    pub(super) fn on_ack(&mut self, marks: Option<Marks>, newest: bool, marked: u64) {
        if matches!(self.state, State::Off | State::Capable) && marks.is_none() {
            return;
        }
        let shrunk = marks.is_some_and(|marks| self.take_in(marks)) && newest;
        self.state = match self.state {
            State::Off | State::Failed => return,
            _ if shrunk || (marks.is_some() && self.is_mangled()) => State::Failed,
            State::Capable => return,
            State::Suspended => self.testing(),
            State::Testing { acked, ce_before } => match self.reported {
                // Who never had anything to tell never saw a mark.
                None if marked > 0 => State::Failed,
                None => return,
                Some(_) if acked + marked < TEST_PACKETS => {
                    State::Testing { acked: acked + marked, ce_before }
                }
                // A path that marks everything tells nothing.
                Some(reported) if reported.ce - ce_before >= acked + marked => State::Failed,
                Some(_) => State::Capable,
            },
        };
    }

    /// Keeps the largest counts; true if one is smaller than it was.
    fn take_in(&mut self, marks: Marks) -> bool {
        let known = self.reported.get_or_insert(marks);
        let shrunk = marks.not_ect < known.not_ect || marks.ect1 < known.ect1 || marks.ce < known.ce;
        known.not_ect = known.not_ect.max(marks.not_ect);
        known.ect1 = known.ect1.max(marks.ect1);
        known.ce = known.ce.max(marks.ce);
        shrunk
    }

    /// Whether what the peer says cannot be true of marks that arrive as they were sent or CE (RFC 9000 section 13.4.2.1).
    fn is_mangled(&self) -> bool {
        let Some(marks) = self.reported else { return false };
        marks.not_ect > self.unmarked_sent + self.not_ect_before
            || marks.ect1 > self.ect1_before
            || marks.ce > self.marked_sent
    }

    /// CE marks that the congestion controller has not heard of. Not before the test is over.
    pub(super) fn news(&mut self) -> u64 {
        let (State::Capable, Some(marks)) = (self.state, self.reported) else { return 0 };
        let news = marks.ce - self.answered;
        self.answered = marks.ce;
        news
    }

    /// The probe timeout expired for the `count`th time in a row.
    pub(super) fn on_pto(&mut self, count: u32) {
        if count == PTO_COUNT_MAX {
            self.state = match self.state {
                State::Capable => State::Suspended,
                State::Testing { .. } => State::Failed,
                other => other,
            };
        }
    }

    /// Packets go another way from now on.
    pub(super) fn on_new_path(&mut self) {
        if matches!(self.state, State::Off) {
            return;
        }
        if let Some(marks) = self.reported {
            self.not_ect_before = marks.not_ect.saturating_sub(self.unmarked_sent);
            self.ect1_before = marks.ect1;
            self.answered = marks.ce;
        }
        self.start();
    }

    pub(super) const fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }
}

/// The receiver's side: how packets came, and whether the peer knows.
#[derive(Debug, Default)]
pub(super) struct Seen {
    marks: Marks,
    /// Whether the last packet carried a mark.
    marked: bool,
    /// Goes up with everything that the peer should hear of; 0: no mark was ever seen.
    news: u64,
    /// The value of `news` that the peer has heard of.
    told: u64,
    /// The peer reads it.
    pub(super) wanted: bool,
}

impl Seen {
    /// A packet came.
    pub(super) const fn on_packet(&mut self, ecn: Ecn) {
        let news = match ecn {
            Ecn::Ect0 => {
                self.marked = true;
                self.news == 0
            }
            Ecn::NotEct => {
                self.marks.not_ect += 1;
                std::mem::replace(&mut self.marked, false)
            }
            Ecn::Ect1 => {
                self.marks.ect1 += 1;
                true
            }
            Ecn::Ce => {
                self.marks.ce += 1;
                self.marked = true;
                true
            }
        };
        if news {
            self.news += 1;
        }
    }

    /// What the next acknowledgement must say.
    pub(super) fn owed(&self) -> Option<Marks> {
        (self.wanted && self.news != self.told).then_some(self.marks)
    }

    /// Names what an acknowledgement that goes out now says.
    pub(super) const fn news(&self) -> u64 {
        self.news
    }

    /// The peer has the acknowledgement that said `news`.
    pub(super) fn on_confirmed(&mut self, news: u64) {
        self.told = self.told.max(news);
    }
}

/// Marked packets that must have arrived before marks are believed (RFC 9000 appendix A.4).
const TEST_PACKETS: u64 = 10;
/// Probe timeouts in a row after which the mark may be what the path does not like.
const PTO_COUNT_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that has sent twenty marked packets.
    fn marking() -> Marking {
        let mut marking = Marking::default();
        assert_eq!(marking.mark(), Ecn::NotEct, "nobody would tell");
        marking.start();
        (0..20).for_each(|_| marking.on_sent(marking.mark()));
        marking
    }

    fn marks(not_ect: u64, ect1: u64, ce: u64) -> Option<Marks> {
        Some(Marks { not_ect, ect1, ce })
    }

    #[test]
    fn marks_count_once_ten_packets_have_shown_that_the_path_leaves_them_alone() {
        let mut marking = marking();
        marking.on_ack(marks(0, 0, 2), true, 9);
        assert_eq!((marking.news(), marking.mark()), (0, Ecn::Ect0));
        marking.on_ack(None, true, 1);
        assert_eq!((marking.news(), marking.news()), (2, 0));
        marking.on_ack(marks(0, 0, 5), true, 1);
        // Overtaken by the one before.
        marking.on_ack(marks(0, 0, 3), false, 1);
        assert_eq!((marking.news(), marking.mark()), (3, Ecn::Ect0));
    }

    #[test]
    fn a_path_that_erases_marks_is_not_marked_on() {
        let mut at_once = marking();
        at_once.on_ack(None, true, 1);
        assert_eq!(at_once.mark(), Ecn::NotEct);
        let mut later = marking();
        later.on_ack(marks(0, 0, 0), true, 12);
        assert_eq!(later.mark(), Ecn::Ect0);
        later.on_ack(marks(1, 0, 0), true, 1);
        assert_eq!((later.mark(), later.has_failed()), (Ecn::NotEct, true));
    }

    #[test]
    fn what_was_sent_without_a_mark_may_come_without_one() {
        let mut marking = marking();
        marking.on_sent(Ecn::NotEct);
        marking.on_ack(marks(1, 0, 0), true, 12);
        assert_eq!(marking.mark(), Ecn::Ect0);
        marking.on_ack(marks(2, 0, 0), true, 0);
        assert_eq!(marking.mark(), Ecn::NotEct);
    }

    #[test]
    fn a_path_that_marks_everything_and_a_peer_that_lies_are_not_believed() {
        let mut all = marking();
        all.on_ack(marks(0, 0, 10), true, 10);
        assert_eq!((all.mark(), all.news()), (Ecn::NotEct, 0));
        for lie in [marks(0, 0, 21), marks(0, 1, 1), marks(0, 0, 0)] {
            let mut marking = marking();
            marking.on_ack(marks(0, 0, 1), true, 12);
            assert_eq!(marking.news(), 1);
            marking.on_ack(lie, true, 1);
            assert_eq!((marking.mark(), marking.news()), (Ecn::NotEct, 0), "{lie:?}");
        }
    }

    #[test]
    fn a_path_that_may_drop_marked_packets_is_asked_without_marks_and_tested_again() {
        let mut marking = marking();
        marking.on_ack(marks(0, 0, 0), true, 12);
        marking.on_pto(2);
        assert_eq!(marking.mark(), Ecn::Ect0);
        marking.on_pto(3);
        marking.on_pto(4);
        assert_eq!((marking.mark(), marking.has_failed()), (Ecn::NotEct, false));
        marking.on_sent(marking.mark());
        marking.on_ack(marks(1, 0, 0), true, 0);
        assert_eq!(marking.mark(), Ecn::Ect0);
        marking.on_pto(3);
        assert_eq!((marking.mark(), marking.has_failed()), (Ecn::NotEct, true));
    }

    #[test]
    fn another_path_is_tested_anew_and_not_blamed_for_the_one_before() {
        let mut marking = marking();
        marking.on_ack(marks(7, 2, 0), true, 12);
        assert_eq!(marking.mark(), Ecn::NotEct);
        marking.on_new_path();
        marking.on_ack(marks(7, 2, 1), true, 12);
        assert_eq!((marking.mark(), marking.news()), (Ecn::Ect0, 1));
        marking.on_ack(marks(8, 2, 1), true, 1);
        assert_eq!(marking.mark(), Ecn::NotEct);
    }

    #[test]
    fn what_was_marked_before_a_test_or_on_another_path_does_not_count_in_it() {
        let mut marking = marking();
        marking.on_ack(marks(0, 0, 15), true, 16);
        assert_eq!(marking.news(), 15);
        marking.on_pto(3);
        marking.on_ack(None, true, 0);
        assert_eq!(marking.mark(), Ecn::Ect0, "somebody is there: it is tested again");
        marking.on_ack(marks(0, 0, 15), true, 10);
        assert_eq!((marking.mark(), marking.news()), (Ecn::Ect0, 0));
        (0..3).for_each(|_| marking.on_sent(Ecn::NotEct));
        marking.on_ack(marks(7, 0, 16), true, 1);
        assert!(marking.has_failed(), "three of seven went out like that");
        marking.on_new_path();
        marking.on_ack(marks(7, 0, 16), true, 10);
        assert_eq!((marking.mark(), marking.news()), (Ecn::Ect0, 0), "the mark was of the other path");
        marking.on_ack(marks(8, 0, 16), true, 1);
        assert!(marking.has_failed(), "four, not seven, are forgiven");
    }

    #[test]
    fn a_count_that_shrinks_is_a_lie_unless_it_was_overtaken() {
        let mut marking = marking();
        (0..5).for_each(|_| marking.on_sent(Ecn::NotEct));
        marking.on_ack(marks(3, 0, 0), true, 12);
        marking.on_ack(marks(2, 0, 0), false, 1);
        assert!(!marking.has_failed());
        marking.on_ack(marks(2, 0, 0), true, 1);
        assert!(marking.has_failed());
        marking.on_new_path();
        marking.on_ack(marks(3, 1, 0), true, 12);
        marking.on_new_path();
        marking.on_ack(marks(3, 1, 0), true, 12);
        assert_eq!(marking.mark(), Ecn::Ect0);
        marking.on_ack(marks(3, 0, 0), true, 1);
        assert!(marking.has_failed());
    }

    #[test]
    fn a_path_that_marked_everything_and_then_erases_it_is_told_of() {
        let mut seen = Seen { wanted: true, ..Seen::default() };
        seen.on_packet(Ecn::Ce);
        seen.on_confirmed(seen.news());
        seen.on_packet(Ecn::NotEct);
        assert_eq!(seen.owed(), marks(1, 0, 1));
    }

    #[test]
    fn only_what_is_new_is_told_until_it_is_known_to_have_arrived() {
        let mut seen = Seen { wanted: true, ..Seen::default() };
        seen.on_packet(Ecn::NotEct);
        assert_eq!(seen.owed(), None, "who does not mark hears nothing");
        seen.on_packet(Ecn::Ect0);
        assert_eq!(seen.owed(), marks(1, 0, 0), "the first mark");
        let first = seen.news();
        seen.on_packet(Ecn::Ect0);
        seen.on_packet(Ecn::Ce);
        assert_eq!(seen.owed(), marks(1, 0, 1));
        seen.on_confirmed(first);
        assert!(seen.owed().is_some(), "the mark was not in it");
        seen.on_confirmed(seen.news());
        seen.on_confirmed(first);
        seen.on_packet(Ecn::Ect0);
        assert_eq!(seen.owed(), None);
        seen.on_packet(Ecn::NotEct);
        assert_eq!(seen.owed(), marks(2, 0, 1), "marks are erased since now");
        seen.on_confirmed(seen.news());
        seen.on_packet(Ecn::NotEct);
        assert_eq!(seen.owed(), None, "and still");
        seen.on_packet(Ecn::Ect1);
        assert_eq!(seen.owed(), marks(3, 1, 1));
    }
}
