//! Answering requests: axum on a thread of its own, with bounds on what a request may take. `door.rs` bounds who is connected.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::{Watch, door, metrics};

/// No request has a body, and none takes longer than this.
const TIMEOUT: Duration = Duration::from_secs(10);

/// So much of a target's history is told as JSON, the newest; the metrics count all of it.
const HISTORY: usize = 400;

/// Why it cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such address, or somebody else has it.
    #[error("cannot listen for HTTP on {address}: {source}; name another address, or end what has it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread, or no events.
    #[error("cannot answer HTTP requests: {0}")]
    Start(#[from] io::Error),
}

/// A port that is listened on, until the process ends.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Where.
    pub address: SocketAddr,
}

/// Begins to answer on an address.
///
/// # Errors
/// It cannot be listened on.
pub fn serve(address: SocketAddr, watch: Arc<dyn Watch>) -> Result<Server, Error> {
    let listen = |source| Error::Listen { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    let router = router(watch, address.ip());
    std::thread::Builder::new().name("http".into()).spawn(move || {
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            door::let_in(&listener, &router).await;
            Ok::<(), io::Error>(())
        });
        if let Err(error) = served {
            tracing::error!("HTTP requests are not answered any more: {error}");
        }
    })?;
    Ok(Server { address })
}

fn router(watch: Arc<dyn Watch>, at: IpAddr) -> Router {
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", include_str!("../page/index.html")) }))
        .route("/page.css", get(|| async { file("text/css; charset=utf-8", include_str!("../page/page.css")) }))
        .route("/page.js", get(|| async { file("text/javascript; charset=utf-8", include_str!("../page/page.js")) }))
        .route("/status.json", get(status))
        .route("/metrics", get(numbers))
        .with_state(watch)
        .layer(from_fn_with_state(at, only_of_this_host))
        .layer(from_fn(closed_to_others))
        .layer(RequestBodyLimitLayer::new(0))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// Asks where nobody else waits for it.
async fn ask(watch: Arc<dyn Watch>) -> Result<crate::Snapshot, StatusCode> {
    let asked = tokio::task::spawn_blocking(move || watch.snapshot()).await;
    asked.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn status(State(watch): State<Arc<dyn Watch>>) -> Result<impl IntoResponse, StatusCode> {
    let mut snapshot = ask(watch).await?;
    for target in &mut snapshot.targets {
        target.history.drain(..target.history.len().saturating_sub(HISTORY));
    }
    Ok(axum::Json(snapshot))
}

async fn numbers(State(watch): State<Arc<dyn Watch>>) -> Result<impl IntoResponse, StatusCode> {
    let text = metrics(&ask(watch).await?).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

/// On a loopback address, a request for another host's name comes from a page that should not see this.
async fn only_of_this_host(State(at): State<IpAddr>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if at.is_loopback() && !is_loopback(host) {
        let words = "this port answers only to localhost, 127.0.0.1 and [::1]\n";
        return (StatusCode::FORBIDDEN, words).into_response();
    }
    next.run(request).await
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The page may load what comes from here, and nothing else; nobody may put it into a frame of theirs, or guess at types.
async fn closed_to_others(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let told: [(HeaderName, &str); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'self'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in told {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_this_one_are_known() {
        for host in ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:9000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.com", "localhost.example.com", "10.0.0.1", "[::2]", "127.0.0.1.example.com"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
