//! Floor 7: stories that train: the demo and the lessons. A story is data (`script.rs`), a player runs it (`player.rs`), a terminal or the
//! window tells it.

mod child;
mod facts;
mod formula;
mod library;
mod pace;
mod place;
mod player;
mod script;
mod text;

pub use facts::Outcome;
pub use library::{demo, lesson, lesson_names};
pub use pace::Progress;
pub use place::Where;
pub use player::{Options, Phase, Player};
pub use script::{Panel, Question, Said, Scene, Step, StepKind, Story, Table, Watch};
pub use text::{Block, Fact, Filled, blocks};
