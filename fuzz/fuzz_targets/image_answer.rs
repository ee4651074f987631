//! What an image server sends, without its TLS: an image is taken only with a hash, and a refusal is one bounded line without control characters.
#![no_main]

use cell::host::storage::assess_answer;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::Request;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncWriteExt;

fuzz_target!(|input: (u64, &[u8])| {
    let (size, answer) = input;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(ours)).await else {
            return;
        };
        let exchange = async {
            let Ok(response) = sender.send_request(Request::new(Empty::new())).await else { return };
            match assess_answer(response, size).await {
                Ok(hash) => assert!(hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.len() < 4096 && !text.contains('\n'), "{text:?}");
                }
            }
        };
        let serve = async {
            let _ = theirs.write_all(answer).await;
            let _ = theirs.shutdown().await;
            // What was asked is of no interest, but it must not block.
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        };
        tokio::select! {
            _ = async { tokio::join!(connection, exchange) } => {}
            () = async { serve.await; std::future::pending().await } => {}
        }
    });
});
