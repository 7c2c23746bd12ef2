//! Protobuf as gRPC carries it, with buffers that begin small: thousands of streams stand idle, and each has two.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstEncoder};

/// What a buffer begins with, in bytes: a few small messages.
const BEGINS: usize = 1 << 10;
/// How much is encoded before it is handed on, in bytes.
const YIELD: usize = 8 << 10;

#[derive(Clone, Debug)]
pub struct Lean<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Lean<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Lean<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = LeanDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BEGINS, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        LeanDecoder { large: None, _message: PhantomData }
    }
}

/// Makes tonic give up a buffer that a large message made it grow.
#[derive(Debug)]
pub struct LeanDecoder<U> {
    /// A buffer that somebody else has too is not used again: the next message gets one of its own size, and then
    /// this one is let go.
    large: Option<Bytes>,
    _message: PhantomData<U>,
}

impl<U: Message + Default> Decoder for LeanDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        self.large = (message.len() > BEGINS).then(|| message.clone());
        U::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BEGINS, YIELD)
    }
}
