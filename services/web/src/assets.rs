//! The page, built into the binary.

use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

/// One file of the page.
pub(crate) struct Asset {
    pub(crate) path: &'static str,
    content_type: &'static str,
    content: &'static str,
    etag: LazyLock<String>,
}

macro_rules! asset {
    ($path:literal, $content_type:literal, $file:literal) => {{
        const CONTENT: &str = include_str!(concat!("../ui/", $file));
        Asset {
            path: $path,
            content_type: $content_type,
            content: CONTENT,
            etag: LazyLock::new(|| etag(CONTENT)),
        }
    }};
}

/// All files of the page.
pub(crate) static ASSETS: [Asset; 4] = [
    asset!("/", "text/html; charset=utf-8", "index.html"),
    asset!("/style.css", "text/css; charset=utf-8", "style.css"),
    asset!("/app.js", "text/javascript; charset=utf-8", "app.js"),
    asset!("/icon.svg", "image/svg+xml", "icon.svg"),
];

fn etag(content: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
    let short: String = hex::encode(digest).chars().take(32).collect();
    format!("\"{short}\"")
}

impl Asset {
    /// The file, or "not modified" for who has it: after an update the page must not be a mixture
    /// of two versions, so browsers ask each time.
    pub(crate) fn answer(&self, request: &HeaderMap) -> Response {
        let etag = self.etag.as_str();
        let known = request
            .get(header::IF_NONE_MATCH)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag));
        let headers = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, "no-cache"),
            (header::ETAG, etag),
        ];
        if known {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, self.content).into_response()
        }
    }
}
