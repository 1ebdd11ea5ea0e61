//! What operations mean: a register, written down as a function from a state to the next one.

use bytes::Bytes;

use crate::history::{Action, Outcome, Shown};

/// One key by itself.
pub trait Model {
    /// What the key holds.
    type State: Clone + Ord;

    /// What the key holds before the first operation.
    fn initial(&self) -> Self::State;

    /// What the key holds after `action` took effect on `state`; `None` if its answer is impossible there. An action
    /// of unknown outcome takes effect: that it may also never do so is the checker's business.
    fn step(&self, state: &Self::State, action: &Action) -> Option<Self::State>;

    /// Whether `action`, wherever its answer is possible, leaves the state as it was.
    fn observes_only(&self, action: &Action) -> bool;

    /// The state as a person reads it.
    fn show(&self, state: &Self::State) -> String;
}

/// A register that is absent at first.
#[derive(Clone, Copy, Debug)]
pub struct Register;

impl Model for Register {
    type State = Option<Bytes>;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, action: &Action) -> Option<Self::State> {
        match action {
            Action::Get { outcome: Outcome::Ok(value) } => (value == state).then(|| state.clone()),
            Action::Put { value, outcome: Outcome::Ok(existed) } => {
                existed.is_none_or(|existed| existed == state.is_some()).then(|| Some(value.clone()))
            }
            Action::Put { value, outcome: Outcome::Info } => Some(Some(value.clone())),
            Action::Cas { expect, outcome: Outcome::Ok(false), .. } => {
                (expect != state).then(|| state.clone())
            }
            Action::Cas { expect, value, outcome: Outcome::Ok(true) | Outcome::Info } => {
                (expect == state).then(|| Some(value.clone()))
            }
            Action::Delete { outcome: Outcome::Ok(existed) } => {
                existed.is_none_or(|existed| existed == state.is_some()).then_some(None)
            }
            Action::Delete { outcome: Outcome::Info } => Some(None),
            Action::Append { value, outcome: Outcome::Ok(()) | Outcome::Info } => {
                let before = state.as_deref().unwrap_or_default();
                Some(Some([before, value].concat().into()))
            }
            Action::Get { outcome: Outcome::Fail | Outcome::Info }
            | Action::Put { outcome: Outcome::Fail, .. }
            | Action::Cas { outcome: Outcome::Fail, .. }
            | Action::Delete { outcome: Outcome::Fail }
            | Action::Append { outcome: Outcome::Fail, .. } => Some(state.clone()),
        }
    }

    fn observes_only(&self, action: &Action) -> bool {
        matches!(
            action,
            Action::Get { .. }
                | Action::Cas { outcome: Outcome::Ok(false), .. }
                | Action::Delete { outcome: Outcome::Ok(Some(false)) }
        )
    }

    fn show(&self, state: &Self::State) -> String {
        Shown(state.as_ref()).to_string()
    }
}

/// A text that is empty at first and may be appended to: an absent key reads as `""`.
#[derive(Clone, Copy, Debug)]
pub struct Text;

impl Model for Text {
    type State = Option<Bytes>;

    fn initial(&self) -> Self::State {
        Some(Bytes::new())
    }

    fn step(&self, state: &Self::State, action: &Action) -> Option<Self::State> {
        Register.step(state, action)
    }

    fn observes_only(&self, action: &Action) -> bool {
        Register.observes_only(action)
    }

    fn show(&self, state: &Self::State) -> String {
        Register.show(state)
    }
}
