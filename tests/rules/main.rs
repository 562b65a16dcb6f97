//! What is written is true: documents, the shape of the source, the rules and the tests that show
//! them.

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod docs;
mod documented_tables;
mod files;
mod report;
mod rules;
