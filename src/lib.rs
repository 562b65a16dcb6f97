//! x
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod login;
pub mod oauth;
pub mod outbound;
pub mod private_file;
pub mod proxy;
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tokens;
