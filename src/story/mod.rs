//! Layer 7: stories that train: the demo and the lessons. A story is data (`script.rs`), a player runs it (`player.rs`), a terminal or the
//! window presents it; for the window the player has a separate thread (`host.rs`).

mod child;
mod compare;
mod experiment;
mod facts;
mod host;
mod library;
#[cfg(test)]
mod outcomes;
mod place;
mod player;
mod script;
mod templates;
mod time_estimate;

pub use child::UNTUNED;
pub use compare::{Comparison, Difference, Verdict};
pub use experiment::{Course, Experiment, Response};
pub use facts::{Fact, Outcome};
pub use host::{Action, After, Host, Shown};
pub use library::{demo, lesson, lesson_names, next_lesson};
pub use place::{Where, is_complete};
pub use player::{Checked, Options, Phase, Player};
pub use script::{Panel, Parameter, Question, Said, Scene, Step, StepKind, Story, Table, Watch};
pub use templates::{Block, Filled, blocks};
pub use time_estimate::Progress;
