//! Options for opening the window.

use crate::story::{self, Story};
use std::path::PathBuf;

/// See the module.
#[derive(Debug, Default)]
pub struct Options {
    /// Run folders, or folders of runs, to open.
    pub runs: Vec<PathBuf>,
    /// A command line of a trainer to start, without the program, and its run folder.
    pub start: Option<(Vec<String>, PathBuf)>,
    /// A story to begin with.
    pub story: Option<PlayStory>,
    /// The folder of new runs.
    pub home: PathBuf,
}

/// A story to be played in the window.
#[derive(Debug)]
pub struct PlayStory {
    /// The story.
    pub story: Story,
    /// Its options.
    pub options: story::PlayerOptions,
    /// It continues by itself from scene to scene.
    pub automatic: bool,
}
