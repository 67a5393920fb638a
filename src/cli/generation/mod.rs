//! Commands that write text with a model.

pub(super) mod chat;
pub(super) mod chat_json;
pub(super) mod generate;
