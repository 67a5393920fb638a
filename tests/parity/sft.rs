//! Fine-tuning: templates against transformers, tokens and labels and one whole step against TRL, masks by hand, rows that are refused,
//! runs that are killed. The references are made by tests/golden/chat.py and tests/golden/sft.py.

mod hostile;
mod masks;
mod parity;
mod rows;
mod runs;
mod templates;
