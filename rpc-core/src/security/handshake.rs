//! One handshake, seen from one side: Noise messages in and out, packet secrets at the end.

use std::fmt;

use snow::{Builder, HandshakeState};

use super::packet_key::{Secret, Secrets};
use super::{Identity, Mode, PublicKey, Security};

/// A message cannot be read: another key, another prologue, damage, or forgery. Which one cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeError;

impl From<snow::Error> for HandshakeError {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// What both sides must have seen alike before the first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prologue(Vec<u8>);

impl Prologue {
    /// Of an INIT: the version and the id in its header, and the versions that its sender speaks.
    pub(crate) fn new(version: u32, scid: u64, versions: &[u32]) -> Self {
        let mut bytes = b"rpc-core".to_vec();
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&scid.to_be_bytes());
        bytes.push(versions.len() as u8);
        versions.iter().for_each(|version| bytes.extend_from_slice(&version.to_be_bytes()));
        Self(bytes)
    }
}

/// A handshake in progress.
pub(crate) struct Handshake {
    /// None in the insecure mode, whose messages are their payloads.
    noise: Option<Box<HandshakeState>>,
    initiator: bool,
    identity: Identity,
}

impl Handshake {
    /// The side that writes the first message. `ephemeral` must be random and never used again.
    pub(crate) fn initiate(
        security: &Security,
        prologue: &Prologue,
        ephemeral: [u8; 32],
    ) -> Result<Self, HandshakeError> {
        Self::new(security, prologue, ephemeral, true)
    }

    /// The side that reads the first message. `ephemeral` must be random and never used again.
    pub(crate) fn accept(
        security: &Security,
        prologue: &Prologue,
        ephemeral: [u8; 32],
    ) -> Result<Self, HandshakeError> {
        Self::new(security, prologue, ephemeral, false)
    }

    fn new(
        security: &Security,
        prologue: &Prologue,
        ephemeral: [u8; 32],
        initiator: bool,
    ) -> Result<Self, HandshakeError> {
        let builder = |name: &str| -> Result<Builder<'_>, HandshakeError> {
            let params = name.parse().map_err(|_| HandshakeError)?;
            Ok(Builder::with_resolver(params, Box::new(super::resolver::Resolver { ephemeral })))
        };
        let (builder, identity) = match &security.mode {
            Mode::Insecure => (None, Identity::None),
            Mode::SharedKey(shared) => (Some(builder(NNPSK0)?.psk(0, shared.bytes())?), Identity::SharedKey),
            Mode::NodeKeys { shared, own, .. } => {
                let builder = builder(XXPSK3)?.psk(3, shared.bytes())?.local_private_key(own.bytes())?;
                // Known when the message with the static key was read.
                (Some(builder), Identity::None)
            }
        };
        let noise = match builder {
            None => None,
            Some(builder) => {
                let builder = builder.prologue(&prologue.0)?;
                let state = if initiator { builder.build_initiator()? } else { builder.build_responder()? };
                Some(Box::new(state))
            }
        };
        Ok(Self { noise, initiator, identity })
    }

    /// The next message of this side.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let Some(noise) = &mut self.noise else { return Ok(payload.to_vec()) };
        let mut message = vec![0; payload.len() + OVERHEAD_MAX];
        let size = noise.write_message(payload, &mut message)?;
        message.truncate(size);
        Ok(message)
    }

    /// The payload of the next message of the other side.
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let Some(noise) = &mut self.noise else { return Ok(message.to_vec()) };
        let mut payload = vec![0; message.len()];
        let size = noise.read_message(message, &mut payload)?;
        payload.truncate(size);
        if let Some(key) = noise.get_remote_static().and_then(|key| key.first_chunk()) {
            self.identity = Identity::Node(PublicKey(*key));
        }
        Ok(payload)
    }

    /// What the other side has proved, as far as the handshake went. Proved only when the handshake is complete.
    pub(crate) const fn identity(&self) -> Identity {
        self.identity
    }

    /// The secrets of the packets; none in the insecure mode, and none before the last message.
    pub(crate) fn secrets(&mut self) -> Option<Secrets> {
        let noise = self.noise.as_mut().filter(|noise| noise.is_handshake_finished())?;
        let hash = noise.get_handshake_hash().to_vec();
        let (k1, k2) = noise.dangerously_get_raw_split();
        let (of_initiator, of_acceptor) = (Secret::first(&hash, &k1), Secret::first(&hash, &k2));
        Some(if self.initiator {
            Secrets { send: of_initiator, receive: of_acceptor }
        } else {
            Secrets { send: of_acceptor, receive: of_initiator }
        })
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The accepting side between the second message and the third.
///
/// A third message that cannot be read may leave a Noise state half advanced, so the state is made again from what it
/// was made of: a forged third message must not spoil the real one.
pub(crate) struct Pending {
    handshake: Handshake,
    inputs: Inputs,
}

struct Inputs {
    security: Security,
    prologue: Prologue,
    ephemeral: [u8; 32],
    first: Vec<u8>,
    payload: Vec<u8>,
}

impl Pending {
    /// The handshake that read `first` and wrote a second message with `payload`; that message.
    pub(crate) fn new(
        security: &Security,
        prologue: &Prologue,
        ephemeral: [u8; 32],
        first: &[u8],
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let inputs = Inputs {
            security: security.clone(),
            prologue: prologue.clone(),
            ephemeral,
            first: first.to_vec(),
            payload: payload.to_vec(),
        };
        let (handshake, second) = inputs.handshake()?;
        Ok((Self { handshake, inputs }, second))
    }

    /// The payload of the third message, and the handshake, which is complete.
    pub(crate) fn complete(&mut self, third: &[u8]) -> Result<(Vec<u8>, &mut Handshake), HandshakeError> {
        match self.handshake.read(third) {
            Ok(payload) => Ok((payload, &mut self.handshake)),
            Err(error) => {
                self.handshake = self.inputs.handshake()?.0;
                Err(error)
            }
        }
    }
}

impl Inputs {
    fn handshake(&self) -> Result<(Handshake, Vec<u8>), HandshakeError> {
        let mut handshake = Handshake::accept(&self.security, &self.prologue, self.ephemeral)?;
        handshake.read(&self.first)?;
        let second = handshake.write(&self.payload)?;
        Ok((handshake, second))
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

const NNPSK0: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
const XXPSK3: &str = "Noise_XXpsk3_25519_AESGCM_SHA256";
/// The most that a message adds to its payload: two public keys, two tags.
const OVERHEAD_MAX: usize = 2 * 32 + 2 * 16;
