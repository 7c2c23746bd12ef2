//! The sidecar: carries an application's traffic in and out under mutual TLS.
