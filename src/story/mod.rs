//! Layer 7: stories that train: the demo and the lessons. A story is data (`script.rs`), a player runs it (`player.rs`), a terminal or the
//! window presents it; for the window the player has a separate thread (`host.rs`).

mod child;
mod compare;
mod experiment;
mod facts;
mod library;
mod location;
#[cfg(test)]
mod outcomes;
mod player;
mod player_thread;
mod script;
mod templates;
mod time_estimate;

pub use child::UNTUNED;
pub use compare::{Comparison, ComparisonVerdict, PairedDifference};
pub use experiment::{Course, Experiment, Response};
pub use facts::{Fact, StepOutcome};
pub use library::{demo, lesson, lesson_names, next_lesson};
pub use location::{StoryLocation, is_complete};
pub use player::{GuessReply, Player, PlayerOptions, StoryPhase};
pub use player_thread::{Host, SceneResult, StoryAction, StoryView};
pub use script::{
    ConditionalText, Panel, Parameter, StepKind, Story, StoryQuestion, StoryScene, StoryStep, StoryTable, WatchItem,
};
pub use templates::{FilledTable, TextBlock, blocks};
pub use time_estimate::StoryProgress;
