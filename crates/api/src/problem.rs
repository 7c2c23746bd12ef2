//! Problems: what every error looks like, whose fault it is, and what to do.
//!
//! One constructor per reaction. `detail` is for the caller; what only the log may know never gets here.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use model::Origin;
use serde::Serialize;

use crate::shapes::{Choice, InvalidParameter, Problem};

pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Problem {
    pub fn new(status: StatusCode, sort: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            sort: format!("/problems/{sort}").into(),
            title: title.into(),
            status: status.as_u16(),
            detail: detail.into().into(),
            invalid_parameters: Vec::new(),
            choices: Box::default(),
            owner: None,
        }
    }

    /// A document with mistakes, all of them.
    pub fn invalid_document(invalid_parameters: Vec<InvalidParameter>) -> Self {
        let detail = match invalid_parameters.as_slice() {
            [one] => format!("{}: {}", one.field, one.reason),
            many => format!("the document has {} mistakes", many.len()),
        };
        let problem =
            Self::new(StatusCode::BAD_REQUEST, "invalid-document", "The document is not valid", detail);
        Self { invalid_parameters, ..problem }
    }

    /// A request that cannot be understood: a query parameter, a path, a body that is no document.
    pub fn invalid_request(field: &str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let problem = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-request",
            "The request is not valid",
            format!("{field}: {reason}"),
        );
        Self { invalid_parameters: vec![InvalidParameter::new(field, reason)], ..problem }
    }

    pub fn unauthenticated(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Not authenticated", detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// The document is written elsewhere, and this is a copy.
    pub fn owned_elsewhere(owner: Origin, detail: impl Into<String>) -> Self {
        let problem =
            Self::new(StatusCode::FORBIDDEN, "owned-elsewhere", "The document is owned elsewhere", detail);
        Self { owner: Some(owner), ..problem }
    }

    /// The kind is never written here.
    pub fn written_elsewhere(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "written-elsewhere", "This kind is written elsewhere", detail)
    }

    /// A question that another control plane answers.
    pub fn not_answered_here(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "not-answered-here", "Not answered here", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict", detail)
    }

    /// A name that stands for several documents.
    pub fn ambiguous(detail: impl Into<String>, choices: Vec<Choice>) -> Self {
        let problem = Self::new(StatusCode::CONFLICT, "ambiguous", "The name is ambiguous", detail);
        Self { choices: choices.into(), ..problem }
    }

    pub fn gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", "Gone", detail)
    }

    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", "Changed since", detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", "Too many at a time", detail)
    }

    /// Our fault. The cause goes to the log, not here.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong here",
            "the cause stands in the log of the control plane",
        )
    }

    /// Nothing was written, and nothing can be until there is space.
    pub fn storage_full(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage-full", "The disk is full", detail)
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
    }
}

impl InvalidParameter {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into(), line: None, column: None, choices: Vec::new() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self);
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tombolo\""));
        }
        response
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => {
            (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot write an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
