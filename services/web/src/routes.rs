//! Paths, methods, headers and errors.

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use crate::{access::Access, assets, status};

/// Sent with every answer.
///
/// No Strict-Transport-Security: with it a browser does not let its user past the warning of a
/// self-signed certificate, and a router whose certificate changed would be out of reach.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// All paths.
pub fn router(cache: status::Cache) -> Router {
    let access = cache.access();
    let mut router = Router::new().route("/api/v1/status", get(api_status));
    for asset in &assets::ASSETS {
        router = router.route(
            asset.path,
            get(move |request: Request| async move { asset.answer(request.headers()) }),
        );
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(cache)
        .layer(from_fn_with_state(access, only_its_names))
        .layer(from_fn(secure))
}

async fn api_status(State(cache): State<status::Cache>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, cache.json().await).into_response()
}

async fn not_found(uri: Uri) -> Response {
    error(&uri, StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn method_not_allowed(uri: Uri) -> Response {
    let mut answer = error(
        &uri,
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET and HEAD are allowed: this interface is read-only",
    );
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

/// JSON for programs, text for people.
fn error(uri: &Uri, status: StatusCode, message: &str) -> Response {
    let answer = if uri.path() == "/api" || uri.path().starts_with("/api/") {
        Json(json!({ "status": status.as_u16(), "error": message })).into_response()
    } else {
        format!("{message}\n").into_response()
    };
    (status, [(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

/// Answers requests for this router only: see [`Access::is_called`]. What names nobody comes from no
/// browser.
async fn only_its_names(State(access): State<Access>, request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter();
    let mut named = hosts
        .map(|host| host.to_str().unwrap_or_default())
        .chain(request.uri().authority().map(|authority| authority.as_str()));
    if named.all(|authority| access.is_called(authority)) {
        return next.run(request).await;
    }
    let message = format!(
        "this is a router with another name: it answers to its addresses and to {}",
        access.names().join(", ")
    );
    error(request.uri(), StatusCode::MISDIRECTED_REQUEST, &message)
}

async fn secure(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
