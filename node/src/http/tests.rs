//! The server against requests of all kinds, over loopback.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;

/// A server with metrics of its own: the process has only one recorder.
async fn server() -> (Http, metrics_exporter_prometheus::PrometheusRecorder) {
    server_with(HttpConfig::default()).await
}

async fn server_with(
    config: HttpConfig,
) -> (Http, metrics_exporter_prometheus::PrometheusRecorder) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (Http::serve(listener, addr, recorder.handle(), config), recorder)
}

/// What comes back for these bytes until the server closes.
async fn send(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // It may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer));
    let _ = read.await.expect("the server closes");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn answers_what_it_knows() {
    let (http, recorder) = server().await;
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!("quorate_test_total").increment(3);
    });
    let answer = send(http.addr(), b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\nquorate_test_total 3\n"), "{answer}");
    let answer = send(http.addr(), b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "405"),
        ("GET /health HTTP/1.0\r\n\r\n", "503"),
    ] {
        let answer = send(http.addr(), request.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}: {answer}");
    }
    assert!(send(http.addr(), b"GET /health HTTP/1.0\r\n\r\n").await.contains("starting"));
}

#[tokio::test]
async fn what_is_too_large_too_slow_or_no_http_is_closed() {
    let (http, _recorder) = server().await;
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(4 * MAX_HEAD));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(2 * MAX_HEADERS));
    for request in
        [long.as_bytes(), many.as_bytes(), b"\x16\x03\x01\x02\0 hello\r\n\r\n", b"\0\r\n\r\n"]
    {
        let answer = send(http.addr(), request).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(!send(http.addr(), b"GET /metr").await.contains(" 200 "), "an unfinished head");
}

#[tokio::test]
async fn idle_connections_make_room_again_in_the_time_that_is_set() {
    // Two at once, so that the others wait for their places.
    let config = HttpConfig { max_connections: 2, head_timeout_ms: 300, ..HttpConfig::default() };
    let (http, _recorder) = server_with(config).await;
    let begun = std::time::Instant::now();
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(http.addr()).await.unwrap());
    }
    let answer = send(http.addr(), b"GET /health HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("503"), "{answer}");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(500), "it did not wait for a place: {took:?}");
    assert!(took < Duration::from_millis(1_900), "places came free late: {took:?}");
}
