//! A stream from anybody, cut anywhere: the cuts make no difference, and a message that comes out can go in again.
#![no_main]

use cell::proto::message::{Message, MessageDecoder, MessageEncoder, MessageError};
use libfuzzer_sys::fuzz_target;

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Message, MessageError>> {
    let mut decoder = MessageDecoder::new();
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        events.extend(std::iter::from_fn(|| decoder.poll()));
    }
    events
}

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (size, stream) = input;
    let whole = decode(std::iter::once(stream.as_slice()));
    let cut = decode(stream.chunks(usize::from(size).max(1)));
    assert_eq!(whole, cut);
    let mut encoder = MessageEncoder::new();
    for message in whole.iter().flatten() {
        let json = encoder.encode(message).expect("it was short enough to come in").to_vec();
        let again = decode(json.chunks(7));
        assert!(matches!(&again[..], [Ok(_)]), "{message:?} does not come in again");
    }
});
