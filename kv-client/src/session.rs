//! The sessions of one client: where a write gets its (session, sequence) from.
//!
//! Writes of many tasks share a session. A second one is opened only when the first one's window is full: a write of
//! unknown outcome holds its floor back, and must stay resolvable.

use crate::api::Opened;
use crate::sequences::Sequences;
use crate::token::Token;

/// The sessions that one client holds at once. When all are full, the oldest that only unknown writes hold back is
/// left alone (it lives on at the servers, so that its tokens stay good); else writes wait.
pub(crate) const SESSIONS_MAX: usize = 8;

/// The sessions of one client.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Vec<Session>,
    /// The nonce of an open whose outcome is not known: repeated with the same one it answers the same session.
    nonce: Option<u128>,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    lifetime_ms: u64,
    /// When the servers are known to have seen it last, by this node's wall clock.
    used_ms: u64,
    sequences: Sequences,
}

/// Names a session for ever: ids are unique within a cluster only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId {
    pub(crate) cluster: u128,
    pub(crate) session: u64,
}

/// No session has room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Open another session.
    Open,
    /// There are as many as allowed: wait until a write is settled.
    Wait,
}

impl Sessions {
    /// A number for a write, from the first session that has room.
    pub(crate) fn reserve(&mut self) -> Result<(SessionId, u64), Full> {
        for session in &mut self.open {
            if let Some(sequence) = session.sequences.reserve() {
                return Ok((session.id, sequence));
            }
        }
        if self.open.len() < SESSIONS_MAX {
            return Err(Full::Open);
        }
        let held_back = self.open.iter().position(|session| session.sequences.is_held_back());
        self.open.remove(held_back.ok_or(Full::Wait)?);
        Err(Full::Open)
    }

    /// The nonce to open a session with.
    pub(crate) fn nonce(&mut self, draw: impl FnOnce() -> u128) -> u128 {
        *self.nonce.get_or_insert_with(draw)
    }

    /// A session was opened, `wall_ms` by this node's wall clock.
    pub(crate) fn add(&mut self, opened: &Opened, wall_ms: u64) {
        self.nonce = None;
        self.open.push(Session {
            id: SessionId { cluster: opened.cluster, session: opened.session },
            lifetime_ms: opened.lifetime_ms,
            used_ms: wall_ms,
            sequences: Sequences::new(),
        });
    }

    /// The session is gone at the servers.
    pub(crate) fn forget(&mut self, id: SessionId) {
        self.open.retain(|session| session.id != id);
    }

    /// The floor to send with a request of this session; 0 if it is not ours.
    pub(crate) fn floor(&self, id: SessionId) -> u64 {
        self.find(id).map_or(0, |session| session.sequences.floor())
    }

    /// The token of a write of this session.
    pub(crate) fn token(&self, id: SessionId, sequence: u64) -> Token {
        let expires_ms =
            self.find(id).map_or(0, |session| session.used_ms.saturating_add(session.lifetime_ms));
        Token { cluster: id.cluster, session: id.session, sequence, expires_ms }
    }

    /// See [`Sequences::settle`].
    pub(crate) fn settle(&mut self, id: SessionId, sequence: u64) {
        if let Some(session) = self.find_mut(id) {
            session.sequences.settle(sequence);
        }
    }

    /// The servers have seen the session, `wall_ms` by this node's wall clock.
    pub(crate) fn used(&mut self, id: SessionId, wall_ms: u64) {
        if let Some(session) = self.find_mut(id) {
            session.used_ms = wall_ms;
        }
    }

    /// See [`Sequences::give_up`].
    pub(crate) fn give_up(&mut self, id: SessionId, sequence: u64) {
        if let Some(session) = self.find_mut(id) {
            session.sequences.give_up(sequence);
        }
    }

    /// Takes out all sessions; those of which every write is settled, which may be closed.
    pub(crate) fn take_settled(&mut self) -> Vec<SessionId> {
        let sessions = std::mem::take(&mut self.open);
        let settled = sessions.into_iter().filter(|session| session.sequences.is_settled());
        settled.map(|session| session.id).collect()
    }

    fn find_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.open.iter_mut().find(|session| session.id == id)
    }

    fn find(&self, id: SessionId) -> Option<&Session> {
        self.open.iter().find(|session| session.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SEQUENCE_WINDOW;

    fn opened(session: u64) -> Opened {
        Opened { session, cluster: 1, lifetime_ms: 1_000, leader: None }
    }

    #[test]
    fn a_full_window_opens_another_session_and_at_last_waits() {
        let mut sessions = Sessions::default();
        for session in 1..=SESSIONS_MAX as u64 {
            assert_eq!(sessions.reserve(), Err(Full::Open));
            sessions.add(&opened(session), 0);
            for sequence in 1..=SEQUENCE_WINDOW {
                assert_eq!(sessions.reserve(), Ok((SessionId { cluster: 1, session }, sequence)));
            }
        }
        assert_eq!(sessions.reserve(), Err(Full::Wait));
        sessions.settle(SessionId { cluster: 1, session: 3 }, 1);
        assert_eq!(sessions.reserve().unwrap().0.session, 3);
    }

    #[test]
    fn a_session_held_back_by_an_unknown_write_makes_room_but_is_not_closed() {
        let mut sessions = Sessions::default();
        for session in 1..=SESSIONS_MAX as u64 {
            assert_eq!(sessions.reserve(), Err(Full::Open));
            sessions.add(&opened(session), 0);
            for sequence in 1..=SEQUENCE_WINDOW {
                let (id, _) = sessions.reserve().unwrap();
                if sequence == 1 { sessions.give_up(id, 1) } else { sessions.settle(id, sequence) }
            }
        }
        assert_eq!(sessions.reserve(), Err(Full::Open));
        sessions.add(&opened(99), 0);
        assert_eq!(sessions.reserve().unwrap().0.session, 99);
        sessions.settle(SessionId { cluster: 1, session: 99 }, 1);
        let settled = sessions.take_settled();
        assert_eq!(settled, [SessionId { cluster: 1, session: 99 }], "the others have unknown writes");
    }

    #[test]
    fn the_nonce_stays_until_a_session_is_open() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.nonce(|| 7), 7);
        assert_eq!(sessions.nonce(|| 8), 7);
        sessions.add(&opened(1), 0);
        assert_eq!(sessions.nonce(|| 9), 9);
    }

    #[test]
    fn a_token_expires_a_lifetime_after_the_last_use_that_is_certain() {
        let mut sessions = Sessions::default();
        sessions.add(&opened(5), 10_000);
        let (id, sequence) = sessions.reserve().unwrap();
        let token = Token { cluster: 1, session: 5, sequence: 1, expires_ms: 11_000 };
        assert_eq!(sessions.token(id, sequence), token);
        sessions.used(id, 10_500);
        assert_eq!(sessions.token(id, sequence), Token { expires_ms: 11_500, ..token });
    }
}
