//! What is answered to a request.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};

use super::Source;
use crate::health::{Health, View};

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

type Answer = Response<Full<Bytes>>;

/// hyper leaves the body away where the method is HEAD.
pub(super) fn answer(source: &Source, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/metrics" => {
            if let Some(node) = source.node.get() {
                node.publish();
            }
            source.metrics.run_upkeep();
            text(StatusCode::OK, METRICS, source.metrics.render())
        }
        "/health" => health(&source.node.get().map_or_else(Health::starting, View::health)),
        _ => text(StatusCode::NOT_FOUND, TEXT, "there are /metrics and /health\n".to_owned()),
    }
}

fn health(health: &Health) -> Answer {
    let status = if health.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = text(status, JSON, format!("{}\n", health.to_json()));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn text(status: StatusCode, kind: HeaderValue, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
